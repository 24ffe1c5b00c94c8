"""Rows of texts that are compared, each encoded by itself: a pair with negatives or a score, or a text alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from lavra.data.examples.labelled import BESIDE, LabelledTokens, LabelReader, is_nothing, number_in
from lavra.data.examples.rows import ExampleRow, fields_size
from lavra.data.readers.documents import fault_of
from lavra.data.readers.rows import BAD_LABEL, MISSING_COLUMN, NOT_TEXT, UNLABELLED, BadRows, SourceDocument
from lavra.data.readers.tables import missing_column
from lavra.data.tokenizers.pairs import encode_two
from lavra.data.tokenizers.tokenizer import Tokenizer

SAME_NEGATIVE = "negative that is one of the texts of its pair, left out"
"""What is counted of a negative that would be held against itself."""

LENGTHS, TARGET, NEGATIVES = "lengths", "target", "negatives"
"""Labels of a row in the store: the tokens of each of its texts, its score or margin, and its negatives."""


@dataclass(frozen=True)
class TextGroups(LabelReader):
    """A text, or two that are compared, with negatives and a number where the row has them.

    Each text is encoded by itself, with its prompt before it; the tokens of a row are those of its texts one after the
    other. What is kept with them: `texts`, the first two; `lengths`, the tokens of each text; `negatives`, their texts;
    `target`, the number.

    Attributes:
        first: Column of the first text, such as a query.
        second: Column of the text that belongs to it or is compared with it; empty for bare texts.
        negatives: Columns of texts that do not belong to the first, or of lists of them. An empty cell is no negative.
        score: Column of a number: how alike the texts are, or by how much the second is better than the first negative;
            empty for none.
        prompts: What is put before the first text, and before the others.
        longest: Largest number of tokens of a text; None takes the context that `encode` is told.

    Examples:
        >>> TextGroups("query", "passage", negatives=("negative_1", "negative_2")).texts
        ('query', 'passage')
    """

    first: str = "anchor"
    second: str = "positive"
    negatives: tuple[str, ...] = ()
    score: str = ""
    prompts: tuple[str, str] = ("", "")
    longest: int | None = None

    apart = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "negatives", tuple(self.negatives))  # JSON has lists only
        object.__setattr__(self, "prompts", tuple(self.prompts))

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of the first two texts."""
        return (self.first, self.second) if self.second else (self.first,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read where a row has them."""
        score = (self.score,) if self.score else ()
        return (*self.texts, *self.negatives, *score, *(name for name in BESIDE if name != self.score))

    def for_context(self, context: int) -> TextGroups:
        """Return the reader for a model that reads so many tokens of a text, unless it reads fewer already."""
        return self if self.longest is not None and self.longest <= context else replace(self, longest=context)

    def longest_text(self, context: int) -> int:
        """Return the largest number of tokens of a text."""
        return context if self.longest is None else min(context, self.longest)

    def read(self, row: SourceDocument, bad_rows: BadRows) -> ExampleRow | None:
        """Return a row with its first text as the prompt and its second as the completion; None for an unusable row."""
        fields, size = row.fields, fields_size(row)
        missing = [name for name in self.texts if fields.get(name) is None]
        if missing:
            detail = missing_column(" and ".join(missing), list(fields))
            bad_rows.add(MISSING_COLUMN, row.place, detail, size=size)
            return None
        bad_rows.note_columns(row.file, [name for name in self.names if name in fields], fields)
        negatives = list(chain.from_iterable(_listed(fields.get(name)) for name in self.negatives))
        texts = [*((name, fields[name]) for name in self.texts), *(("a negative", text) for text in negatives)]
        for name, text in texts:
            fault = NOT_TEXT if not isinstance(text, str) else fault_of(text)
            if fault:
                bad_rows.add(fault, row.place, _detail(name, text), size=size)
                return None
        labels: dict[str, Any] = {name: fields[name] for name in BESIDE if not is_nothing(fields.get(name))}
        if self.score:
            number = self._number(row, bad_rows, size)
            if number is None:
                return None
            labels[TARGET] = number
        pair = {fields[name].strip() for name in self.texts}
        kept = [text for text in negatives if text.strip() not in pair]
        for _ in range(len(negatives) - len(kept)):
            bad_rows.change(SAME_NEGATIVE, row.place)
        if self.score and self.negatives and not kept:
            bad_rows.add(MISSING_COLUMN, row.place, "no negative to which the margin belongs", size=size)
            return None
        if kept:
            labels[NEGATIVES] = kept
        second = fields[self.second] if self.second else ""
        stratum = labels.get(TARGET) if not self.negatives else None
        return ExampleRow(row.source, row.place, fields[self.first], second, labels=labels, stratum=stratum)

    def _number(self, row: SourceDocument, bad_rows: BadRows, size: int) -> float | None:
        """Return the score of a row; None, counted, where it has none."""
        value = row.fields.get(self.score)
        if is_nothing(value):
            absent = self.score not in row.fields
            detail = missing_column(self.score, list(row.fields)) if absent else f"{self.score!r} is empty"
            bad_rows.add(MISSING_COLUMN if absent else UNLABELLED, row.place, detail, size=size)
            return None
        number = number_in(value)
        if not math.isfinite(number):
            bad_rows.add(BAD_LABEL, row.place, f"{self.score!r} is {value!r}, no number", size=size)
            return None
        return number

    def encode(
        self, rows: Sequence[ExampleRow], tokenizer: Tokenizer, context: int | None
    ) -> list[tuple[LabelledTokens, ...]]:
        """Return the ids of the texts of each row, one after the other; nothing where a text has no tokens."""
        limit, (first, others) = self.longest or context, self.prompts
        texts = [[first + row.prompt, *(others + text for text in self._others(row))] for row in rows]
        # One passage often comes with many queries, and is encoded once.
        distinct = list(dict.fromkeys(chain.from_iterable(texts)))
        around = sum(map(len, tokenizer.around_source))
        encoded = dict(zip(distinct, encode_two(tokenizer, [[text] for text in distinct], limit), strict=True))
        found = []
        for row, of_row in zip(rows, texts, strict=True):
            ids = [encoded[text] for text in of_row]
            if any(len(one.tokens) <= around for one in ids):
                found.append(())
                continue
            shown = [row.prompt, row.completion] if self.second else [row.prompt]
            labels: Mapping[str, Any] = {"texts": shown, LENGTHS: [len(one.tokens) for one in ids]}
            found.append(
                (LabelledTokens(np.concatenate([one.tokens for one in ids]), labels, any(one.cut for one in ids)),)
            )
        return found

    def _others(self, row: ExampleRow) -> list[str]:
        return [row.completion, *row.labels.get(NEGATIVES, ())] if self.second else []

    def to_json(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {
            "first": self.first,
            "second": self.second,
            "negatives": list(self.negatives),
            "score": self.score,
            "prompts": list(self.prompts),
            "longest": self.longest,
        }


def _listed(cell: Any) -> list[Any]:
    """Return the texts of a cell: those of a list, or the one that it is; none of an empty cell."""
    values = list(cell) if isinstance(cell, list | tuple | np.ndarray) else [cell]
    return [one for one in values if not is_nothing(one)]


def _detail(name: str, text: Any) -> str:
    return f"{name!r}" if isinstance(text, str) else f"{name!r} holds a {type(text).__name__}"
