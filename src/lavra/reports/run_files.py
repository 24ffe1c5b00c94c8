"""Everything that a run folder holds, read in spite of what is missing or damaged, which is said."""

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
from lavra.core.disk.run_shapes import CHECKS, CONFIG, DATA, MACHINE, METRICS, PLAN, RESULT, SAMPLE
from lavra.core.disk.shapes import Misfits, Shape, fitting
from lavra.core.errors import Damaged
from lavra.evaluation.document_losses import DOCUMENT_LOSSES, DocumentLosses

Found = TypeVar("Found")

_MOST_FAULTS = 5
"""Faults of one file that are told one by one."""


@dataclass(frozen=True)
class RunFiles:
    """The record of one run.

    Attributes:
        path: the folder.
        status: `running`, `finished` or `interrupted`.
        config: the request.
        plan: what was decided; empty where it is missing.
        result: the final figures; empty where they are missing.
        training: the lines of the training metrics, by step.
        validation: the lines of the validations, by step.
        samples: texts that the model wrote.
        events: lines of `events.log`.
        checks: what the checks found; empty where none ran.
        data: the report of the data's preparation; empty where it is missing.
        machines: what computed, a line for each stretch.
        losses: of each held-out document; None where they were not recorded.
        missing: what is not there or damaged, a sentence each.
    """

    path: Path
    status: str
    config: dict[str, Any]
    plan: dict[str, Any]
    result: dict[str, Any]
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    events: list[str]
    checks: dict[str, Any]
    data: dict[str, Any]
    machines: list[dict[str, Any]]
    losses: DocumentLosses | None
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def step(self) -> int:
        """The last step that is known of."""
        last = self.training[-1].get("step") if self.training else None
        return int(self.result.get("step") or last or 0)


def read_run(run: RunFolder) -> RunFiles:
    """Read a run folder; it may be training, crashed, or lack any file but its `config.toml`."""
    reader = _Reader(run.path)
    metrics = reader.lines("metrics.jsonl", METRICS, "no step was logged yet")
    config = reader.toml(run)
    status = _status(run)
    checked = config.get("check", True)
    plan = reader.json("plan.json", PLAN, "no plan was made" + (" yet" if status == "running" else ""))
    return RunFiles(
        path=run.path,
        status=status,
        config=config,
        plan=plan,
        result=reader.json("result.json", RESULT, "the run goes on" if status == "running" else "it is not finished"),
        training=[line for line in metrics if line.get("split", "train") == "train"],
        validation=[line for line in metrics if line.get("split") == "validation"],
        samples=reader.lines(
            "samples.jsonl", SAMPLE, "" if status != "finished" or not config.get("samples", 1) else "no text"
        ),
        events=reader.guarded("events.log", lambda _: run.events, []),
        checks=reader.json("checks.json", CHECKS, "no checks ran before training" if checked else ""),
        data=reader.json(_data_report(run.path, config), DATA, "what the text is made of is not known"),
        machines=reader.lines("machines.jsonl", MACHINE, "the machine is known from the plan only"),
        losses=reader.losses(),
        missing=tuple(reader.missing),
    )


def _status(run: RunFolder) -> str:
    """Return the run's status; a process that trains it and asks itself is at its end."""
    if run.trainer == os.getpid():
        return "finished" if (run.path / "result.json").exists() else "interrupted"
    return run.status


def _data_report(path: Path, config: dict[str, Any]) -> str:
    """Return where the report of the data lies, relative to the run: in it, or where `lavra prepare` made it."""
    if not (path / "data").exists() and isinstance(config.get("data"), list) and len(config["data"]) == 1:
        prepared = Path(str(config["data"][0])).absolute() / "report.json"
        if prepared.exists():
            return str(prepared)
    return "data/report.json"


class _Reader:
    """Reads the files of a folder and writes down what it misses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []

    def guarded(self, name: str, read: Callable[[Path], Found], otherwise: Found, why_missing: str = "") -> Found:
        """Return what `read` finds in a file, or `otherwise`; `why_missing` is empty where a file need not be there."""
        path = self.folder / name
        if not path.exists():
            if why_missing:
                self.missing.append(f"{name}: {why_missing}")
            return otherwise
        try:
            return read(path)
        except (Damaged, OSError, ValueError, RecursionError) as error:
            self.missing.append(f"{name}: {error.message if isinstance(error, Damaged) else error}")
            return otherwise

    def json(self, name: str, shape: Shape, why_missing: str) -> dict[str, Any]:
        return self.guarded(name, lambda path: self._fitted(name, shape, read_json(path)) or {}, {}, why_missing)

    def lines(self, name: str, shape: Shape, why_missing: str) -> list[dict[str, Any]]:
        def read(path: Path) -> list[dict[str, Any]]:
            records, faults = JsonLines(path).salvage()
            self._note(f"{name}: {fault}; the line is left out" for fault in faults)
            fitted = (self._fitted(f"{name}, record {number}", shape, one) for number, one in enumerate(records, 1))
            return [record for record in fitted if record is not None]

        return self.guarded(name, read, [], why_missing)

    def toml(self, run: RunFolder) -> dict[str, Any]:
        read = lambda _: self._fitted("config.toml", CONFIG, tomllib.loads(run.config)) or {}  # noqa: E731
        return self.guarded("config.toml", read, {})

    def _fitted(self, name: str, shape: Shape, values: Any) -> dict[str, Any] | None:
        """Return what of the values has the shape that they should have, and write down what has not."""
        misfits = Misfits()
        found = fitting(shape, values, misfits)
        self._note(f"{name}: damaged: {one}; it is left out" for one in misfits.found)
        return found

    def _note(self, faults: Iterable[str]) -> None:
        """Write down some faults of one file; of many, how many there are."""
        found = list(faults)
        self.missing += found[:_MOST_FAULTS]
        if len(found) > _MOST_FAULTS:
            self.missing.append(f"… and {len(found) - _MOST_FAULTS:,} more of the kind")

    def losses(self) -> DocumentLosses | None:
        found: list[DocumentLosses] = []
        self.guarded(DOCUMENT_LOSSES, lambda path: found.append(DocumentLosses.load(path)), None)
        return found[0] if found else None
