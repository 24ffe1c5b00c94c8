"""Comparison of runs: differences of requests and plans, the results, and whether they differ significantly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.evaluation.document_losses import LossComparison, compare_losses, why_not_comparable
from lavra.evaluation.intervals import FEWEST_DOCUMENTS
from lavra.evaluation.labels.metrics import METRICS
from lavra.evaluation.significance import holm
from lavra.reports.labels.comparison import LabelComparison, compare_labels, headline_metric
from lavra.reports.run_evidence import flattened
from lavra.reports.run_files import RunFiles, read_run
from lavra.reports.run_overview import is_linear

LEVEL = 0.05
"""Significance level: differences with a corrected p-value below it are called more than chance."""

FIGURES = (
    *dict.fromkeys(name for names in METRICS.values() for name in names),
    *("bits_per_byte", "loss", "perplexity", "bits_per_word", "parameters", "tokens", "step"),
    *("tokens_per_second", "seconds", "peak_bytes", "skipped_steps"),
)
"""Figures that are compared, by their names in `result.json`."""

_OF_THE_FOLDER = ("out", "force")  # settings of the output folder, which always differ
_MEASURED = ("probe.", "forecast.")  # prefixes of values of the plan that were measured on the machine at that time
_FOLLOWS = (
    *("checkpoint_every", "validate_every", "evaluation_tokens", "flops_per_token", "epochs", "tokens", "steps"),
    *("parameters", "context", "budget_seconds"),
)
"""Values of the plan that follow from other settings or are among the figures; their differences are not listed."""

_SIZES = ("documents", "examples", "tokens", "bytes")


@dataclass(frozen=True)
class Setting:
    """Setting in which the runs differ.

    Attributes:
        name: Dotted name, as in `config.toml` or `plan.json`, or of a property of the data or the machine.
        values: Value in each run; None if it is not given, which means the default.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Verdict:
    """Comparison of one run with the baseline, which is the first run.

    Attributes:
        run: Name of the run.
        comparison: Comparison over the documents that both were measured on, or for runs that predict labels over the
            rows that both predicted; None if they cannot be compared.
        p_holm: P-value with Holm's correction for the number of runs (Holm 1979); None if it cannot be computed.
        reason: Why the runs cannot be compared, or why a difference cannot be tested; empty otherwise.
    """

    run: str
    comparison: LossComparison | LabelComparison | None
    p_holm: float | None
    reason: str

    @property
    def more_than_chance(self) -> bool | None:
        """Whether the difference is statistically significant; None if it could not be tested."""
        return None if self.p_holm is None or self.reason else self.p_holm < LEVEL

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        values = {} if self.comparison is None else self.comparison.to_json()
        told = {"more_than_chance": self.more_than_chance, "reason": self.reason or None}
        return {"run": self.run, **values, "p_holm": self.p_holm, **told}


@dataclass(frozen=True)
class RunComparison:
    """Comparison of two runs or more.

    Attributes:
        runs: Records of the runs, the baseline first.
        names: Names of the runs: the names of their folders if these differ, otherwise the paths.
        asked: Settings of the requests that differ.
        decided: Settings of the plans that differ.
        surroundings: Properties of data, tokenizer, machine and versions that differ.
        figures: Value of each figure in each run, by name; None if it is not known.
        verdicts: Comparison of every run but the first with the first, in bits per byte or in a metric of labels.
        notes: Caveats, a sentence each.
    """

    runs: tuple[RunFiles, ...]
    names: tuple[str, ...]
    asked: tuple[Setting, ...]
    decided: tuple[Setting, ...]
    surroundings: tuple[Setting, ...]
    figures: Mapping[str, tuple[Any, ...]]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def metric(self) -> str:
        """What the runs are compared in: the first metric of the labels of the baseline, or `bits_per_byte`."""
        labels = self.runs[0].labels
        return "bits_per_byte" if labels is None else headline_metric(labels)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        groups = {"asked": self.asked, "decided": self.decided, "surroundings": self.surroundings}
        return {
            "runs": [
                {"run": str(run.path), "name": name, "status": run.status}
                | {key: one[number] for key, one in self.figures.items()}
                for number, (run, name) in enumerate(zip(self.runs, self.names, strict=True))
            ],
            "differs": {
                title: {one.name: dict(zip(self.names, one.values, strict=True)) for one in group}
                for title, group in groups.items()
            },
            "baseline": self.names[0],
            f"{self.metric}_against_the_baseline": [verdict.to_json() for verdict in self.verdicts],
            "notes": list(self.notes),
        }


def compare_runs(folders: Sequence[RunFolder]) -> RunComparison:
    """Read runs and compare them.

    Args:
        folders: Run folders; the first is the baseline.

    Raises:
        InputError: if there are fewer than two runs, or a run is given twice.
    """
    if len(folders) < 2:
        raise InputError("a comparison needs two runs or more", "lavra compare runs/one runs/other")
    resolved = [folder.path.resolve() for folder in folders]
    twice = next((path for number, path in enumerate(resolved) if path in resolved[:number]), None)
    if twice is not None:
        raise InputError(f"{twice} is given twice", "name each run once")
    runs = tuple(read_run(folder) for folder in folders)
    distinct = len({run.name for run in runs}) == len(runs)
    names = tuple(run.name if distinct else str(run.path) for run in runs)
    return RunComparison(
        runs=runs,
        names=names,
        asked=_differing([run.config for run in runs], _OF_THE_FOLDER),
        decided=_decided(runs),
        surroundings=_differing([_surroundings(run) for run in runs]),
        figures=_figures(runs),
        verdicts=_verdicts(runs, names),
        notes=tuple(_notes(runs)),
    )


def _differing(tables: Sequence[dict[str, Any]], without: Sequence[str] = ()) -> tuple[Setting, ...]:
    """Return the settings in which nested mappings differ, in the order in which they first occur."""
    flat = [dict(flattened(table)) for table in tables]
    names = dict.fromkeys(name for table in flat for name in table)
    found = [Setting(name, tuple(table.get(name) for table in flat)) for name in names]
    return tuple(
        one
        for one in found
        if any(value != one.values[0] for value in one.values)
        and one.name not in without
        and not one.name.startswith(_MEASURED)
    )


def _decided(runs: Sequence[RunFiles]) -> tuple[Setting, ...]:
    """Return what differs in the plans; of a linear model, which has no steps, only what both kinds of plans have."""
    if not all(run.plan for run in runs):
        return ()
    found = _differing([run.plan for run in runs], _FOLLOWS)
    if not any(map(is_linear, runs)):
        return found
    return tuple(one for one in found if None not in one.values or one.name.startswith("model."))


def _surroundings(run: RunFiles) -> dict[str, Any]:
    """Return sizes and fingerprints of the data and the machine of a run, as far as they are known."""
    split = run.data.get("split") or {}
    machine = run.machines[-1] if run.machines else {}
    told = {
        name: machine.get(name) for name in ("processor", "cores", "device", "system", "versions") if name in machine
    }
    text = {} if run.losses is None else {"validation_text": run.losses.text[:8], "tokenizer": run.losses.tokenizer[:8]}
    sides = {"train": "trained_on", "validation": "validation"}
    return {
        **{
            name: {size: split[side][size] for size in _SIZES if size in split[side]}
            for side, name in sides.items()
            if side in split
        },
        "fingerprint": text,
        "machine": told,
    }


def _figures(runs: Sequence[RunFiles]) -> dict[str, tuple[Any, ...]]:
    """Return the figures of each run by name.

    Losses are final ones only, since validations during a run use less text.
    """
    found = {}
    for name in FIGURES:
        values = tuple(run.result.get(name) if run.result else _so_far(run, name) for run in runs)
        if any(value is not None for value in values):
            found[name] = values
    return found


def _so_far(run: RunFiles, name: str) -> Any:
    """Return a figure of an unfinished run, if it is known already."""
    if name == "parameters":
        return run.plan.get(name)
    return run.training[-1].get(name) if run.training and name in ("tokens", "step", "tokens_per_second") else None


def _verdicts(runs: Sequence[RunFiles], names: Sequence[str]) -> tuple[Verdict, ...]:
    compared = [_compared(runs[0], run) for run in runs[1:]]
    reasons = [one if isinstance(one, str) else "" for one in compared]
    found = [None if isinstance(one, str) else one for one in compared]
    chances = iter(holm([one.p_randomisation for one in found if one is not None and one.enough]))
    verdicts = []
    for name, one, reason in zip(names[1:], found, reasons, strict=True):
        if one is not None and not one.enough:
            of_rows = isinstance(one, LabelComparison)
            reason = (
                f"too few {'rows' if of_rows else 'documents'} in common to tell from chance: "
                f"{one.paired.rows if of_rows else one.documents}, {FEWEST_DOCUMENTS} at least"
            )
        known = one is not None and one.enough
        verdicts.append(Verdict(name, one, next(chances) if known else None, reason))
    return tuple(verdicts)


def _compared(baseline: RunFiles, run: RunFiles) -> LossComparison | LabelComparison | str:
    """Return the comparison of a run with the baseline, or why there is none."""
    if baseline.labels is not None and run.labels is not None:
        return compare_labels(baseline.labels, run.labels)
    if (baseline.labels is None) != (run.labels is None):
        one, other = (baseline, run) if baseline.labels is None else (run, baseline)
        why = "has no predictions of labels" if one.result else f"is {one.status}, not finished"
        return f"{one.name} {why}, and {other.name} has"
    reason = _incomparable(baseline, run)
    if reason or baseline.losses is None or run.losses is None:
        return reason
    return compare_losses(baseline.losses, run.losses)


def _incomparable(baseline: RunFiles, run: RunFiles) -> str:
    """Return why a run cannot be compared with the baseline by document; an empty string if it can."""
    if _another_text(baseline, run):
        return "they were measured on different validation text"
    for one in (baseline, run):
        if one.losses is None:
            why = "its losses by document were not recorded" if one.result else f"it is {one.status}, not finished"
            if one.result and not one.measured_on_documents:
                task = one.plan.get("task")
                why = f"its task, {task}, is measured on sequences of examples and not on documents"
            return f"{one.name}: {why}"
    assert baseline.losses is not None
    assert run.losses is not None
    return why_not_comparable(baseline.losses, run.losses) or ""


def _another_text(one: RunFiles, other: RunFiles) -> bool:
    """Return whether two runs are known to have different validation texts, by fingerprints or by sizes in bytes."""
    if one.losses is not None and other.losses is not None:
        return one.losses.text != other.losses.text
    sizes = [((run.data.get("split") or {}).get("validation") or {}).get("bytes") for run in (one, other)]
    return None not in sizes and sizes[0] != sizes[1]


def _notes(runs: Sequence[RunFiles]) -> list[str]:
    notes = []
    unknown = [run.name for run in runs if run.labels is not None and run.labels.texts is None]
    if unknown:
        notes.append(f"the texts are not known of {', '.join(unknown)}, so that rows are matched by their ids alone")
    known = [run.losses for run in runs if run.losses is not None]
    if len({losses.tokenizer for losses in known}) > 1:
        notes.append(
            "the tokenizers differ: loss and perplexity are per token and do not compare; bits per byte and per word do"
        )
    if any(_another_text(runs[0], run) for run in runs[1:]):
        notes.append("the validation texts differ, so the figures of different runs do not compare")
    elif len({tuple(losses.numbers.tolist()) for losses in known}) > 1:
        notes.append(
            "the runs were measured on different parts of the validation text; differences refer to what they share"
        )
    unfinished = [run.name for run in runs if not run.result]
    if unfinished:
        notes.append(f"not finished, so without final figures: {', '.join(unfinished)}")
    return notes
