"""Sentences with a tag for each word: lists of words and tags, and the tokens on which the tags are learned."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from lavra.data.examples.labelled import BESIDE, LabelledTokens, LabelReader, is_nothing
from lavra.data.examples.rows import ExampleRow, fields_size
from lavra.data.readers.documents import fault_of
from lavra.data.readers.rows import (
    BAD_LABEL,
    EMPTY,
    MISSING_COLUMN,
    NOT_TEXT,
    ODD_TAGS,
    UNLABELLED,
    UNTAGGED,
    BadRows,
    SourceDocument,
)
from lavra.data.readers.tables import missing_column
from lavra.data.tokenizers.offsets import encode_with_offsets
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.text.bio import place_of, valid_bio

_WORD_OR_SIGN = re.compile(r"\w+(?:[-'’.]\w+)*|[^\w\s]")

NO_TOKEN = -1
"""What stands in the place of the first token of a word that has no tokens, such as an empty one."""


@dataclass(frozen=True)
class TaggedColumns(LabelReader):
    """A list of words in one column, and a list of as many tags in another.

    Words are encoded as they stand in a text, with a space before each but the first; where a tokenizer divides words
    without regard to spaces (BERT's), these are the ids that `transformers` makes of a list of words. A sentence that
    is longer than the context is cut between words into windows that share nothing, so that every tag is learned once.

    What is kept with each window: `tokens` and `tags`, its words and their tags (None for a word without one); `starts`
    the index of the first token of each word, or `NO_TOKEN`; `window` and `windows`, its number in the sentence and
    how many there are.

    Attributes:
        tokens: Column of the words.
        tags: Column of the tags: text, or whole numbers, which are their own names.
        may_lack_labels: Whether a row without tags is read too, as for prediction.

    Examples:
        >>> from lavra.data.examples.tagged import TaggedColumns
        >>> TaggedColumns("tokens", "ner_tags").to_json()
        {'tokens': 'tokens', 'tags': 'ner_tags'}
    """

    tokens: str = "tokens"
    tags: str = "tags"
    may_lack_labels: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return (self.tokens,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read where a row has them."""
        return (self.tokens, self.tags, *BESIDE)

    def read(self, row: SourceDocument, bad_rows: BadRows) -> ExampleRow | None:
        """Return a row with its words and tags as labels; None, counted, where they do not belong together."""
        fields = row.fields
        if fields.get(self.tokens) is None:
            detail = missing_column(self.tokens, list(fields))
            bad_rows.add(MISSING_COLUMN, row.place, detail, size=fields_size(row))
            return None
        bad_rows.note_columns(row.file, [name for name in self.names if name in fields], fields)
        words, tags = _listed(fields[self.tokens]), _listed(fields.get(self.tags))
        fault = self._fault(words, tags, fields)
        if fault is not None:
            bad_rows.add(fault[0], row.place, fault[1], size=fields_size(row))
            return None
        assert isinstance(words, list)
        labels: dict[str, Any] = {"tokens": words}
        if isinstance(tags, list):
            labels["tags"] = [_tag(tag) for tag in tags]
            self._note(row.place, labels["tags"], bad_rows)
        labels |= {name: fields[name] for name in BESIDE if not is_nothing(fields.get(name))}
        return ExampleRow(row.source, row.place, " ".join(words), "", labels=labels)

    def _fault(self, words: Any, tags: Any, fields: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return why a row cannot be used and what exactly is wrong; None where it can."""
        if not isinstance(words, list):
            return NOT_TEXT, f"{self.tokens!r} holds a {type(words).__name__}, not a list of words"
        odd = next((word for word in words if not isinstance(word, str)), None)
        if odd is not None or None in words:
            return NOT_TEXT, f"{self.tokens!r} holds a {type(odd).__name__} among the words"
        if fault := fault_of(" ".join(words)):
            return (fault, "") if words else (EMPTY, f"{self.tokens!r} is an empty list")
        if tags is None or (isinstance(tags, list) and all(map(is_nothing, tags)) and len(tags) == len(words)):
            if self.may_lack_labels:
                return None
            if self.tags not in fields:
                return MISSING_COLUMN, missing_column(self.tags, list(fields))
            return UNLABELLED, f"{self.tags!r} is empty"
        if not isinstance(tags, list):
            return BAD_LABEL, f"{self.tags!r} holds a {type(tags).__name__}, not a list of tags"
        if len(tags) != len(words):
            return BAD_LABEL, f"{len(words)} words and {len(tags)} tags"
        for number, tag in enumerate(tags, start=1):
            if not (is_nothing(tag) or isinstance(tag, str) or _is_whole(tag)):
                return BAD_LABEL, f"tag {number} is {tag!r}, neither text nor a whole number"
        return None

    def _note(self, place: str, tags: list[str | None], bad_rows: BadRows) -> None:
        """Note tags that are missing, and those that look like BIO and break its rules."""
        if None in tags:
            bad_rows.note(UNTAGGED, place, f"{tags.count(None)} of {len(tags)}")
        known = [tag for tag in tags if tag is not None]
        is_bio = all(place_of(tag) in ("O", "B", "I") for tag in known)
        if is_bio and (violation := valid_bio(known)) is not None:
            bad_rows.note(ODD_TAGS, place, str(violation))

    def encode(
        self, rows: Sequence[ExampleRow], tokenizer: Tokenizer, context: int | None
    ) -> list[tuple[LabelledTokens, ...]]:
        """Return the windows of each sentence: one where it fits, none where it has no tokens."""
        return [
            _windows(row.labels["tokens"], row.labels.get("tags"), ids, starts, tokenizer, context)
            for row, (ids, starts) in zip(
                rows, _encoded([row.labels["tokens"] for row in rows], tokenizer), strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {"tokens": self.tokens, "tags": self.tags}


def words_and_signs(text: str) -> list[str]:
    """Return the words of a text and its punctuation marks one by one, as tagged sentences usually have them.

    Examples:
        >>> words_and_signs("Disse-lhe: d'água, não!")
        ['Disse-lhe', ':', "d'água", ',', 'não', '!']
    """
    return _WORD_OR_SIGN.findall(text)


def _encoded(sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the ids of each sentence, and the (words,) index of the first token of each word, or `NO_TOKEN`."""
    texts = [" ".join(words) for words in sentences]
    found = []
    for words, placed in zip(sentences, encode_with_offsets(tokenizer, texts), strict=True):
        # A token belongs to the word in which it begins; the space before a word counts as a part of the word.
        ends = np.array(list(accumulate(map(len, words), lambda end, size: end + 1 + size)), np.int64)
        word = np.searchsorted(ends, placed.offsets[:, 0], side="right").clip(max=len(words) - 1)
        starts = np.full(len(words), NO_TOKEN, np.int64)
        starts[word[::-1]] = np.arange(len(word))[::-1]  # the first of several is written last
        found.append((placed.ids, starts))
    return found


def _windows(
    words: Sequence[str],
    tags: Sequence[str | None] | None,
    ids: np.ndarray,
    starts: np.ndarray,
    tokenizer: Tokenizer,
    context: int | None,
) -> tuple[LabelledTokens, ...]:
    if not len(ids):
        return ()
    begin, end = tokenizer.around_source
    room = len(ids) if context is None else max(1, context - len(begin) - len(end))
    borders = [0, len(words)] if len(ids) <= room else _borders(starts, len(ids), room)
    parts = []
    for number, (first, last) in enumerate(pairwise(borders)):
        own = starts[first:last]
        own = own[own != NO_TOKEN]
        left = int(own[0])
        right = next((int(start) for start in starts[last:] if start != NO_TOKEN), len(ids))
        kept = ids[left:right][:room]
        labels = {
            "tokens": list(words[first:last]),
            "tags": None if tags is None else list(tags[first:last]),
            "starts": np.where(
                starts[first:last] == NO_TOKEN, NO_TOKEN, starts[first:last] - left + len(begin)
            ).tolist(),
            "window": number,
            "windows": len(borders) - 1,
        }
        parts.append(LabelledTokens(np.array([*begin, *kept, *end], np.int64), labels, len(kept) < right - left))
    return tuple(parts)


def _borders(starts: np.ndarray, tokens: int, room: int) -> list[int]:
    """Return the indices of the words at which windows begin, and the number of words.

    There are as few windows as possible, and these are as equal as possible: the smallest room with which there are no
    more is found by halving.
    """
    # A word without tokens goes with the word before it, and several at the beginning with the first that has some.
    having = np.flatnonzero(starts != NO_TOKEN)
    sizes = np.diff(np.append(starts[having], tokens)).tolist()

    def cut(room: int) -> list[int]:
        begins, filled = [0], 0
        for number, size in enumerate(sizes):
            if filled and filled + size > room:
                begins.append(int(having[number]))
                filled = 0
            filled += size
        return begins

    least = len(cut(room))
    low, high = 1, room
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cut(middle)) <= least else (middle + 1, high)
    return [*cut(high), len(starts)]


def _listed(value: object) -> object:
    """Return a list for any sequence that a file format gives, and other values as they are."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _is_whole(tag: object) -> bool:
    return not isinstance(tag, bool) and (isinstance(tag, int) or (isinstance(tag, float) and tag.is_integer()))


def _tag(tag: Any) -> str | None:
    """Return the name of a tag; None for a word without one."""
    if is_nothing(tag):
        return None
    return tag.strip() if isinstance(tag, str) else str(int(tag))
