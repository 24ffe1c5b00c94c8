"""Running what is not in the record yet: probes, trainings, scoring, and the lines that they leave."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import _results
from bench.peers.jobs import Failed, Job, Shape, Side, Timeline, Variant, run, score
from bench.peers.ours import Lavra
from bench.peers.runs import found, punctual
from bench.peers.scoring import bits_per_byte
from bench.peers.text import Text

from lavra.core.disk.json_lines import JsonLines
from lavra.core.progress import log
from lavra.core.units import show_duration

PROBE_STEPS = 8
"""Steps of a peer's probe, `--budget` of lavra's in seconds, and seconds after which a process is taken to hang."""
OURS_PROBE = 8.0
LIMIT = 900.0

PROBE_SECONDS = 75.0
"""What is told beforehand about how long it all takes: a probe; scoring, in tokens a second after some seconds."""
SCORED_PER_SECOND = 8000.0
SCORING_STARTS = 8.0

AIM = 0.99
"""Share of a budget that a run is planned to take."""

COMPILING_PAYS = 90.0
"""Budgets below are not worth the probe of a compiled variant: compiling takes most of them."""

LEAST_STEPS = 4
"""A peer's run of fewer steps, or a lavra run of fewer seconds, is not worth making."""
LEAST_SECONDS = 3.0

SAME_SIZE = 0.05
"""By how much the parameters of the blocks may differ."""


@dataclass(frozen=True)
class Entry:
    """A side that takes part, and the variants that it may choose from."""

    side: Side
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        fixed = f":{self.variants[0]}" if len(self.variants) == 1 and len(self.side.variants) > 1 else ""
        return self.side.name + fixed


class Bench:
    """Runs what is not in the record yet."""

    def __init__(self, options: argparse.Namespace, text: Text, folder: Path, record: JsonLines) -> None:
        self.options, self.text, self.folder, self.record = options, text, folder, record
        self.shape = Shape(options.depth, options.width, options.context, options.rows, text.vocabulary)
        self.records = record.read()
        self.machine = _results.machine()
        self.versions: dict[str, dict[str, str | None]] = {}
        self.done: set[str] = set()

    def settings(self, side: Side) -> dict[str, Any]:
        """Return what makes two trainings of a side comparable, whatever their budget."""
        if side.name not in self.versions:
            self.versions[side.name] = side.versions()
        rate = None if isinstance(side, Lavra) else self.options.learning_rate
        return {
            "side": side.name,
            "text": self.text.fingerprint,
            "shape": asdict(self.shape),
            "learning_rate": rate,
            "machine": [self.machine["processor"], self.machine["cores"], self.machine["gpu"]],
            "versions": self.versions[side.name],
        }

    def key(self, entry: Entry, budget: float, seed: int) -> dict[str, Any]:
        """Return the settings of one run."""
        return {**self.settings(entry.side), "variants": _names(entry.variants), "budget": budget, "seed": seed}

    def recorded(self, entry: Entry, budget: float, seed: int) -> bool:
        """Say whether a run is in the record, and shall not be repeated; a rung of the ladder need not be punctual."""
        key = self.key(entry, budget, seed)
        runs = [run for run in found(self.records, "run", key) if punctual(run) or budget not in self.options.budgets]
        return bool(runs) and not (self.options.again and _text(key) not in self.done)

    def expected_seconds(self, runs: list[tuple[Entry, float, int]]) -> float:
        """Return about how long the runs that are not recorded take, with probes and scoring."""
        waiting = [(entry, budget) for entry, budget, seed in runs if not self.recorded(entry, budget, seed)]
        probes = {(entry.side.name, variant) for entry, _ in waiting for variant in self.unknown(entry)}
        around = self.text.tokens / SCORED_PER_SECOND + SCORING_STARTS
        return sum(budget + around for _, budget in waiting) + len(probes) * PROBE_SECONDS

    def unknown(self, entry: Entry) -> list[Variant]:
        """Return the variants of which no timeline is known."""
        return [variant for variant in self._eligible(entry) if not self._seen(entry.side, variant)]

    def probe(self, entry: Entry) -> None:
        """Measure how fast a side starts and steps, for every variant that is unknown."""
        ours = isinstance(entry.side, Lavra)
        for variant in self.unknown(entry):
            job = self._job(variant, 0 if ours else PROBE_STEPS, OURS_PROBE if ours else 0.0, self.options.seed)
            try:
                timeline, _ = self._train(entry.side, job)
                outcome: dict[str, Any] = {"timeline": asdict(timeline), "given": job.seconds}
                line = f"first step after {timeline.first:.1f} s, then {timeline.step:.2f} s each"
                line = f"{timeline.first:.1f} s before its budget begins" if ours else line
            except (Failed, ValueError) as error:
                outcome = {"failed": str(error)[-2000:]}
                line = f"failed, and is left out until its line in {self.record.path} is removed: {error}"
            finally:
                shutil.rmtree(job.out, ignore_errors=True)
            self._append("probe", {**self.settings(entry.side), "variant": str(variant)}, outcome)
            log(f"  probe of {entry.side.name} {variant}: {line}")

    def measure(self, entry: Entry, budget: float, seed: int) -> None:
        """Train one side for one budget, score it and write it down; a side that cannot take a step is left out."""
        job = self._planned(entry, budget, seed)
        if job is None:
            log(f"  {entry.name} in {show_duration(budget)}: too short to take steps and save a model")
            return
        try:
            timeline, tokens = self._train(entry.side, job)
            scored = score(entry.side.score(job))
        finally:
            shutil.rmtree(job.out, ignore_errors=True)
        self._check_size(entry, scored["block_parameters"])
        value = bits_per_byte(scored["nats"], self.text.bytes)
        outcome = {
            "variant": str(job.variant),
            "bits_per_byte": value,
            "nats": scored["nats"],
            "nats_per_token": scored["nats"] / self.text.tokens,
            "block_parameters": scored["block_parameters"],
            "seconds": timeline.seconds,
            "steps": timeline.steps,
            "tokens": tokens,
            "given": job.seconds,
            "timeline": asdict(timeline),
            "text": asdict(self.text),
        }
        key = self.key(entry, budget, seed)
        self.done.add(_text(key))
        self._append("run", {**key, "variant": str(job.variant)}, outcome)
        log(
            f"  {entry.name} ({job.variant}), {show_duration(budget)}: {value:.4f} bits per byte after "
            f"{timeline.seconds:.1f} s, {timeline.steps} steps, {tokens:,} tokens"
        )

    def _planned(self, entry: Entry, budget: float, seed: int) -> Job | None:
        """Return the job that ends with the budget: the variant that takes most steps in it, by what was seen."""
        if isinstance(entry.side, Lavra):
            outcome = self._seen(entry.side, entry.variants[0])
            if outcome is None or "failed" in outcome:
                raise Failed("lavra's probe failed; see above")
            seconds = Lavra.budget_for(AIM * budget, outcome["given"], Timeline(**outcome["timeline"]))
            return self._job(entry.variants[0], 0, seconds, seed) if seconds >= LEAST_SECONDS else None
        steps = {variant: self._steps(entry.side, variant, budget) for variant in self._eligible(entry)}
        best = max(steps, key=lambda variant: steps[variant])
        return self._job(best, steps[best], 0.0, seed) if steps[best] >= LEAST_STEPS else None

    def _steps(self, side: Side, variant: Variant, budget: float) -> int:
        outcome = self._seen(side, variant)
        if outcome is None or "failed" in outcome:
            return 0
        return Timeline(**outcome["timeline"]).steps_within(AIM * budget)

    def _seen(self, side: Side, variant: Variant) -> dict[str, Any] | None:
        """Return the most telling record of a variant: the latest run of its longest budget, or else its probe."""
        key = {**self.settings(side), "variant": str(variant)}
        if "revision" in key["versions"]:  # how lavra starts does not change with every commit
            key.pop("versions")
        outcomes = found(self.records, "run", key) or found(self.records, "probe", key)
        return max(reversed(outcomes), key=lambda one: one["settings"].get("budget", 0.0), default=None)

    def _eligible(self, entry: Entry) -> tuple[Variant, ...]:
        if len(entry.variants) == 1 or max(self.options.budgets) >= COMPILING_PAYS:
            return entry.variants
        return tuple(variant for variant in entry.variants if not variant.compiled)

    def _job(self, variant: Variant, steps: int, seconds: float, seed: int) -> Job:
        out = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        return Job(self.shape, variant, steps, seconds, self.options.learning_rate, self.folder, out, seed)

    def _train(self, side: Side, job: Job) -> tuple[Timeline, int]:
        command = side.train(job)
        watched = run(command, job.steps, LIMIT + 2 * max(self.options.budgets))
        if isinstance(side, Lavra):
            return side.timeline(job, watched)
        timeline = Timeline.of(watched)
        if timeline.steps != job.steps:
            raise Failed(f"{side.name} took {timeline.steps} steps of {job.steps}")
        return timeline, job.steps * self.shape.batch_tokens

    def _check_size(self, entry: Entry, parameters: int) -> None:
        if abs(parameters / self.shape.block_parameters - 1) > SAME_SIZE:
            raise Failed(f"{entry.name}'s blocks have {parameters:,} parameters, not {self.shape.block_parameters:,}")

    def _append(self, kind: str, settings: dict[str, Any], outcome: dict[str, Any]) -> None:
        record = {**_results.circumstances(), "kind": kind, "settings": settings, **outcome}
        self.record.append(record)
        self.records = self.record.read()


def _names(variants: tuple[Variant, ...]) -> str:
    return ",".join(map(str, variants))


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
