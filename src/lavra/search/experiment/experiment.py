"""The retrieval experiment: does expansion help this collection? BM25 on documents against BM25 on expanded ones."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.progress import say
from lavra.core.units import counted
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.retrieval import MEASURES, Qrels, RetrievalScores
from lavra.evaluation.significance import Comparison, compare_with_baseline
from lavra.search.experiment.dense import Vectors, evaluate_dense
from lavra.search.experiment.retrieval import JudgedQuery, Latency, evaluate, judged_queries, measure_latency
from lavra.search.experiment.tune import Tuning, tune
from lavra.search.index.fields import TermShares
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings

PRIMARY = "MRR@10"
"""The measure by which k1 and b are tuned and the table's p-values are given."""

SHARES = (0.1, 0.3, 0.5, 0.7)
"""Shares of the generated queries that are tried when the queries have scores."""

BASELINE = "documents"


@dataclass(frozen=True)
class System:
    """One way to index the same documents and generated queries.

    Attributes:
        name: for the table.
        changes: what differs from the settings of the index.
    """

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class SystemResult:
    """What was measured on one system.

    Attributes:
        system: which.
        settings: with which it was measured; None for what does not search by terms alone.
        scores: every measure of every query.
        estimates: the means with their intervals over queries.
        latency: of the ten best documents.
        bytes: size of its postings.
        shares: new and copied terms of the generated queries that it indexes.
        tuning: how k1, b and the weight of queries were found, if they were.
    """

    system: System
    settings: IndexSettings | None
    scores: RetrievalScores
    estimates: dict[str, Estimate]
    latency: Latency
    bytes: int
    shares: TermShares
    tuning: Tuning | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; measures by their usual names."""
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
    """The whole experiment.

    Attributes:
        collection: its name.
        split: of the judgements.
        documents: number searched.
        queries: texts of the judged queries, by id.
        systems: the baseline first.
        comparisons: each other system against the baseline, on each measure.
        warnings: to be read with the numbers.
        ceiling: means with the human questions in place of generated ones, when it was measured.
        expansion: how the generated queries were made, as far as the file beside them says.
    """

    collection: str
    split: str
    documents: int
    queries: dict[str, str]
    systems: list[SystemResult]
    comparisons: list[Comparison]
    warnings: list[str] = field(default_factory=list)
    ceiling: RetrievalScores | None = None
    expansion: dict[str, Any] | None = None

    def comparison(self, system: str, measure: str = PRIMARY) -> Comparison | None:
        """Return the comparison of a system on a measure; None for the baseline."""
        return next((one for one in self.comparisons if (one.system, one.measure) == (system, measure)), None)

    def gain_share(self, system: str, measure: str = PRIMARY) -> float | None:
        """Return the system's gain over the baseline as a share of the ceiling's gain; None when there is none."""
        found = self.comparison(system, measure)
        if self.ceiling is None or found is None:
            return None
        room = self.ceiling.means()[measure] - self.systems[0].estimates[measure].value
        return found.difference.value / room if room > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with everything but the per-query values."""
        return {
            "collection": self.collection,
            "split": self.split,
            "documents": self.documents,
            "queries": len(self.queries),
            "systems": [one.to_json() for one in self.systems],
            "comparisons": [one.to_json() for one in self.comparisons],
            "ceiling": self.ceiling.means() if self.ceiling else None,
            "expansion": self.expansion,
            "gain_shares": {one.system.name: self.gain_share(one.system.name) for one in self.systems[1:]},
            "warnings": self.warnings,
        }


def systems_for(index: Index, shares: Sequence[float] = SHARES) -> list[System]:
    """Return the systems that make sense for an index: the baseline alone when it has no generated queries.

    Filtered ones are tried when every query has a score.
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
    vectors: Vectors | None = None,
    seed: int = 0,
) -> ExperimentResult:
    """Measure each system on the same judged queries and compare it with the baseline.

    Args:
        index: of documents with their generated queries; it is not changed.
        queries: id -> text.
        qrels: judgements to report on.
        folder: for the systems' postings, about the index's size each; removing it afterwards is the caller's matter.
        collection: name for the report.
        split: likewise.
        systems: what to compare, the baseline first; by default `systems_for(index)`.
        validation: judgements on which k1, b and the weight of queries are tuned, for each system; without it all use
            the index's.
        measures: must include "MRR@10" and "Judged@10".
        vectors: of the index's documents; adds searching by them, and fused with BM25.
        seed: of the intervals and tests.

    Raises:
        InputError: if queries, judgements and index do not belong together.
    """
    judged = judged_queries(index, queries, qrels)
    tuning_queries = judged_queries(index, queries, validation) if validation else None
    results = []
    for number, system in enumerate(systems or systems_for(index)):
        say(f"measuring: {system.name}")
        results.append(_measure(index, system, judged, tuning_queries, folder / f"system-{number}", measures, seed))
    if vectors is not None:
        results += _measure_dense(index, vectors, judged, results[:2], folder, measures, seed)
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
    generation = index.variant(folder, **vars(settings))
    scores = evaluate(generation, judged, measures)
    return SystemResult(
        system=system,
        settings=settings,
        scores=scores,
        estimates=scores.estimates(seed=seed),
        latency=measure_latency(index, generation, judged),
        bytes=generation.postings.bytes,
        shares=generation.shares if settings.fields != "doc" else TermShares(),
        tuning=tuning,
    )


def _measure_dense(
    index: Index,
    vectors: Vectors,
    judged: Sequence[JudgedQuery],
    lexical: Sequence[SystemResult],
    folder: Path,
    measures: Sequence[str],
    seed: int,
) -> list[SystemResult]:
    """Measure searching by vectors, alone and fused with the documents' and the expanded documents' BM25."""
    say("measuring: dense")
    generations = {
        one.system.name: index.variant(folder / f"fused-{number}", **vars(one.settings))
        for number, one in enumerate(lexical)
    }
    found = evaluate_dense(index, generations, vectors, judged, measures)
    return [
        SystemResult(
            system=System(name, {}),
            settings=None,
            scores=scores,
            estimates=scores.estimates(seed=seed),
            latency=latency,
            bytes=vectors.bytes + next((one.bytes for one in lexical if name.startswith(f"{one.system.name}, ")), 0),
            shares=TermShares(),
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
