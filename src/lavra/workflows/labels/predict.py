"""Predicting the labels of texts with a model that was trained for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

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
from lavra.workflows.labels.labeller import Labeller


def predict_texts(labeller: Labeller, texts: Sequence[Any]) -> list[Classification]:
    """Predict the labels of texts, in their order.

    Args:
        labeller: The model.
        texts: Texts, or for a model that reads several columns, mappings from their names to their values; two texts
            may also be given as a pair. For a model that tags words, lists of words, or texts that are divided into
            words and punctuation marks.

    Raises:
        InputError: If a text cannot be read.
    """
    bad_rows, reader = BadRows(policy="error", options=False), labeller.reader
    rows = [_row(number, text, reader) for number, text in enumerate(texts)]
    found = _predicted(labeller, (reader.read(row, bad_rows) for row in rows), bad_rows)
    return [one for one in found if one is not None]


def predict_file(
    labeller: Labeller, path: str, *, on_bad_row: OnBadRow = "skip", encoding: str | None = None
) -> dict[str, Any]:
    """Predict the labels of the rows of a file.

    Args:
        labeller: The model.
        path: The file, with the columns that the model was trained on, of any format with columns.
        on_bad_row: What to do with rows that cannot be used; left out, they are in the result without a prediction.
        encoding: Encoding of the file; None recognises it.

    Returns:
        A dictionary with `rows`, each with its columns, `predicted` and `probabilities`, and with `text_columns`, the
        names of the columns that were read.
    """
    bad_rows, fields, reader = BadRows(policy=on_bad_row, options=False), list[Mapping[str, Any]](), labeller.reader

    def read() -> Iterator[ExampleRow | None]:
        source = read_rows([path], text_column=None, on_bad_row=on_bad_row, encoding=encoding, bad_rows=bad_rows)
        for row in source:
            fields.append(row.fields)
            yield reader.read(row, bad_rows)

    found = _predicted(labeller, read(), bad_rows)
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


def _predicted(labeller: Labeller, rows: Iterable[ExampleRow | None], bad_rows: BadRows) -> list[Classification | None]:
    """Return the prediction for each row, None for one that could not be used."""
    places, used = list[int](), list[ExampleRow]()
    count = 0
    for row in rows:
        if row is not None:
            places.append(count)
            used.append(row)
        count += 1
    found: list[Classification | None] = [None] * count
    for number, predicted in labeller.predict(used, bad_rows):
        found[places[number]] = predicted
    return found
