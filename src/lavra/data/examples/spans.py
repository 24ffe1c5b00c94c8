"""Questions answered by a part of a context: rows in the layout of SQuAD, as overlapping windows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavra.data.examples.labelled import BESIDE, LabelledTokens, LabelReader, is_nothing
from lavra.data.examples.rows import ExampleRow, fields_size
from lavra.data.readers.documents import fault_of
from lavra.data.readers.rows import (
    ABSENT_ANSWER,
    BAD_LABEL,
    FIRST_OF_SEVERAL,
    MISSING_COLUMN,
    MOVED_ANSWER,
    NOT_TEXT,
    UNLABELLED,
    BadRows,
    SourceDocument,
)
from lavra.data.readers.tables import missing_column
from lavra.data.tokenizers.offsets import PlacedTokens, encode_with_offsets
from lavra.data.tokenizers.pairs import PairLayout, pair_layout
from lavra.data.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class SpanColumns(LabelReader):
    """A context, a question about it, and its answers, which are parts of the context.

    The answers are `{"text": […], "answer_start": […]}` as in SQuAD, or a text or a list of texts, of which the first
    occurrence counts. No answer at all means that the context does not answer the question. The model reads the
    question and then the context, in overlapping windows where that is too long.

    What is kept with each window: `texts`, the question and the context; `answers`, the texts of the answers, None
    where nothing is known; `span`, the first and the last token of the first answer in the window, [0, 0], the first
    token, where the window does not hold it whole, and None where no window does; `begin`, the index of its first token
    of the context, which is number `first` of the context, and `size`, how many these are; `window` and `windows`, its
    number among those of the question and how many there are.

    Attributes:
        context: Column of the context.
        question: Column of the question.
        answers: Column of the answers.
        overlap: Tokens of the context that a window shares with the one before it, at most half of what it has room
            for.
        may_lack_labels: Whether a row without answers is read too, as for prediction.

    Examples:
        >>> from lavra.data.examples.spans import SpanColumns
        >>> SpanColumns(overlap=64).names[:3]
        ('context', 'question', 'answers')
    """

    context: str = "context"
    question: str = "question"
    answers: str = "answers"
    overlap: int = 128
    may_lack_labels: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return (self.context, self.question)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read where a row has them."""
        return (self.context, self.question, self.answers, *BESIDE)

    def read(self, row: SourceDocument, bad_rows: BadRows) -> ExampleRow | None:
        """Return a row with its context as the prompt and its question as the completion.

        Its label `answers` is a list of texts, and `answer_start` the index of the character at which the first of them
        that is in the context begins there. None, counted, for a row that cannot be used.
        """
        fields, size = row.fields, fields_size(row)
        texts = [fields.get(self.context), fields.get(self.question)]
        missing = [name for name, text in zip(self.names, texts, strict=False) if text is None]
        if missing:
            bad_rows.add(MISSING_COLUMN, row.place, missing_column(" and ".join(missing), list(fields)), size=size)
            return None
        bad_rows.note_columns(row.file, [name for name in self.names if name in fields], fields)
        for name, text in zip(self.names, texts, strict=False):
            fault = NOT_TEXT if not isinstance(text, str) else fault_of(text)
            if fault:
                detail = f"{name!r} holds a {type(text).__name__}" if fault == NOT_TEXT else f"{name!r}"
                bad_rows.add(fault, row.place, detail, size=size)
                return None
        labels = {name: fields[name] for name in BESIDE if not is_nothing(fields.get(name))}
        if fields.get(self.answers) is not None:
            found = self._labels(row, str(texts[0]), bad_rows, size)
            if found is None:
                return None
            labels |= found
        elif not self.may_lack_labels:
            absent = self.answers not in fields
            detail = missing_column(self.answers, list(fields)) if absent else f"{self.answers!r} is empty"
            bad_rows.add(MISSING_COLUMN if absent else UNLABELLED, row.place, detail, size=size)
            return None
        return ExampleRow(row.source, row.place, str(texts[0]), str(texts[1]), labels=labels)

    def _labels(self, row: SourceDocument, context: str, bad_rows: BadRows, size: int) -> dict[str, Any] | None:
        """Return the answers of a row, and where the first that is in the context begins."""
        given = _answers(row.fields[self.answers])
        if given is None:
            bad_rows.add(BAD_LABEL, row.place, f"{self.answers!r} is not in the layout of SQuAD", size=size)
            return None
        given = [(text, start) for text, start in given if text.strip()]
        if not given:
            return {"answers": []}
        for text, start in given:
            place = _occurrence(context, text, start)
            if place is not None:
                if start is not None and place != start:
                    bad_rows.change(MOVED_ANSWER, row.place, f"{text[:40]!r} is at {place}, not {start}")
                elif start is None and context.count(text) > 1:
                    bad_rows.note(FIRST_OF_SEVERAL, row.place, repr(text[:40]))
                return {"answers": [text, *(other for other, _ in given if other != text)], "answer_start": place}
        bad_rows.add(ABSENT_ANSWER, row.place, repr(given[0][0][:60]), size=size)
        return None

    def encode(
        self, rows: Sequence[ExampleRow], tokenizer: Tokenizer, context: int | None
    ) -> list[tuple[LabelledTokens, ...]]:
        """Return the windows of each question: one where its context fits, none where that has no tokens."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))  # one context often comes with many questions
        contexts = dict(zip(distinct, encode_with_offsets(tokenizer, distinct), strict=True))
        questions = tokenizer.encode_many([row.completion for row in rows])
        layout = pair_layout(tokenizer)
        return [
            self._windows(row, contexts[row.prompt], question, layout, context)
            for row, question in zip(rows, questions, strict=True)
        ]

    def _windows(
        self, row: ExampleRow, placed: PlacedTokens, question: np.ndarray, layout: PairLayout, limit: int | None
    ) -> tuple[LabelledTokens, ...]:
        total = len(placed.ids)
        if not total:
            return ()
        around = len(layout.begin) + len(layout.middle) + len(layout.end)
        room = total + len(question) if limit is None else max(2, limit - around)
        asked = question[: room // 2] if len(question) + total > room else question
        room -= len(asked)
        before = [*layout.begin, *asked, *layout.middle]
        firsts = window_starts(total, room, self.overlap)
        span = _tokens_of(row, placed)
        if span is not None and not any(_holds(first, min(room, total - first), span) for first in firsts):
            span = None  # an answer that is longer than a window, or than what two of them share
        lost = span is None and row.labels.get("answers") is not None
        parts = []
        for number, first in enumerate(firsts):
            size = min(room, total - first)
            labels: dict[str, Any] = {
                "texts": [row.completion, row.prompt],
                "answers": row.labels.get("answers"),
                "span": _span_in(span, first, size, len(before)),
                "begin": len(before),
                "first": first,
                "size": size,
                "window": number,
                "windows": len(firsts),
            }
            if layout.second_kind:
                labels["second_type_from"] = len(before)
            tokens = np.array([*before, *placed.ids[first : first + size], *layout.end], np.int64)
            parts.append(LabelledTokens(tokens, labels, len(asked) < len(question), lost))
        return tuple(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {
            "context": self.context,
            "question": self.question,
            "answers": self.answers,
            "overlap": self.overlap,
        }


def window_starts(total: int, room: int, overlap: int) -> list[int]:
    """Return the numbers of the tokens at which overlapping windows begin; the last one ends with the last token.

    Args:
        total: Number of tokens.
        room: Largest number of tokens of a window.
        overlap: Tokens that a window shares with the one before it, at most half of the room.

    Examples:
        >>> window_starts(10, 4, 2), window_starts(3, 4, 2)
        ([0, 2, 4, 6], [0])
    """
    step = max(1, room - min(overlap, room // 2))
    return [*range(0, max(0, total - room), step), max(0, total - room)]


def _answers(value: Any) -> list[tuple[str, int | None]] | None:
    """Return the answers of a cell with the places that it gives them; None where it is not in any known layout."""
    if isinstance(value, str):
        return [(value, None)]
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, str):
            texts, starts = [texts], None if starts is None else [starts]
        if not isinstance(texts, list | tuple | np.ndarray):
            return None
        starts = [None] * len(texts) if starts is None else starts
        if len(starts) != len(texts):
            return None
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list | tuple | np.ndarray):
        return None
    found = []
    for one in value:
        text, start = (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (one, None)
        if not isinstance(text, str) or not (start is None or (isinstance(start, int | np.integer))):
            return None
        found.append((text, None if start is None else int(start)))
    return found


def _occurrence(context: str, text: str, start: int | None) -> int | None:
    """Return where a text occurs in the context: at `start`, else at the occurrence nearest to it; None if nowhere."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    place, best = context.find(text), None
    while place >= 0:
        if best is None or abs(place - (start or 0)) < abs(best - (start or 0)):
            best = place
        place = context.find(text, place + 1)
    return best


def _tokens_of(row: ExampleRow, placed: PlacedTokens) -> tuple[int, int] | None:
    """Return the first and the last token of the answer in the context; None where it is not known or there is none.

    Both are -1 where the context does not answer the question.
    """
    answers = row.labels.get("answers")
    if answers is None:
        return None
    if not answers:
        return -1, -1
    text = answers[0]
    start = _occurrence(row.prompt, text, row.labels["answer_start"])  # composing characters (NFC) moves it
    if start is None:
        return None
    offsets = placed.without_spaces(row.prompt)
    end = start + len(text.rstrip())
    start += len(text) - len(text.lstrip())
    inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 0] < offsets[:, 1]))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _holds(first: int, size: int, span: tuple[int, int]) -> bool:
    """Return whether a window of the context holds an answer as a whole; every window holds one that is nothing."""
    return span[0] < 0 or (span[0] >= first and span[1] < first + size)


def _span_in(span: tuple[int, int] | None, first: int, size: int, begin: int) -> list[int] | None:
    """Return the answer's tokens in a window, or the first token twice where the window does not hold it whole."""
    if span is None:
        return None
    if span[0] >= 0 and _holds(first, size, span):
        return [span[0] - first + begin, span[1] - first + begin]
    return [0, 0]
