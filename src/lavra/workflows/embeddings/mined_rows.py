"""Mined pairs and negatives as rows to train on: groups for an encoder, with a teacher's margins, or pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lavra.config.mining import MineConfig
from lavra.search.expansion.cache import ExpansionCache
from lavra.workflows.embeddings.mine_report import MineReport
from lavra.workflows.embeddings.mining import Pair
from lavra.workflows.embeddings.pair_scores import open_teacher, teacher_scores

INCONSISTENT = "queries whose own passage was not among the first that were found for them"
"""Why a query is left out."""

UNKNOWN_MARGIN = "negatives of which the teacher's score is no number"
"""Why a text that was found is no negative."""

Found = tuple[Pair, list[str]]
"""A pair with its negatives."""


def consistent(found: Iterable[tuple[Pair, list[str], float]], most: int, report: MineReport) -> list[Found]:
    """Return the pairs whose passage was among the first that were found for the query, with their negatives.

    Args:
        found: Pairs, their negatives, and the rank of their passage among what was found for the query.
        most: Largest rank that is kept; 0 keeps all.
        report: Counts what is left out.
    """
    kept = []
    for pair, negatives, rank in found:
        if most and rank > most:
            report.queries_left_out[INCONSISTENT] += 1
        else:
            kept.append((pair, negatives))
    return kept


def rows_to_train(
    found: Sequence[Found],
    config: MineConfig,
    names: tuple[str, str],
    cache: ExpansionCache,
    between: Callable[[], None],
    report: MineReport,
) -> Iterator[dict[str, Any]]:
    """Yield the rows to train on, as `lavra train` reads them, and count them.

    Args:
        found: Pairs with their negatives.
        config: The request.
        names: Names of the two columns of the pairs.
        cache: The cache of scores.
        between: Is called between blocks of work; it may raise an error to stop.
        report: Counts what is written, and what is left out.
    """
    scores: Mapping[tuple[str, str], float] | None = None
    if config.teacher:
        texts = [(pair.query, text) for pair, negatives in found for text in (pair.passage, *negatives)]
        scores = teacher_scores(open_teacher(config.teacher, config.device), texts, cache, between)
        found = [(pair, _scored(pair, negatives, scores, report)) for pair, negatives in found]
        margins = [scores[p.query, p.passage] - scores[p.query, text] for p, negatives in found for text in negatives]
        if margins:
            report.count_margins(margins)
    for pair, negatives in found:
        report.queries += 1
        report.negatives += len(negatives)
        report.without += not negatives
        yield from _rows_of(pair, negatives, config.rows == "pairs", names, scores)


def _rows_of(
    pair: Pair,
    negatives: Sequence[str],
    as_pairs: bool,
    names: tuple[str, str],
    scores: Mapping[tuple[str, str], float] | None,
) -> Iterator[dict[str, Any]]:
    query, passage = pair.query, pair.passage
    if as_pairs:
        for text in (passage, *negatives):
            known: dict[str, Any] = {"label": "relevant" if text == passage else "other"}
            if scores is not None:
                known = {"score": scores[query, text]}
                if not math.isfinite(known["score"]):
                    continue
            # The rows of a query are on one side of the split, and in one fold.
            yield {"text1": query, "text2": text, **known, "group": query}
    elif scores is None:
        yield {names[0]: query, names[1]: passage, "negatives": list(negatives), **pair.fields}
    else:
        for text in negatives:
            margin = scores[query, passage] - scores[query, text]
            yield {"query": query, "positive": passage, "negative": text, "margin": margin}


def _scored(pair: Pair, negatives: list[str], scores: Mapping[tuple[str, str], float], report: MineReport) -> list[str]:
    """Return the negatives whose margin is known."""
    own = scores[pair.query, pair.passage]
    kept = [text for text in negatives if math.isfinite(own - scores[pair.query, text])]
    if len(kept) < len(negatives):
        report.left_out[UNKNOWN_MARGIN] += len(negatives) - len(kept)
    return kept
