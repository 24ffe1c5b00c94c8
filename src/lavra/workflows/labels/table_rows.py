"""The rows of a labelled table in memory, read once before they are divided: those with a label, and those without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.labelled import LabelColumns, is_nothing
from lavra.data.examples.rows import ExampleRow
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows, SourceDocument
from lavra.tasks.label_predictions import ids_of
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.text.near_duplicates import near_duplicates

_COMPARED = 50_000
"""Most rows among which copies of labelled rows are looked for."""


@dataclass
class TableRows:
    """The usable rows of a table.

    Attributes:
        reader: What reads the columns.
        fields: The columns of each row with a label.
        labels: What is known of each of these rows beside its text, with the text as `texts`.
        rows: Each of these rows as the reader returns it.
        times: When each of these rows was made; None where nobody asked.
        validation: Whether each of these rows is of a file of validation data.
        unlabelled: The columns of each row without a label, none of which repeats a row with one.
        copies: Number of rows without a label that were left out because they repeat one that has a label.
    """

    reader: LabelColumns
    fields: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    rows: list[ExampleRow] = field(default_factory=list)
    times: list[Any] | None = None
    validation: list[bool] = field(default_factory=list)
    unlabelled: list[dict[str, Any]] = field(default_factory=list)
    copies: int = 0

    @property
    def texts(self) -> list[str]:
        """The text of each row with a label; two texts as two lines."""
        return ["\n".join(row["texts"]) for row in self.labels]

    def with_ids(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the columns of the rows with and without a label, each with an `id` that no other row has."""
        rows = [*self.fields, *self.unlabelled]
        named = [{**row, "id": name} for row, name in zip(rows, ids_of(rows), strict=True)]
        return named[: len(self.fields)], named[len(self.fields) :]

    def dataset(self, chosen: Iterable[int] | None = None) -> LabelledDataset:
        """Return rows with a label as a data set, from which a task learns what its labels are.

        Args:
            chosen: The numbers of the rows; None for all.
        """
        return RowsInMemory(self.labels if chosen is None else [self.labels[row] for row in chosen], self.reader)


class RowsInMemory(LabelledDataset):
    """Labelled rows in memory, from which a task learns what its labels are.

    Args:
        rows: The columns of each row, with its texts.
        reader: What read them.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], reader: LabelColumns) -> None:
        self._rows, self._reader = rows, reader

    @property
    def columns_read(self) -> dict[str, Any]:
        """What reads the rows, as plain values."""
        return self._reader.to_json()

    def labelled(self, *, validation: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the columns of the rows; there are no others for validation."""
        return iter([dict(row) for row in self._rows])


def read_table(config: TrainConfig, reader: LabelColumns) -> TableRows:
    """Read the rows of a request, and say what was left out.

    Args:
        config: The request. Rows without a label are kept where it gives them a weight (`labels.pseudo`) or adapts a
            model (`labels.adapt`); rows of files of validation data are left out where it asks for folds.
        reader: What reads the columns.

    Raises:
        InputError: If no row has a label, a row has no time where folds by time are asked for, or a row cannot be used
            and the request refuses such.
    """
    text, time = config.text, config.fold_by
    bad_rows = BadRows(policy=text.on_bad_row)
    found = TableRows(reader, times=[] if time else None)
    wanted = [*reader.names, *([time] if time else [])]
    source = read_rows(
        config.data,
        text_column=None,
        on_bad_row=text.on_bad_row,
        encoding=text.encoding,
        validation=text.validation,
        wanted=wanted,
        bad_rows=bad_rows,
    )
    lenient, held_out = replace(reader, may_lack_labels=True), 0
    keeps = config.labels.pseudo > 0 or config.labels.adapt > 0
    for row in source:
        left_out = row.is_validation and config.folds is not None
        held_out += left_out
        bare = keeps and not row.is_validation and is_unlabelled(reader, row)
        read = None if left_out else (lenient if bare else reader).read(row, bad_rows)
        if read is None:
            bad_rows.rows -= 1
            continue
        if not bare and time and is_nothing(row.fields.get(time)):
            raise InputError(f"{row.place} has no {time!r}", "give a time for each row, or leave these rows out")
        bad_rows.bytes += _add(found, row, read, bare=bare, time=time)
    if bad_rows.summary():
        log(bad_rows.summary())
    if held_out:
        log(f"{counted(held_out, 'row')} of validation files are left out: measure on them with lavra evaluate")
    if not found.fields:
        raise InputError("no row has a label", bad_rows.remedy() or "label some rows")
    _leave_out_copies(found)
    return found


def is_unlabelled(reader: LabelColumns, row: SourceDocument) -> bool:
    """Return whether a row lacks a label.

    Args:
        reader: What reads the columns.
        row: The row.
    """
    return is_nothing(row.fields.get("label_probs")) and any(is_nothing(row.fields.get(one)) for one in reader.labels)


def _add(found: TableRows, row: SourceDocument, read: ExampleRow, *, bare: bool, time: str | None) -> int:
    """Add a row, and return the bytes of its texts."""
    reader = found.reader
    columns = {name: row.fields[name] for name in reader.names if name in row.fields}
    texts = [read.prompt, read.completion] if read.completion else [read.prompt]
    if bare:
        found.unlabelled.append({name: value for name, value in columns.items() if name not in reader.labels})
    else:
        found.fields.append(columns)
        found.labels.append({**read.labels, "texts": texts})
        found.rows.append(read)
        found.validation.append(row.is_validation)
        if found.times is not None:
            found.times.append(row.fields[time or ""])
    return sum(len(text.encode()) for text in texts)


def _leave_out_copies(found: TableRows) -> None:
    """Leave out rows without a label whose text is nearly that of a row with one: their label is known already."""
    if not found.unlabelled:
        return
    texts, known = (
        ["\n".join(str(row[name]) for name in found.reader.texts) for row in rows]
        for rows in (found.unlabelled, found.fields)
    )
    same = {text.strip() for text in known}
    copies = {number for number, text in enumerate(texts) if text.strip() in same}
    if len(texts) + len(known) <= _COMPARED:
        copies |= {pair.second for pair in near_duplicates(known, others=texts)}
    found.copies = len(copies)
    found.unlabelled = [row for number, row in enumerate(found.unlabelled) if number not in copies]
    log(
        f"{counted(len(found.unlabelled), 'row')} without a label"
        + (f"; {counted(len(copies), 'more such row')} left out, as copies of rows with one" if copies else "")
    )
