"""Rows with a part to learn as ids: boundaries where generation has them, ends learned, nothing cut in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lavra.core.errors import InputError
from lavra.data.examples.chats import ChatTemplate, FailingTemplate, RefusedChat, Span
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.store import Kind
from lavra.data.examples.turns import ASSISTANT, texts_in
from lavra.data.readers.rows import (
    ANSWER_TOO_LONG,
    EXAMPLES,
    FAILING_TEMPLATE,
    NO_PART_TO_LEARN,
    REFUSED_CHAT,
    SPELLED_TOKEN,
    UNWRITTEN_PART,
    BadRows,
)
from lavra.data.tokenizers.prompt_ids import bos_before, encode_pairs, with_bos
from lavra.data.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers


_MARK = re.compile(r"<\|.*\|>")
"""How tokens are spelled that mark turns, in tokenizers that do not call them special."""

_NEEDED = ("tools", "tool_calls", "function_call")
"""Parts of a chat without which what is learned would be something else."""


@dataclass(slots=True)
class EncodedExample:
    """An example as ids: see `lavra.data.examples.store.Example`; with the UTF-8 bytes of the text that is learned."""

    tokens: np.ndarray
    learned: np.ndarray
    source: np.ndarray | None
    learned_bytes: int


@dataclass(slots=True)
class CutExamples:
    """How many examples were cut to fit, and where the first few lie.

    Attributes:
        prompts: prompts that lost their beginning.
        sources: encoder texts that lost their end.
        chats: chats that lost their last turns.
        places: the first few.
    """

    prompts: int = 0
    sources: int = 0
    chats: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str, *, prompts: int = 0, sources: int = 0, chats: int = 0) -> None:
        """Count one example."""
        self.prompts, self.sources, self.chats = self.prompts + prompts, self.sources + sources, self.chats + chats
        if len(self.places) < EXAMPLES:
            self.places.append(place)

    def summary(self, examples: int, context: int | None, source_context: int | None) -> str:
        """Return the cuts as lines for a person; an empty string when nothing was cut."""
        kinds = (
            (self.prompts, f"their prompts lost their beginnings, to fit {context} tokens"),
            (self.sources, f"their texts to read lost their ends, to fit {source_context} tokens"),
            (self.chats, f"they lost their last turns, to fit {context} tokens"),
        )
        places = ", ".join(self.places) + (", ..." if sum(count for count, _ in kinds) > EXAMPLES else "")
        lines = [f"{count:,} of {examples:,} examples were cut: {what}" for count, what in kinds if count]
        return "\n".join([*lines, f"the first are {places}"]) if lines else ""


class ExampleEncoder:
    """Turns rows into ids for one kind of model.

    A decoder's example is the prompt as generation reads it, with a beginning-of-text token where the tokenizer puts
    one, the completion and an end-of-document token; the last two are learned. The boundary is the one of
    `encode_pair`. An encoder-decoder reads the prompt and
    writes the completion, each within what the tokenizer's own post-processor puts around a text (T5: an end token;
    BART: a beginning and an end). A chat is the template's text, of which the assistant's turns are learned.

    Args:
        tokenizer: of the model.
        kind: of model.
        context: most positions on the decoder's side; None for no limit.
        source_context: most positions on the encoder's side; None for no limit.
        chat_template: for chats.
        bad_rows: is filled with the examples that cannot be used.

    Attributes:
        cut: what was cut to fit.
        unknown: learned tokens that stand for what the vocabulary cannot write.
        unwritten: parts of chats that the template leaves out, with the number of chats that have them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        kind: Kind,
        bad_rows: BadRows,
        *,
        context: int | None = None,
        source_context: int | None = None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.tokenizer, self.bad_rows = tokenizer, bad_rows
        self.kind: Kind = kind
        self.context, self.source_context, self.chat_template = context, source_context, chat_template
        self.cut = CutExamples()
        self.unknown = 0
        self.unwritten: Counter[str] = Counter()

    def encode(self, rows: Sequence[ExampleRow]) -> list[EncodedExample | None]:
        """Return each row as ids; None for those that cannot be used, which are counted in `bad_rows`.

        Raises:
            InputError: for chats without a template, or for a model that is no decoder.
        """
        pairs = [row for row in rows if not row.messages]
        pair = self._encode_for_decoder if self.kind == "decoder" else self._encode_for_both
        encoded = iter(pair(pairs))
        found = [self._encode_chat(row) if row.messages else next(encoded) for row in rows]
        if self.tokenizer.unknown not in (None, self.tokenizer.end_of_document):
            used = [one.tokens[one.learned] == self.tokenizer.unknown for one in found if one is not None]
            self.unknown += sum(int(unknown.sum()) for unknown in used)
        return found

    def _encode_for_decoder(self, rows: Sequence[ExampleRow]) -> list[EncodedExample | None]:
        found: list[EncodedExample | None] = []
        end = self.tokenizer.end_of_document
        ids = encode_pairs(self.tokenizer, [row.joined for row in rows])
        for row, (before, after) in zip(rows, ids, strict=True):
            read = with_bos(self.tokenizer, before)
            tokens = np.array([*read, *after, end], np.int64)
            learned = np.arange(len(tokens)) >= len(read)
            example = EncodedExample(tokens, learned, None, len(row.completion.encode()))
            found.append(self._fitted(row, example, len(read) - len(before), has_text=bool(after)))
        return found

    def _fitted(self, row: ExampleRow, example: EncodedExample, marks: int, *, has_text: bool) -> EncodedExample | None:
        """Cut the beginning of a prompt that is too long, keeping the `marks` before it."""
        if not has_text:
            return self._left_out(NO_PART_TO_LEARN, row, "the completion has no tokens")
        excess = 0 if self.context is None else len(example.tokens) - 1 - self.context
        if excess <= 0:
            return example
        first = int(example.learned.argmax())
        if excess >= first:
            return self._left_out(ANSWER_TOO_LONG, row, f"{len(example.tokens) - first} tokens, of {self.context}")
        self._cut(row, prompts=1)
        kept = np.r_[0:marks, marks + excess : len(example.tokens)]
        return replace(example, tokens=example.tokens[kept], learned=example.learned[kept])

    def _encode_for_both(self, rows: Sequence[ExampleRow]) -> list[EncodedExample | None]:
        begin, end = self.tokenizer.around_source
        found: list[EncodedExample | None] = []
        distinct = list(dict.fromkeys(row.prompt for row in rows))  # one passage often comes with many questions
        sources = dict(zip(distinct, self.tokenizer.encode_many(distinct), strict=True))
        targets = self.tokenizer.encode_many([row.completion for row in rows])
        for row, target in zip(rows, targets, strict=True):
            source = sources[row.prompt]
            if not len(target):
                found.append(self._left_out(NO_PART_TO_LEARN, row, "the completion has no tokens"))
                continue
            tokens = np.array([*begin, *target, *end], np.int64)
            if self.context is not None and len(tokens) > self.context:
                found.append(self._left_out(ANSWER_TOO_LONG, row, f"{len(tokens)} tokens, of {self.context}"))
                continue
            room = len(source) if self.source_context is None else self.source_context - len(begin) - len(end)
            if len(source) > room:
                self._cut(row, sources=1)
            read = np.array([*begin, *source[:room], *end], np.int64)
            size = len(row.completion.encode())
            found.append(EncodedExample(tokens, np.ones(len(tokens), bool), read, size))
        return found

    def _encode_chat(self, row: ExampleRow) -> EncodedExample | None:
        if self.kind != "decoder":
            raise InputError(
                f"{row.place} is a chat, and this model reads one text and writes another",
                "give columns of what is read and what is written, such as source and target",
            )
        if self.chat_template is None:
            raise InputError(
                f"{row.place} is a chat, and the tokenizer has no chat template",
                "start from a chat model, put chat_template.jinja beside the tokenizer, or give prompt and completion",
            )
        texts = texts_in([row.messages, row.given])
        spelled = next((name for name in self._marks if any(name in text for text in texts)), None)
        if spelled is not None:
            return self._left_out(SPELLED_TOKEN, row, spelled)
        parts = dict.fromkeys(name for turn in row.messages for name in turn if name not in ("role", "content"))
        unwritten = self.chat_template.unwritten([*parts, *row.given], tools="tools" in row.given)
        needed = [name for name in unwritten if name in _NEEDED]
        if needed:
            return self._left_out(UNWRITTEN_PART, row, ", ".join(needed))
        try:
            text, spans = self.chat_template.render(row.messages, row.given)
        except RefusedChat as error:
            return self._left_out(REFUSED_CHAT, row, str(error))
        except FailingTemplate as error:
            return self._left_out(FAILING_TEMPLATE, row, str(error))
        learned = self._learned_spans(row, spans)
        self.unwritten.update([*unwritten, *["turns of the assistant"] * (None in learned)])
        ids, offsets = self._encode_with_marks(text)
        runs = self._runs(ids, offsets, [span for span in learned if span is not None])
        return self._fitted_chat(row, ids, runs, text, offsets)

    def _learned_spans(self, row: ExampleRow, spans: list[Span | None]) -> list[Span | None]:
        """Return the spans of the turns that are learned; None for one that the template leaves out."""
        answers = [number for number, turn in enumerate(row.messages) if turn["role"] == ASSISTANT]
        both = zip(answers, spans, strict=True)
        return [span for number, span in both if number not in row.unlearned]

    def _runs(self, ids: np.ndarray, offsets: np.ndarray, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the tokens of each span as (start, end), with the mark after it that ends the turn."""
        runs = []
        for start, end in spans:
            within = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
            if not len(within):
                continue
            first, last = int(within[0]), int(within[-1]) + 1
            marked = np.isin(ids[first:last], list(self._marks.values())).any()
            ends = last < len(ids) and int(ids[last]) in self._marks.values()
            runs.append((first, last + (ends and not marked)))
        return runs

    def _fitted_chat(
        self, row: ExampleRow, ids: np.ndarray, runs: list[tuple[int, int]], text: str, offsets: np.ndarray
    ) -> EncodedExample | None:
        """Leave out what follows the last answer that fits, and of a prompt that is too long the beginning."""
        if not runs:
            return self._left_out(NO_PART_TO_LEARN, row, "the assistant's turns are empty")
        end = self.tokenizer.end_of_document
        bos = [] if int(ids[0]) in self._marks.values() else bos_before(self.tokenizer, empty=False)
        ended = np.isin(ids[slice(*runs[-1])], list(self._marks.values())).any()
        if not ended:  # the template marks no end, so the model would never learn to stop
            ids, offsets = np.append(ids[: runs[-1][1]], end), np.vstack([offsets[: runs[-1][1]], [[len(text)] * 2]])
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        limit = len(ids) if self.context is None else self.context + 1 - len(bos)
        fitting = [run for run in runs if run[1] <= limit] or runs[:1]
        if len(fitting) < len(runs):
            self._cut(row, chats=1)
        last = fitting[-1][1]
        learned = np.zeros(last, bool)
        for start, stop in fitting:
            learned[start:stop] = True
        size = _text_bytes(text, offsets[:last][learned & ~np.isin(ids[:last], list(self._marks.values()))])
        tokens = np.concatenate([bos, ids[:last]]).astype(np.int64)
        whole = EncodedExample(tokens, np.concatenate([[False] * len(bos), learned]).astype(bool), None, size)
        whole.learned[0] = False
        return self._fitted(row, whole, len(bos) or int(int(ids[0]) in self._marks.values()), has_text=True)

    @cached_property
    def _marks(self) -> dict[str, int]:
        """The tokens that text must not become, by their spelling: those that mark turns and ends.

        Tokens that were added as ordinary ones (`<think>`, `<tool_call>`) are text, and are learned like it.
        """
        tokenizer = self.tokenizer
        added = {
            token.content: number
            for number, token in tokenizer.inner.get_added_tokens_decoder().items()
            if token.special or number == tokenizer.end_of_document or _MARK.fullmatch(token.content)
        }
        text = {tokenizer.unknown} - {tokenizer.end_of_document}  # the unknown token stands for text
        return {name: number for name, number in added.items() if name.strip() and number not in text}

    def _encode_with_marks(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ids, and (tokens, 2) offsets in characters; the template's marks become special tokens."""
        encoding = self._library.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        """The library's tokenizer, for which a mark's spelling is the mark."""
        from tokenizers import Tokenizer as Library

        return Library.from_str(self.tokenizer.serialised)

    def _cut(self, row: ExampleRow, *, prompts: int = 0, sources: int = 0, chats: int = 0) -> None:
        """Count an example that is cut; an error where nothing may be cut."""
        self.bad_rows.cut(row.place)
        self.cut.add(row.place, prompts=prompts, sources=sources, chats=chats)

    def _left_out(self, kind: str, row: ExampleRow, detail: str) -> None:
        self.bad_rows.add(kind, row.place, detail)


def _text_bytes(text: str, offsets: np.ndarray) -> int:
    """Return the UTF-8 bytes of the characters that tokens cover; tokens of one character count it once."""
    size = reached = 0
    for start, end in offsets.tolist():
        size += len(text[max(start, reached) : end].encode())
        reached = max(reached, end)
    return size
