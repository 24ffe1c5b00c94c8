"""The record of a run, read from its folder; missing and damaged parts are reported and the rest is still read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lavra.core.disk.files import read_json
from lavra.core.disk.json_lines import JsonLines
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.run_shapes import CHECKS, CONFIG, DATA, MACHINE, METRICS, PLAN, RESULT, SAMPLE, STABILITY, WORDS
from lavra.core.disk.shapes import Misfits, Shape, fitting
from lavra.core.errors import LavraError
from lavra.evaluation.document_losses import DOCUMENT_LOSSES, DocumentLosses
from lavra.evaluation.labels.predictions_file import PREDICTIONS
from lavra.reports.labels.record import LabelRecord, read_labels

Found = TypeVar("Found")

_MOST_FAULTS = 5
"""Number of problems of one file that are listed; more are only counted."""


@dataclass(frozen=True)
class RunFiles:
    """Record of a run.

    Attributes:
        path: Folder of the run.
        status: `running`, `finished` or `interrupted`.
        config: Request, from `config.toml`.
        plan: Plan, from `plan.json`; empty if it is missing.
        result: Final results, from `result.json`; empty if they are missing.
        training: Training metrics in the order of the steps.
        validation: Validation metrics in the order of the steps.
        samples: Texts that the model generated.
        stability: Norms of every layer in some steps, in the order of the steps; empty if they were not recorded.
        events: Lines of `events.log`.
        checks: Results of the checks; empty if none ran.
        data: Report of the preparation of the data; empty if it is missing.
        machines: Machine of each part of the run: one entry for the start and for each resume.
        losses: Loss of each validation document; None if they were not recorded.
        labels: Labels that were predicted for the validation texts; None if they were not recorded.
        words: Words that decided on labels; empty if they were not recorded.
        missing: Files and records that are missing or damaged, a sentence each.
    """

    path: Path
    status: str
    config: dict[str, Any]
    plan: dict[str, Any]
    result: dict[str, Any]
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    stability: list[dict[str, Any]]
    events: list[str]
    checks: dict[str, Any]
    data: dict[str, Any]
    machines: list[dict[str, Any]]
    losses: DocumentLosses | None
    labels: LabelRecord | None
    words: dict[str, Any]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def measured_on_documents(self) -> bool:
        """Whether the final figures are those of whole documents, and not of sequences of examples."""
        return "validation_documents" in (self.result.get("evaluation") or {})

    @property
    def step(self) -> int:
        """Last recorded step; 0 if there is none."""
        last = self.training[-1].get("step") if self.training else None
        return int(self.result.get("step") or last or 0)


def read_run(run: RunFolder) -> RunFiles:
    """Read the folder of a run and return its record.

    The run may be in progress or crashed, and any file but `config.toml` may be missing or damaged.

    Args:
        run: Run folder.
    """
    reader = _Reader(run.path)
    config = reader.toml(run)
    status = _status(run)
    checked, data = config.get("check", True), _data_report(run.path, config)
    plan = reader.json("plan.json", PLAN, "no plan has been made" + (" yet" if status == "running" else ""))
    labels = reader.labels(data)
    linear = (plan.get("model") or {}).get("preset") == "linear"  # it is solved, and has no steps
    metrics = reader.lines("metrics.jsonl", METRICS, "" if linear else "no step has been logged yet")
    return RunFiles(
        path=run.path,
        status=status,
        config=config,
        plan=plan,
        result=reader.json(
            "result.json", RESULT, "the run is in progress" if status == "running" else "it is not finished"
        ),
        training=[line for line in metrics if line.get("split", "train") == "train"],
        validation=[line for line in metrics if line.get("split") == "validation"],
        samples=reader.lines(
            "samples.jsonl",
            SAMPLE,
            "" if status != "finished" or labels is not None or not config.get("samples", 1) else "no samples exist",
        ),
        stability=reader.lines("stability.jsonl", STABILITY, ""),
        events=reader.guarded("events.log", lambda _: run.events, []),
        checks=reader.json("checks.json", CHECKS, "no checks ran before training" if checked else ""),
        data=reader.json(data, DATA, "the sizes of the data are not known"),
        machines=reader.lines("machines.jsonl", MACHINE, "the machine is only known from the plan"),
        losses=reader.losses(),
        labels=labels,
        words=reader.json("words.json", WORDS, ""),
        missing=tuple(reader.missing),
    )


def _status(run: RunFolder) -> str:
    """Return the status of a run; if this process itself trains it, the page is written at the end of the run."""
    if run.trainer == os.getpid():
        return "finished" if (run.path / "result.json").exists() else "interrupted"
    return run.status


def _data_report(path: Path, config: dict[str, Any]) -> str:
    """Return the path of the data report, relative to the run: in its folder, or where `lavra prepare` wrote it."""
    if not (path / "data").exists() and isinstance(config.get("data"), list) and len(config["data"]) == 1:
        prepared = Path(str(config["data"][0])).absolute() / "report.json"
        if prepared.exists():
            return str(prepared)
    return "data/report.json"


class _Reader:
    """Reads the files of a folder, and collects in `missing` what is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []

    def guarded(self, name: str, read: Callable[[Path], Found], otherwise: Found, why_missing: str = "") -> Found:
        """Return what `read` returns for a file, or `otherwise`; without `why_missing` the file is optional."""
        path = self.folder / name
        if not path.exists():
            if why_missing:
                self.missing.append(f"{name}: {why_missing}")
            return otherwise
        try:
            return read(path)
        except (LavraError, OSError, ValueError, RecursionError) as error:
            self.missing.append(f"{name}: {error.message if isinstance(error, LavraError) else error}")
            return otherwise

    def json(self, name: str, shape: Shape, why_missing: str) -> dict[str, Any]:
        return self.guarded(name, lambda path: self._fitted(name, shape, read_json(path)) or {}, {}, why_missing)

    def lines(self, name: str, shape: Shape, why_missing: str) -> list[dict[str, Any]]:
        def read(path: Path) -> list[dict[str, Any]]:
            records, faults = JsonLines(path).salvage()
            self._note(f"{name}: {fault}; the line is ignored" for fault in faults)
            fitted = (self._fitted(f"{name}, record {number}", shape, one) for number, one in enumerate(records, 1))
            return [record for record in fitted if record is not None]

        return self.guarded(name, read, [], why_missing)

    def toml(self, run: RunFolder) -> dict[str, Any]:
        read = lambda _: self._fitted("config.toml", CONFIG, tomllib.loads(run.config)) or {}  # noqa: E731
        return self.guarded("config.toml", read, {})

    def _fitted(self, name: str, shape: Shape, values: Any) -> dict[str, Any] | None:
        """Return those values that have the expected types, and report the others."""
        misfits = Misfits()
        found = fitting(shape, values, misfits)
        self._note(f"{name}: damaged: {one}; it is ignored" for one in misfits.found)
        return found

    def _note(self, faults: Iterable[str]) -> None:
        """Report the problems of one file: the first few, and the number of the others."""
        found = list(faults)
        self.missing += found[:_MOST_FAULTS]
        if len(found) > _MOST_FAULTS:
            self.missing.append(f"… and {len(found) - _MOST_FAULTS:,} more problems of this kind")

    def losses(self) -> DocumentLosses | None:
        found: list[DocumentLosses] = []
        self.guarded(DOCUMENT_LOSSES, lambda path: found.append(DocumentLosses.load(path)), None)
        return found[0] if found else None

    def labels(self, data_report: str) -> LabelRecord | None:
        def read(path: Path) -> LabelRecord:
            return read_labels(path, (self.folder / data_report).parent)

        found = self.guarded(PREDICTIONS, read, None)
        self._note([found.missing] if found is not None and found.missing else [])
        return found
