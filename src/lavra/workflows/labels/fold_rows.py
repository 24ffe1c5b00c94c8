"""The rows of a cross-validated run: read once, divided into folds, and written as one file for each fold.

The text is written once. A fold is validated on its own file and trained on those of the others; in folds by time it is
trained on a file of what came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lavra.core.units import counted
from lavra.data.examples.labelled import LabelReader, is_nothing
from lavra.data.folds import ALWAYS_TRAINING, Folds, make_folds
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows
from lavra.tasks.label_predictions import ids_of
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.text.near_duplicates import near_duplicates
from lavra.workflows.datasets.preparation import describe_data

FOLDER = "folds"
"""Name of the folder of the folds' rows and runs in the folder of a cross-validated run."""
TABLE = "folds.parquet"
"""Name of the table of the fold of each row, `{id, fold, group}`, in the folder of a cross-validated run."""
_RECORD = "folds.json"

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

    @property
    def _parts(self) -> list[int]:
        always = [ALWAYS_TRAINING] if (self.folder / _file(ALWAYS_TRAINING)).exists() else []
        return [*range(self.count), *always]

    def _files(self, parts: Iterable[int]) -> tuple[str, ...]:
        return tuple(str(self.folder / _file(part)) for part in parts)

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        """The texts of each row, by its id."""
        return {
            row["id"]: [str(row[name]) for name in self.columns]
            for file in self.every()
            for row in JsonLines(Path(file)).read()
        }


def _file(part: int) -> str:
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
    fields, labels, texts, times = _read(config, reader)
    dataset = _InMemory(labels, reader)
    facts = {**task.label_facts(reader.to_json()["labels"][0], dataset), "columns": reader.to_json()}
    folds = _divided(config, task, facts, labels, texts, times)
    ids = ids_of(labels)
    rows = [{**row, "id": name} for row, name in zip(fields, ids, strict=True)]
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for part in sorted(set(folds.fold.tolist())):
        _write_rows(folder / _file(part), rows, np.flatnonzero(folds.fold == part))
    if folds.by_time:
        for fold in range(folds.count):
            _write_rows(folder / f"before-{fold}.jsonl", rows, folds.training(fold))
    _write_table(run / TABLE, ids, folds, [row.get("group") for row in labels])
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
    }
    write_json(folder / _RECORD, record)  # the last file: where it is there, all others are
    return FoldRows(folder, **record)


def _read(
    config: TrainConfig, reader: LabelReader
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str], list[Any] | None]:
    """Return of each usable row its columns, its labels, its text, and when it was made."""
    text = config.text
    bad_rows, time = BadRows(policy=text.on_bad_row), config.fold_by
    wanted = [*reader.names, *([time] if time else [])]
    source = read_rows(
        config.data,
        text_column=None,
        on_bad_row=text.on_bad_row,
        encoding=text.encoding,
        validation=(),
        wanted=wanted,
        bad_rows=bad_rows,
    )
    fields, labels, texts, times, held_out = [], [], [], [], 0
    for row in source:
        found = None if row.is_validation else reader.read(row, bad_rows)
        held_out += row.is_validation
        if found is None:
            bad_rows.rows -= 1
            continue
        if time and is_nothing(row.fields.get(time)):
            raise InputError(f"{row.place} has no {time!r}", "give a time for each row, or leave these rows out")
        fields.append({name: row.fields[name] for name in reader.names if name in row.fields})
        texts.append("\n".join([found.prompt, found.completion] if found.completion else [found.prompt]))
        bad_rows.bytes += len(texts[-1].encode())
        labels.append({**found.labels, "texts": [texts[-1]]})
        times.append(row.fields[time] if time else None)
    if bad_rows.summary():
        log(bad_rows.summary())
    if held_out:
        log(f"{counted(held_out, 'row')} of validation files are left out: measure on them with lavra evaluate")
    if not fields:
        raise InputError("no row has a label", bad_rows.remedy() or "label some rows")
    return fields, labels, texts, times if time else None


class _InMemory(LabelledDataset):
    """Labelled rows in memory, from which a task learns what its labels are."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], reader: LabelReader) -> None:
        self._rows, self._reader = rows, reader

    @property
    def columns_read(self) -> dict[str, Any]:
        return self._reader.to_json()

    def labelled(self, *, validation: bool = False) -> Iterator[dict[str, Any]]:
        return iter([dict(row) for row in self._rows])


def _divided(
    config: TrainConfig,
    task: LabelledTextTask,
    facts: Mapping[str, Any],
    labels: Sequence[Mapping[str, Any]],
    texts: Sequence[str],
    times: Sequence[Any] | None,
) -> Folds:
    assert config.folds is not None
    given = [row.get("fold") for row in labels]
    if times is None and any(one is not None for one in given):
        return _given_folds(given, config.folds, texts)
    targets, groups = task.targets(facts, labels), [row.get("group") for row in labels]
    strata: Any = targets
    if task.kind == "values":
        strata = targets[:, 0]
    elif task.kind != "labels":
        strata = [facts["classes"][place] for place in targets.argmax(axis=1).tolist()]
    return make_folds(
        strata,
        config.folds,
        values=task.kind == "values",
        texts=texts,
        groups=groups if any(group is not None for group in groups) else None,
        times=times,
        seed=config.seed,
    )


def _given_folds(given: Sequence[Any], count: int, texts: Sequence[str]) -> Folds:
    """Return the folds of the column `fold`; rows without one are trained on in every fold."""
    names = sorted({str(one) for one in given if one is not None}, key=lambda name: (len(name), name))
    if len(names) != count:
        raise InputError(
            f"the column 'fold' holds {counted(len(names), 'fold')}, and --folds says {count}",
            f"give --folds {len(names)}, or rename the column",
        )
    place = {name: number for number, name in enumerate(names)}
    fold = np.array([ALWAYS_TRAINING if one is None else place[str(one)] for one in given], dtype=np.int64)
    split = {row for pair in near_duplicates(texts) for row in _apart(pair.first, pair.second, fold)}
    notes = ["the folds are those of the column 'fold'"]
    if split:
        notes.append(
            f"{counted(len(split), 'row')} are nearly the same as a row of another fold: the measured quality may be "
            "too good"
        )
    return Folds(fold, count, np.arange(len(fold)), notes=tuple(notes))


def _apart(first: int, second: int, fold: NDArray[np.int64]) -> tuple[int, ...]:
    return () if fold[first] == fold[second] else (first, second)


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
