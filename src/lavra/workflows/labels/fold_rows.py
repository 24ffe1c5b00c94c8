"""The rows of a run of several models: read once, divided into folds, and written as one file for each fold.

The text is written once. A fold is validated on its own file and trained on those of the others; in folds by time it is
trained on a file of what came before. A single division has one fold, and rows that are always trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.config.training import TrainConfig
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.folds import ALWAYS_TRAINING, Folds
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.labels.fold_division import divided, divided_once
from lavra.workflows.labels.table_rows import read_table

FOLDER = "folds"
"""Name of the folder of the folds' rows and runs in the folder of a cross-validated run."""
TABLE = "folds.parquet"
"""Name of the table of the fold of each row, `{id, fold, group}`, in the folder of a cross-validated run."""
_RECORD = "folds.json"
_UNLABELLED = "unlabelled.jsonl"

_KNOWN = ("classes", "separator")
"""What a fold takes over from all rows: the names of the labels, which are no knowledge about a row."""


@dataclass(frozen=True)
class FoldRows:
    """The rows of a cross-validated run on disk.

    Attributes:
        folder: The folder with the files of rows.
        task: Name of the task.
        count: Number of folds.
        known: What a model of a part of the rows takes over from all rows: the classes in their order.
        trained: Number of rows that each fold is trained on.
        rows: Number of rows in all.
        by_time: Whether a fold is trained on what came before it alone.
        notes: Sentences on what a person should know of the division.
        columns: Columns of the text, or of the two texts.
        unlabelled: Number of rows without a label.
        copies: Number of further rows without a label, which repeat one that has a label and were left out.
    """

    folder: Path
    task: str
    count: int
    known: Mapping[str, Any]
    trained: Sequence[int]
    rows: int
    by_time: bool
    notes: Sequence[str]
    columns: Sequence[str]
    unlabelled: int = 0
    copies: int = 0

    def training(self, fold: int) -> tuple[str, ...]:
        """Return the files of the rows that a fold is trained on."""
        if self.by_time:
            return (str(self.folder / f"before-{fold}.jsonl"),)
        return self._files(part for part in self._parts if part != fold)

    def validation(self, fold: int) -> tuple[str, ...]:
        """Return the file of the rows that a fold is validated on."""
        return self._files([fold])

    def every(self) -> tuple[str, ...]:
        """Return the files of all rows."""
        return self._files(self._parts)

    def seen_by(self, fold: int) -> frozenset[int]:
        """Return the folds whose labels the model of a fold is trained on."""
        return frozenset(part for part in self._parts if (part < fold if self.by_time else part != fold))

    def ids(self, fold: int) -> list[str]:
        """Return the ids of the rows that a fold is validated on."""
        return [row["id"] for file in self.validation(fold) for row in JsonLines(Path(file)).read()]

    @property
    def without_label(self) -> Path:
        """The file of the rows without a label."""
        return self.folder / _UNLABELLED

    @property
    def _parts(self) -> list[int]:
        always = [ALWAYS_TRAINING] if (self.folder / file_of(ALWAYS_TRAINING)).exists() else []
        return [*range(self.count), *always]

    def _files(self, parts: Iterable[int]) -> tuple[str, ...]:
        return tuple(str(self.folder / file_of(part)) for part in parts)

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        """The texts of each row, by its id."""
        return {
            row["id"]: [str(row[name]) for name in self.columns]
            for file in self.every()
            for row in JsonLines(Path(file)).read()
        }


def file_of(part: int) -> str:
    """Return the name of the file of the rows of a fold, or of those that are always trained on."""
    return "always.jsonl" if part == ALWAYS_TRAINING else f"part-{part}.jsonl"


def written_rows(run: Path) -> FoldRows | None:
    """Return the rows of a cross-validated run; None where they are not on disk yet.

    Args:
        run: The folder of the run.
    """
    folder = run / FOLDER
    return FoldRows(folder, **read_json(folder / _RECORD)) if (folder / _RECORD).exists() else None


def write_rows(config: TrainConfig, run: Path, task: LabelledTextTask) -> FoldRows:
    """Read the rows of a cross-validated run, divide them into folds, and write them.

    Args:
        config: The request.
        run: The folder of the run.
        task: The task.

    Raises:
        InputError: If the rows cannot be used, or cannot be divided as asked.
    """
    reader = task.reader(describe_data(config))
    table = read_table(config, reader)
    if config.labels.pseudo and not table.unlabelled:
        raise InputError(
            "no row lacks a label, and --labels.pseudo is for such rows", "add rows without a label, or leave it out"
        )
    once = divided_once(config, table) if config.folds is None else None
    facts = task.label_facts(reader.labels[0], table.dataset(None if once is None else once.training(0)))
    facts = {**facts, "columns": reader.to_json()}
    folds = once or divided(config, task, facts, table)
    rows, unlabelled = table.with_ids()
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for part in sorted(set(folds.fold.tolist())):
        _write_rows(folder / file_of(part), rows, np.flatnonzero(folds.fold == part))
    if folds.by_time:
        for fold in range(folds.count):
            _write_rows(folder / f"before-{fold}.jsonl", rows, folds.training(fold))
    if unlabelled:
        _write_rows(folder / _UNLABELLED, unlabelled, np.arange(len(unlabelled)))
    _write_table(run / TABLE, [row["id"] for row in rows], folds, [row.get("group") for row in table.labels])
    for note in folds.notes:
        log(f"note: {note}")
    record = {
        "task": task.name,
        "count": folds.count,
        "known": {name: facts[name] for name in _KNOWN if name in facts},
        "trained": [len(folds.training(fold)) for fold in range(folds.count)],
        "rows": len(rows),
        "by_time": folds.by_time,
        "notes": list(folds.notes),
        "columns": list(reader.texts),
        "unlabelled": len(unlabelled),
        "copies": table.copies,
    }
    write_json(folder / _RECORD, record)  # the last file: where it is there, all others are
    return FoldRows(folder, **record)


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]], chosen: NDArray[np.int64]) -> None:
    write_atomically(path, "".join(one_line(rows[row]) + "\n" for row in chosen.tolist()))


def _write_table(path: Path, ids: Sequence[str], folds: Folds, groups: Sequence[Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": pa.array(ids, pa.string()),
        "fold": pa.array(folds.fold, pa.int64(), mask=folds.fold == ALWAYS_TRAINING),
    }
    if any(group is not None for group in groups):
        columns["group"] = pa.array([None if group is None else str(group) for group in groups], pa.string())
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue().to_pybytes())
