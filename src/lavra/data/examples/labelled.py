"""Labelled rows: texts with what is to be said of them, read from their columns and encoded for a model with a head."""

from __future__ import annotations

import math
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from lavra.core.errors import InputError
from lavra.data.examples.rows import ExampleRow, fields_size
from lavra.data.readers.documents import fault_of
from lavra.data.readers.rows import MISSING_COLUMN, NOT_TEXT, UNLABELLED, BadRows, SourceDocument
from lavra.data.readers.tables import missing_column
from lavra.data.tokenizers.pairs import encode_two
from lavra.data.tokenizers.tokenizer import Tokenizer

BESIDE = ("id", "weight", "label_probs", "group", "fold", "source", "parent")
"""Columns that are kept with a labelled row where it has them: its name, its weight in the loss, the probability of
each class, what must stay on one side of a split, its fold, where it comes from, and the id of the row that it was made
from."""

PSEUDO = "pseudo"
"""What the column `source` says of rows whose labels a teacher gave."""


@dataclass(frozen=True, slots=True)
class LabelledTokens:
    """One text, or a part of one, as ids.

    Attributes:
        tokens: (n,) int64 ids, with the tokens that the tokenizer puts around a text.
        labels: What is kept with them beside the columns of the row, as plain values.
        cut: Whether the text lost its end to fit the context.
        lost: Whether what the row says cannot be learned, because no part of its text holds it whole.
    """

    tokens: np.ndarray
    labels: Mapping[str, Any] = field(default_factory=dict)
    cut: bool = False
    lost: bool = False


class LabelReader(ABC):
    """How the rows of a labelled task are read from their columns, and encoded as ids.

    A reader is made of plain values only, so that a trained model carries its own: `to_json` gives them, and the
    constructor takes them by the same names.

    Attributes:
        apart: Whether the tokens of a row are several texts that the model reads one by one.
    """

    apart: ClassVar[bool] = False

    def for_context(self, context: int) -> LabelReader:
        """Return the reader for a model that reads so many tokens at once; by default the reader itself.

        Args:
            context: Largest number of tokens that the model reads.
        """
        return self

    def longest_text(self, context: int) -> int:
        """Return the largest number of tokens of a text that a model with this context is given.

        Args:
            context: Largest number of tokens that the model reads.
        """
        return context

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read where a row has them."""

    @abstractmethod
    def read(self, row: SourceDocument, bad_rows: BadRows) -> ExampleRow | None:
        """Return a row with its text as the prompt and its other columns as labels; None, counted, if it is unusable.

        Args:
            row: The row as it was read from its file.
            bad_rows: Is filled with what is wrong with the row.
        """

    @abstractmethod
    def encode(
        self, rows: Sequence[ExampleRow], tokenizer: Tokenizer, context: int | None
    ) -> list[tuple[LabelledTokens, ...]]:
        """Return the ids of each row: one text, none where it has no tokens, or several parts of a long one.

        Args:
            rows: Rows as `read` returned them.
            tokenizer: Tokenizer of the model.
            context: Largest number of tokens of a text; None for no limit.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""


@dataclass(frozen=True)
class LabelColumns(LabelReader):
    """A text, or two, in columns of their own, and the columns that label them.

    Attributes:
        text: Column of the text.
        labels: Columns that label it; their values are kept as they are. A row without one of them is unlabelled.
        second: Column of a second text, which the model reads after the first; empty for none.
        template: Text with names of columns in braces, which takes the place of the text; empty for none.
        may_lack_labels: Whether a row without labels is read too, as for prediction.

    Raises:
        InputError: If the template is not right.

    Examples:
        >>> from lavra.data.examples.labelled import LabelColumns
        >>> LabelColumns("review", ("stars",)).names[:2]
        ('review', 'stars')
        >>> LabelColumns("anchor", ("score",), template="{anchor} in {context}").filled({"anchor": "a", "context": 7})
        'a in 7'
    """

    text: str
    labels: tuple[str, ...]
    second: str = ""
    template: str = ""
    may_lack_labels: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has lists only
        if self.template and not self._in_template:
            raise InputError(f"the template {self.template!r} names no column", "write names of columns in braces: {a}")

    @cached_property
    def _in_template(self) -> tuple[str, ...]:
        """The names of the columns in the template, in order."""
        try:
            parts = list(string.Formatter().parse(self.template))
        except ValueError as error:
            raise InputError(f"the template {self.template!r} is not right: {error}", "write {{ for a brace") from error
        names = [name for _, name, _, _ in parts if name is not None]
        if odd := [name for name in names if not name or not name.replace("_", "a").replace("-", "a").isalnum()]:
            raise InputError(f"the template {self.template!r} has {odd[0]!r} in braces", "write the name of a column")
        return tuple(dict.fromkeys(names))

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that text is made of."""
        if self.template:
            return self._in_template
        return (self.text, self.second) if self.second else (self.text,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read where a row has them."""
        return (*self.texts, *self.labels, *(name for name in BESIDE if name not in self.labels))

    def filled(self, fields: Mapping[str, Any]) -> str:
        """Return the text that the template makes of a row.

        Args:
            fields: The values of the row by column; numbers are written as text.
        """
        return "".join(
            before + ("" if name is None else str(fields[name]))
            for before, name, _, _ in string.Formatter().parse(self.template)
        )

    def read(self, row: SourceDocument, bad_rows: BadRows) -> ExampleRow | None:
        """Return a row with its text as the prompt, the second text as the completion, and its other columns."""
        fields, size = row.fields, fields_size(row)
        missing = [name for name in self.texts if fields.get(name) is None]
        if missing:
            detail = missing_column(" and ".join(missing), list(fields))
            bad_rows.add(MISSING_COLUMN, row.place, detail, size=size)
            return None
        bad_rows.note_columns(row.file, [name for name in self.names if name in fields], fields)
        lacking = [name for name in self.labels if is_nothing(fields.get(name))]
        if lacking and not self.may_lack_labels and is_nothing(fields.get("label_probs")):
            absent = [name for name in lacking if name not in fields]
            if absent:
                detail = missing_column(" and ".join(absent), list(fields))
                bad_rows.add(MISSING_COLUMN, row.place, detail, size=size)
            else:
                bad_rows.add(UNLABELLED, row.place, f"{lacking[0]!r} is empty", size=size)
            return None
        texts = [self.filled(fields)] if self.template else [fields[name] for name in self.texts]
        for name, text in zip(self.texts, texts, strict=False):
            fault = NOT_TEXT if not isinstance(text, str) else fault_of(text)
            if fault:
                detail = f"{name!r} holds a {type(text).__name__}" if fault == NOT_TEXT else ""
                bad_rows.add(fault, row.place, detail, size=size)
                return None
        kept = {name: fields[name] for name in (*self.labels, *BESIDE) if not is_nothing(fields.get(name))}
        stratum = _stratum(kept.get(self.labels[0])) if len(self.labels) == 1 else None
        first, second = (*texts, "")[:2]
        return ExampleRow(row.source, row.place, first, second, labels=kept, stratum=stratum)

    def encode(
        self, rows: Sequence[ExampleRow], tokenizer: Tokenizer, context: int | None
    ) -> list[tuple[LabelledTokens, ...]]:
        """Return the ids of each row, with its texts, and for two texts where the second kind of tokens begins."""
        texts = [[row.prompt, row.completion] if row.completion else [row.prompt] for row in rows]
        found = []
        for written, ids in zip(texts, encode_two(tokenizer, texts, context), strict=True):
            labels: dict[str, Any] = {"texts": written}
            if ids.second:
                labels["second_type_from"] = ids.second
            found.append((LabelledTokens(ids.tokens, labels, ids.cut),))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {"text": self.text, "labels": list(self.labels), "second": self.second, "template": self.template}


def _stratum(label: Any) -> str | float | None:
    """Return the class of a row as text, or its number where that is not whole; None for a list of labels."""
    if isinstance(label, float):
        return label
    if isinstance(label, list | dict) or label is None:
        return None
    return str(label).strip()


def is_nothing(value: object) -> bool:
    """Return whether a cell holds nothing: no value, an empty text, or the number that stands for none (NaN).

    Examples:
        >>> is_nothing(" "), is_nothing(float("nan")), is_nothing(0), is_nothing([])
        (True, True, False, False)
    """
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


# Match a number with a decimal comma, as Portuguese spreadsheets write it, and one that may be so many thousands.
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")


def number_in(value: object) -> float:
    """Return a cell as a number, which may have a decimal comma; NaN where it is none.

    A number such as "1,234", which is more than a thousand in English and little more than one in Portuguese, is none.

    Examples:
        >>> number_in("4,5"), number_in(" 0,125"), number_in("3.5"), number_in(4)
        (4.5, 0.125, 3.5, 4.0)
        >>> number_in("1,234"), number_in("muito"), number_in(None)
        (nan, nan, nan)
    """
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()) and not _THOUSANDS.fullmatch(value.strip()):
        value = value.replace(",", ".")
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return math.nan
