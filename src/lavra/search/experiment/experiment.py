"""The retrieval experiment: BM25 on documents against BM25 on expanded documents, on the same judged queries."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.progress import log
from lavra.core.units import counted
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.retrieval import MEASURES, Qrels, RetrievalScores
from lavra.evaluation.significance import Comparison, compare_with_baseline
from lavra.search.experiment.dense import Beside, FusionTuning, evaluate_searchers, searchers_beside
from lavra.search.experiment.retrieval import JudgedQuery, Latency, evaluate, judged_queries, measure_latency
from lavra.search.experiment.tune import Tuning, tune
from lavra.search.index.fields import TermShares
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings

PRIMARY = "MRR@10"
"""The measure by which k1 and b are tuned, and for which the table gives p-values."""

SHARES = (0.1, 0.3, 0.5, 0.7)
"""Shares of the generated queries, the best by score, that are measured where the queries have scores."""

BASELINE = "documents"
"""Name of the baseline: documents without generated queries."""


@dataclass(frozen=True)
class System:
    """One way to index the same documents and generated queries.

    Attributes:
        name: The name in the table.
        changes: The settings that differ from those of the index.
    """

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class SystemResult:
    """The measures of one system.

    Attributes:
        system: The system.
        settings: The settings with which it was measured; None for a system that does not search by terms alone.
        scores: Every measure of every query.
        estimates: The mean of each measure, with its bootstrap interval over queries.
        latency: The time that the ten best documents of a query take.
        bytes: Size of the postings in bytes.
        shares: New and copied terms of the generated queries that the system indexes.
        tuning: How k1, b and the weight of queries, or the weight of the vectors, were tuned; None where they were
            not.
    """

    system: System
    settings: IndexSettings | None
    scores: RetrievalScores
    estimates: dict[str, Estimate]
    latency: Latency
    bytes: int
    shares: TermShares
    tuning: Tuning | FusionTuning | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the measures by their usual names."""
        return {
            "system": self.system.name,
            "settings": self.settings.to_json() if self.settings else None,
            **{name: estimate.to_json() for name, estimate in self.estimates.items()},
            "unanswered": self.scores.unanswered,
            "latency_ms": self.latency.to_json(),
            "index_bytes": self.bytes,
            "generated_queries": self.shares.queries,
            "new_term_share": self.shares.new_share,
            "tuning": self.tuning.to_json() if self.tuning else None,
        }


@dataclass
class ExperimentResult:
    """The results of an experiment.

    Attributes:
        collection: The name of the collection.
        split: The split of the judgements.
        documents: Number of documents that were searched.
        queries: The text of each judged query by its id.
        systems: The results of each system, the baseline first.
        comparisons: The comparison of each other system with the baseline, on each measure.
        warnings: Warnings about the numbers.
        oracle: The scores of the oracle, with the questions of people in place of generated queries; None where it was
            not measured.
        expansion: The record of how the queries were generated; None where it is not known.
    """

    collection: str
    split: str
    documents: int
    queries: dict[str, str]
    systems: list[SystemResult]
    comparisons: list[Comparison]
    warnings: list[str] = field(default_factory=list)
    oracle: RetrievalScores | None = None
    expansion: dict[str, Any] | None = None

    def comparison(self, system: str, measure: str = PRIMARY) -> Comparison | None:
        """Return the comparison of a system with the baseline on a measure; None for the baseline itself."""
        return next((one for one in self.comparisons if (one.system, one.measure) == (system, measure)), None)

    def gain_share(self, system: str, measure: str = PRIMARY) -> float | None:
        """Return the gain of a system over the baseline as a share of the oracle's gain; None where that has none."""
        found = self.comparison(system, measure)
        if self.oracle is None or found is None:
            return None
        room = self.oracle.means()[measure] - self.systems[0].estimates[measure].value
        return found.difference.value / room if room > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values: everything except the values of single queries."""
        return {
            "collection": self.collection,
            "split": self.split,
            "documents": self.documents,
            "queries": len(self.queries),
            "systems": [one.to_json() for one in self.systems],
            "comparisons": [one.to_json() for one in self.comparisons],
            "oracle": self.oracle.means() if self.oracle else None,
            "expansion": self.expansion,
            "gain_shares": {one.system.name: self.gain_share(one.system.name) for one in self.systems[1:]},
            "warnings": self.warnings,
        }


def systems_for(index: Index, shares: Sequence[float] = SHARES) -> list[System]:
    """Return the systems to measure for an index.

    Args:
        index: The index of documents with their generated queries.
        shares: The shares of the generated queries to measure where every query has a score.

    Returns:
        The baseline, and the systems with generated queries where the index has some.
    """
    everything = {"fields": "doc+queries", "keep_queries": 1.0, "drop_repeats": False}
    systems = [System(BASELINE, {"fields": "doc"})]
    queries, scored = index.generated_queries
    if not queries:
        return systems
    systems += [
        System("documents + queries", everything),
        System("queries only", {**everything, "fields": "queries"}),
        System("documents + new terms", {**everything, "fields": "doc+new-terms"}),
        System("documents + queries, no repeats", {**everything, "drop_repeats": True}),
    ]
    if scored:
        systems += [
            System(f"documents + best {share:.0%} of queries", {**everything, "keep_queries": share})
            for share in shares
        ]
    return systems


def run_experiment(
    index: Index,
    queries: Mapping[str, str],
    qrels: Qrels,
    folder: Path,
    *,
    collection: str = "",
    split: str = "",
    systems: Sequence[System] | None = None,
    validation: Qrels | None = None,
    measures: Sequence[str] = MEASURES,
    beside: Beside | None = None,
    seed: int = 0,
) -> ExperimentResult:
    """Measure each system on the same judged queries, and compare it with the baseline.

    Differences are tested by paired randomisation tests over queries (Smucker et al., CIKM 2007), with p-values
    corrected by Holm's method for the number of systems.

    Args:
        index: The index of documents with their generated queries, which is not changed.
        queries: The text of each query by its id.
        qrels: The relevance judgements to report on.
        folder: The folder for the postings of the systems, each about as large as those of the index; the caller
            removes it.
        collection: The name of the collection, for the report.
        split: The name of the split, for the report.
        systems: The systems to compare, the baseline first; `systems_for(index)` if None.
        validation: Judgements on which k1, b and the weight of queries are tuned, for each system; if None, all systems
            use the values of the index.
        measures: The names of the measures, which must include "MRR@10" and "Judged@10".
        beside: What is measured beside BM25: search by the vectors of the index, its fusion with BM25, a reranker; None
            for nothing.
        seed: Seed of the intervals and tests.

    Returns:
        The results.

    Raises:
        InputError: If queries, judgements and index do not belong together.
    """
    judged = judged_queries(index, queries, qrels)
    tuning_queries = judged_queries(index, queries, validation) if validation else None
    results = []
    for number, system in enumerate(systems or systems_for(index)):
        log(f"measuring: {system.name}")
        results.append(_measure(index, system, judged, tuning_queries, folder / f"system-{number}", measures, seed))
    if beside is not None:
        results += _measure_beside(index, beside, judged, tuning_queries, results[:2], folder, measures, seed)
    others = {one.system.name: one.scores for one in results[1:]}
    result = ExperimentResult(
        collection=collection,
        split=split,
        documents=len(index),
        queries={query.id: query.text for query in judged},
        systems=results,
        comparisons=compare_with_baseline(results[0].scores, others, seed=seed),
    )
    result.warnings += _warnings(result, len(qrels) - len(judged), [query.id for query in judged if not query.terms])
    return result


def _measure(
    index: Index,
    system: System,
    judged: Sequence[JudgedQuery],
    tuning_queries: Sequence[JudgedQuery] | None,
    folder: Path,
    measures: Sequence[str],
    seed: int,
) -> SystemResult:
    settings = dataclasses.replace(index.settings, **system.changes)
    tuning = None
    if tuning_queries:
        loose = folder.with_name(f"{folder.name}-tuning")
        tuning = tune(index, tuning_queries, loose, changes=system.changes, measure=PRIMARY, seed=seed)
        settings = dataclasses.replace(settings, **tuning.changes)
        shutil.rmtree(loose)
    snapshot = index.variant(folder, **vars(settings))
    scores = evaluate(snapshot, judged, measures)
    return SystemResult(
        system=system,
        settings=settings,
        scores=scores,
        estimates=scores.estimates(seed=seed),
        latency=measure_latency(index, snapshot, judged),
        bytes=snapshot.postings.bytes,
        shares=snapshot.shares if settings.fields != "doc" else TermShares(),
        tuning=tuning,
    )


def _measure_beside(
    index: Index,
    beside: Beside,
    judged: Sequence[JudgedQuery],
    tuning_queries: Sequence[JudgedQuery] | None,
    lexical: Sequence[SystemResult],
    folder: Path,
    measures: Sequence[str],
    seed: int,
) -> list[SystemResult]:
    """Measure search by vectors, alone and fused with BM25 on documents and on expanded documents, and reranking."""
    snapshots = {
        one.system.name: index.variant(folder / f"beside-{number}", **vars(one.settings))
        for number, one in enumerate(lexical)
    }
    systems = searchers_beside(index, beside, snapshots, tuning_queries, measure=PRIMARY, seed=seed)
    log(f"measuring: {'; '.join(systems)}")
    searchers = {name: searcher for name, (searcher, _) in systems.items()}
    found = evaluate_searchers(searchers, beside.encoder, judged, measures)
    vectors = index.vectors.bytes if index.vectors is not None else 0
    postings = {one.system.name: one.bytes for one in lexical}
    return [
        SystemResult(
            system=System(name, {}),
            settings=None,
            scores=scores,
            estimates=scores.estimates(seed=seed),
            latency=latency,
            bytes=(0 if searchers[name].mode == "lexical" else vectors) + postings.get(name.partition(", ")[0], 0),
            shares=TermShares(),
            tuning=systems[name][1],
        )
        for name, (scores, latency) in found.items()
    ]


def _warnings(result: ExperimentResult, without_text: int, without_terms: list[str]) -> list[str]:
    warnings = []
    if without_text:
        verbs = "has no text and was" if without_text == 1 else "have no text and were"
        warnings.append(f"warning: {counted(without_text, 'judged query', 'judged queries')} {verbs} left out")
    if without_terms:
        shown = ", ".join(without_terms[:5]) + (", …" if len(without_terms) > 5 else "")
        count = counted(len(without_terms), "judged query", "judged queries")
        have, counts = ("has", "counts") if len(without_terms) == 1 else ("have", "count")
        warnings.append(
            f"warning: {count} {have} no word that is indexed (function words alone, or words of no document) and "
            f"{counts} as 0: {shown}"
        )
    fallen = [one for one in result.comparisons if one.measure == "Judged@10" and one.p_randomisation < 0.05]
    return warnings + [
        f"warning: Judged@10 of {one.system!r} is {-one.difference.value:.3f} below that of the baseline: this system "
        "finds documents that nobody judged, which count as wrong, so its measures may be too low"
        for one in fallen
        if one.difference.value < -0.005
    ]
