"""What is scored: which generated queries are kept, and the term counts of each unit (document or chunk)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.search.index.manifest import Fields
from lavra.search.index.segments import Segment
from lavra.text.term_counts import Whole, ranges


@dataclass(slots=True)
class TermShares:
    """How much of the generated queries is new to their documents.

    Attributes:
        copied: Number of term occurrences in generated queries whose term is in the text of the document too.
        new: Number of term occurrences in generated queries whose term is not in the text.
        queries: Number of generated queries that were counted.

    Examples:
        >>> TermShares(copied=3.0, new=1.0, queries=2).new_share
        0.25
    """

    copied: float = 0.0
    new: float = 0.0
    queries: int = 0

    @property
    def new_share(self) -> float:
        """Share of new term occurrences, from 0 to 1; 0 without queries."""
        return self.new / (self.copied + self.new) if self.copied + self.new else 0.0


@dataclass(frozen=True, slots=True)
class UnitCounts:
    """Term counts of consecutive units, which are documents or chunks of them.

    Attributes:
        units: (units,) number of different terms in each unit.
        terms: (entries,) int32 term numbers, unit after unit.
        counts: (entries,) float32 count of each term; occurrences in generated queries may be weighted.
    """

    units: Whole
    terms: NDArray[np.int32]
    counts: NDArray[np.float32]


def unit_counts(
    segment: Segment,
    rows: Whole,
    fields: Fields,
    *,
    query_weight: float = 1.0,
    kept: NDArray[np.bool_] | None = None,
    shares: TermShares | None = None,
) -> UnitCounts:
    """Return the term counts of the units of some rows of a segment.

    Args:
        segment: The segment.
        rows: (rows,) numbers of the rows, in the order wanted.
        fields: What is counted: the text, the generated queries, or both.
        query_weight: Weight of an occurrence in a generated query; one in the text has weight 1.
        kept: (queries of the segment,) whether each generated query counts; all count if None.
        shares: The shares of new terms, to which those of these rows are added; None for not counting them.
    """
    units = ranges(segment.units[rows], segment.units[rows + 1])
    lengths, terms, counts = segment.body.entries(units)
    if fields == "doc" and shares is None:
        return UnitCounts(lengths, terms, counts.astype(np.float32))
    first, last = segment.queries[units], segment.queries[units + 1]
    queries = ranges(first, last)
    owners = np.repeat(np.arange(len(units)), last - first)
    if kept is not None:
        queries, owners = queries[kept[queries]], owners[kept[queries]]
    query_lengths, query_terms, query_counts = segment.query_counts.entries(queries)
    unit = np.concatenate([np.repeat(np.arange(len(units)), lengths), np.repeat(owners, query_lengths)])
    merged = _merged(unit, np.concatenate([terms, query_terms]), np.concatenate([counts, query_counts]), len(terms))
    if shares is not None:
        _add_shares(shares, merged, len(queries))
    return _chosen(merged, fields, query_weight, len(units))


@dataclass(frozen=True, slots=True)
class _Merged:
    """For each pair of unit and term the occurrences in the body and in the queries; entries of a unit are adjacent."""

    unit: Whole
    term: NDArray[np.int32]
    body: NDArray[np.float64]
    queries: NDArray[np.float64]


def _merged(unit: Whole, term: NDArray[np.int32], count: NDArray[np.int32], body_entries: int) -> _Merged:
    if not len(unit):
        empty = np.zeros(0)
        return _Merged(unit, term, empty, empty)
    key = unit * (int(term.max()) + 1) + term
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    from_body = order < body_entries
    ordered = count[order].astype(np.float64)
    return _Merged(
        unit[order][first],
        term[order][first],
        np.add.reduceat(ordered * from_body, first),
        np.add.reduceat(ordered * ~from_body, first),
    )


def _chosen(merged: _Merged, fields: Fields, query_weight: float, units: int) -> UnitCounts:
    weighted = query_weight * merged.queries
    counts = {
        "doc": merged.body,
        "doc+queries": merged.body + weighted,
        "queries": weighted,
        "doc+new-terms": np.where(merged.body > 0, merged.body, weighted),
    }[fields]
    there = counts > 0
    return UnitCounts(
        np.bincount(merged.unit[there], minlength=units), merged.term[there], counts[there].astype(np.float32)
    )


def _add_shares(shares: TermShares, merged: _Merged, queries: int) -> None:
    known = merged.body > 0
    shares.copied += float(merged.queries[known].sum())
    shares.new += float(merged.queries[~known].sum())
    shares.queries += queries


def best_share(scores: NDArray[np.float32], share: float) -> NDArray[np.bool_]:
    """Choose the share of the generated queries with the highest scores (Gospodinov et al., "Doc2Query--", ECIR 2023).

    It is a share and not a threshold, because thresholds differ between scoring models and between languages.

    Args:
        scores: (queries,) scores over the whole collection; higher is better.
        share: The share to keep, above 0 and at most 1.

    Returns:
        (queries,) True for exactly `round(share * queries)` of them; of equal scores the earlier ones are kept.

    Raises:
        InputError: If a query has no score (NaN) and the share is below 1.

    Examples:
        >>> best_share(np.array([0.1, 0.9, 0.5, 0.2], dtype=np.float32), 0.5).tolist()
        [False, True, True, False]
    """
    if share >= 1:
        return np.ones(len(scores), dtype=np.bool_)
    missing = int(np.isnan(scores).sum())
    if missing:
        raise InputError(
            f"{missing:,} of {len(scores):,} generated queries have no score, so the best cannot be chosen",
            "score the expansions first, or keep all of them",
        )
    wanted = round(share * len(scores))
    kept = np.zeros(len(scores), dtype=np.bool_)
    if wanted:
        threshold = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
        kept = scores > threshold
        ties = np.flatnonzero(scores == threshold)
        kept[ties[: wanted - int(kept.sum())]] = True
    return kept


def choose_queries(
    scores: NDArray[np.float32], repeats: NDArray[np.bool_], *, share: float = 1.0, drop_repeats: bool = False
) -> NDArray[np.bool_]:
    """Choose the generated queries to index.

    Args:
        scores: (queries,) relevance scores, which matter only for a share below 1.
        repeats: (queries,) whether each query repeats another query of its document or copies its text.
        share: The share of the remaining queries to keep, the best ones.
        drop_repeats: Whether repeats are left out before that.

    Returns:
        (queries,) whether each query is indexed.

    Raises:
        InputError: If a query has no score (NaN) and the share is below 1.
    """
    kept = ~repeats if drop_repeats else np.ones(len(scores), dtype=np.bool_)
    kept[kept] = best_share(scores[kept], share)
    return kept
