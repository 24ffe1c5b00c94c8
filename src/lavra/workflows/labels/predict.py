"""Predicting the labels of texts with a model that was trained for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.labelled import LabelColumns, LabelReader
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.spans import SpanColumns
from lavra.data.examples.tagged import TaggedColumns, words_and_signs
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows, OnBadRow, SourceDocument
from lavra.generation.classifying import Classification
from lavra.tasks.label_predictions import outputs_of
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.workflows.labels.given_rows import given_rows, task_of
from lavra.workflows.models.open import OpenModel


def predict_texts(opened: OpenModel, texts: Sequence[Any]) -> list[Classification]:
    """Predict the labels of texts, in their order.

    Args:
        opened: The model, with its head.
        texts: Texts, or for a model that reads several columns, mappings from their names to their values; two texts
            may also be given as a pair. For a model that tags words, lists of words, or texts that are divided into
            words and punctuation marks.

    Raises:
        InputError: If a text cannot be read, or the model has no head for labels.
    """
    _, reader = task_of(opened)
    bad_rows = BadRows(policy="error")
    rows = [_row(number, text, reader) for number, text in enumerate(texts)]
    found = _predicted(opened, (reader.read(row, bad_rows) for row in rows), bad_rows)
    return [one for one in found if one is not None]


def predict_file(
    opened: OpenModel, path: str, *, on_bad_row: OnBadRow = "skip", encoding: str | None = None
) -> dict[str, Any]:
    """Predict the labels of the rows of a file.

    Args:
        opened: The model, with its head.
        path: The file, with the columns that the model was trained on, of any format with columns.
        on_bad_row: What to do with rows that cannot be used; left out, they are in the result without a prediction.
        encoding: Encoding of the file; None recognises it.

    Returns:
        A dictionary with `rows`, each with its columns, `predicted` and `probabilities`, and with `text_columns`, the
        names of the columns that were read.
    """
    _, reader = task_of(opened)
    bad_rows, fields = BadRows(policy=on_bad_row), list[Mapping[str, Any]]()

    def read() -> Iterator[ExampleRow | None]:
        source = read_rows([path], text_column=None, on_bad_row=on_bad_row, encoding=encoding, bad_rows=bad_rows)
        for row in source:
            fields.append(row.fields)
            yield reader.read(row, bad_rows)

    found = _predicted(opened, read(), bad_rows)
    if bad_rows.summary():
        log(bad_rows.summary())
    left_out = sum(one is None for one in found)
    if left_out:
        log(f"{counted(left_out, 'row')} without a prediction, because they cannot be used")
    nothing = {"predicted": None, "probabilities": {}}
    rows = [
        {**columns, **(nothing if one is None else {"predicted": one.label, "probabilities": one.probabilities})}
        for columns, one in zip(fields, found, strict=True)
    ]
    return {"rows": rows, "text_columns": list(_text_columns(reader))}


def _text_columns(reader: LabelReader) -> tuple[str, ...]:
    known = isinstance(reader, LabelColumns | TaggedColumns | SpanColumns)
    return reader.texts if known else reader.names


def _row(number: int, text: Any, reader: LabelReader) -> SourceDocument:
    names = _text_columns(reader)
    if isinstance(text, Mapping):
        fields = dict(text)
    elif isinstance(reader, TaggedColumns):
        fields = {reader.tokens: words_and_signs(text) if isinstance(text, str) else list(text)}
    else:
        parts = (text,) if isinstance(text, str) else tuple(text)
        if len(parts) != len(names):
            raise InputError(
                f"the model reads {' and '.join(names)}, and text {number + 1} has {counted(len(parts), 'part')}",
                "give rows with these columns",
            )
        fields = dict(zip(names, parts, strict=True))
    return SourceDocument("", "texts", f"text {number + 1}", fields)


def _predicted(opened: OpenModel, rows: Iterable[ExampleRow | None], bad_rows: BadRows) -> list[Classification | None]:
    """Return the prediction for each row, None for one that could not be used."""
    task, _ = task_of(opened)
    places, used = list[int](), list[ExampleRow]()
    count = 0
    for row in rows:
        if row is not None:
            places.append(count)
            used.append(row)
        count += 1
    found: list[Classification | None] = [None] * count
    with given_rows(opened, used, bad_rows) as trained:
        if not isinstance(task, LabelledTextTask):
            for number, predicted in task.predict(trained):
                found[places[number]] = predicted
            return found
        facts = trained.plan.facts
        kept = list(trained.dataset.labelled(validation=True))  # pyright: ignore[reportAttributeAccessIssue]
        for number, outputs in outputs_of(trained):
            labels = kept[number]
            numbers = np.asarray(task.probabilities(facts, outputs.double()))
            shares = {name: float(share) for name, share in zip(facts["classes"], numbers, strict=True)}
            text = "\n".join(labels["texts"])
            found[places[labels["row"]]] = Classification(text, task.answer(facts, numbers), shares)
    return found
