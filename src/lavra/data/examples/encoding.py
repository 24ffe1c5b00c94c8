"""Encodes rows with a part to learn as ids, with the boundaries that generation has; whatever is cut is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.examples.chats import ChatTemplate, FailingTemplate, RefusedChat, Span
from lavra.data.examples.labelled import LabelReader
from lavra.data.examples.rows import ExampleRow, text_size
from lavra.data.examples.store import Kind
from lavra.data.examples.turns import ASSISTANT, texts_in
from lavra.data.readers.rows import (
    ANSWER_TOO_LONG,
    CUT_EXAMPLE,
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


# Matches tokens that begin or end turns in tokenizers that do not mark them as special.
_MARK = re.compile(r"<\|.*\|>")

# Names of the parts without which a chat has another meaning, so that it is left out where the template cannot write
# them.
_NEEDED = ("tools", "tool_calls", "function_call")

# Names of other parts that hold what was said or read, which are lost where the template does not write them.
_TURNS = "turns of the assistant"
_SAID = (_TURNS, "reasoning_content", "reasoning", "thinking", "documents")


@dataclass(slots=True)
class EncodedExample:
    """An example as ids, before it has a number; see `lavra.data.examples.store.Example` for the arrays.

    Attributes:
        tokens: (n,) int64 ids.
        learned: (n,) bool; whether each token is learned.
        source: (m,) int64 ids that an encoder reads; None for a decoder.
        learned_bytes: Bytes of the text that is learned, as UTF-8.
        labels: What is kept with a labelled text, as plain values.
    """

    tokens: np.ndarray
    learned: np.ndarray
    source: np.ndarray | None
    learned_bytes: int
    labels: Mapping[str, Any] | None = None


@dataclass(slots=True)
class CutExamples:
    """The number of examples that were cut to fit the context, and the places of the first few.

    Attributes:
        prompts: Number of prompts that lost their beginning.
        sources: Number of sources, the texts that an encoder reads, that lost their end.
        chats: Number of chats that lost their last turns.
        texts: Number of labelled texts that lost their end.
        places: Places of the first few, as "file:line".
    """

    prompts: int = 0
    sources: int = 0
    chats: int = 0
    texts: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str, *, prompts: int = 0, sources: int = 0, chats: int = 0, texts: int = 0) -> None:
        """Count one example at `place` that was cut in one or more of the ways."""
        self.prompts, self.sources, self.chats = self.prompts + prompts, self.sources + sources, self.chats + chats
        self.texts += texts
        if len(self.places) < EXAMPLES:
            self.places.append(place)

    def summary(self, examples: int, context: int | None, source_context: int | None) -> str:
        """Return the cuts as lines for a person; an empty string when nothing was cut.

        Args:
            examples: Number of all examples.
            context: Number of tokens that fit on the decoder's side.
            source_context: Number of tokens that fit on the encoder's side.

        Examples:
            >>> from lavra.data.examples.encoding import CutExamples
            >>> cut = CutExamples()
            >>> cut.add("questions.jsonl:7", prompts=1)
            >>> print(cut.summary(1200, context=512, source_context=None))
            cut to fit 512 tokens: the beginning of the prompt in 1 of 1,200 examples
            cut examples: questions.jsonl:7
        """
        kinds = (
            (self.prompts, f"cut to fit {context} tokens: the beginning of the prompt"),
            (self.sources, f"cut to fit {source_context} tokens: the end of the source"),
            (self.chats, f"cut to fit {context} tokens: the last turns of the chat"),
            (self.texts, f"cut to fit {context} tokens: the end of the text"),
        )
        places = ", ".join(self.places) + (", ..." if sum(count for count, _ in kinds) > EXAMPLES else "")
        lines = [f"{what} in {count:,} of {counted(examples, 'example')}" for count, what in kinds if count]
        return "\n".join([*lines, f"cut examples: {places}"]) if lines else ""


class ExampleEncoder:
    """Turns rows into ids for one kind of model.

    A decoder's example is the prompt as generation reads it, with a beginning-of-text token where the tokenizer puts
    one, the completion and an end-of-document token; the last two are learned. The boundary is the one of
    `encode_pair`. An encoder-decoder reads the prompt and writes the completion, each with the tokens that the
    tokenizer's own post-processor puts around a text (T5: an end token; BART: a beginning and an end). A chat is the
    text that its template makes, of which the assistant's turns are learned.

    Args:
        tokenizer: Tokenizer of the model.
        kind: Kind of the model.
        bad_rows: Is filled with the examples that cannot be used.
        context: Largest number of positions on the decoder's side; no limit by default.
        source_context: Largest number of positions on the encoder's side; no limit by default.
        chat_template: Template for chats; without it, a chat is an error.
        reader: What encodes labelled rows; None for other kinds.

    Attributes:
        cut: Number of examples that were cut to fit.
        unknown: Number of learned tokens that stand for what the vocabulary cannot write.
        unwritten: Parts of chats that the template leaves out, with the number of chats that have them.

    Examples:
        >>> from lavra.data.examples.encoding import ExampleEncoder
        >>> from lavra.data.examples.rows import ExampleRow
        >>> from lavra.data.readers.rows import BadRows
        >>> from lavra.data.tokenizers.tokenizer import Tokenizer
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> encoder = ExampleEncoder(tokenizer, "decoder", BadRows())
        >>> [example] = encoder.encode([ExampleRow("poems", "poems.jsonl:1", "a", " rosa")])
        >>> tokenizer.decode(example.tokens, special=True)
        '<|endoftext|>a rosa<|endoftext|>'
        >>> tokenizer.decode(example.tokens[example.learned], special=True)
        ' rosa<|endoftext|>'
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
        reader: LabelReader | None = None,
    ) -> None:
        self.tokenizer, self.bad_rows, self.reader = tokenizer, bad_rows, reader
        self.kind: Kind = kind
        self.context, self.source_context, self.chat_template = context, source_context, chat_template
        self.cut = CutExamples()
        self.unknown = 0
        self.unwritten: Counter[str] = Counter()

    def encode(self, rows: Sequence[ExampleRow]) -> list[EncodedExample | None]:
        """Return each row as ids, or None for a row that cannot be used, which is counted in `bad_rows`.

        Raises:
            InputError: for a chat without a template, or for a model that is no decoder.
        """
        pairs = [row for row in rows if not row.messages]
        encoded = iter((self._encode_for_decoder if self.kind == "decoder" else self._encode_for_both)(pairs))
        found = [self._encode_chat(row) if row.messages else next(encoded) for row in rows]
        if self.tokenizer.unknown not in (None, self.tokenizer.end_of_document):
            used = [one.tokens[one.learned] == self.tokenizer.unknown for one in found if one is not None]
            self.unknown += sum(int(unknown.sum()) for unknown in used)
        return found

    def encode_parts(self, rows: Sequence[ExampleRow]) -> list[list[EncodedExample]]:
        """Return the examples of each row: one, none of a row that cannot be used, or several of a labelled row."""
        if self.kind == "labelled":
            return self._encode_labelled(rows)
        return [[] if one is None else [one] for one in self.encode(rows)]

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
        """Return an example whose prompt is cut at its beginning where it is too long.

        The first `marks` tokens, which stand before the prompt, are kept. None where the answer alone is too long.
        """
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

    def _encode_labelled(self, rows: Sequence[ExampleRow]) -> list[list[EncodedExample]]:
        """Return the texts of labelled rows, as their reader encodes them; a row without tokens is left out."""
        if self.reader is None:
            raise ValueError("labelled rows are encoded by their reader")
        found = []
        for row, parts in zip(rows, self.reader.encode(rows, self.tokenizer, self.context), strict=True):
            if any(part.cut for part in parts):
                self._cut(row, texts=1)
            if any(part.lost for part in parts):
                self.bad_rows.lose(ANSWER_TOO_LONG, row.place, "no part of the context holds it whole")
            if not parts:
                self._left_out(NO_PART_TO_LEARN, row, "no tokens")
            size = (len(row.prompt.encode()) + len(row.completion.encode())) // max(1, len(parts))
            found.append(
                [
                    EncodedExample(
                        part.tokens,
                        np.zeros(len(part.tokens), bool),
                        None,
                        size,
                        {**row.labels, **part.labels, "place": row.place},
                    )
                    for part in parts
                ]
            )
        return found

    def _encode_chat(self, row: ExampleRow) -> EncodedExample | None:
        if self.kind != "decoder":
            raise InputError(
                f"{row.place} is a chat, and an encoder-decoder cannot be trained on chats",
                "give a column of the text to read and one of the text to write, such as source and target",
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
        unwritten += [_TURNS] * (None in learned)
        said = [name for name in unwritten if name in _SAID]
        if said:
            self.bad_rows.lose(UNWRITTEN_PART, row.place, ", ".join(said))
        self.unwritten.update(unwritten)
        ids, offsets = self._encode_with_marks(text)
        runs = self._runs(ids, offsets, [span for span in learned if span is not None])
        return self._fitted_chat(row, ids, runs, text, offsets)

    def _learned_spans(self, row: ExampleRow, spans: list[Span | None]) -> list[Span | None]:
        """Return the spans of the turns that are learned, with None for a turn that the template leaves out."""
        answers = [number for number, turn in enumerate(row.messages) if turn["role"] == ASSISTANT]
        both = zip(answers, spans, strict=True)
        return [span for number, span in both if number not in row.unlearned]

    def _runs(self, ids: np.ndarray, offsets: np.ndarray, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the tokens of each span as (start, end), with the token after it that ends the turn."""
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
        """Return a chat cut to fit: without what follows the last answer that fits, and without the beginning of a
        prompt that is still too long."""
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
        """The ids, by their spelling, of the tokens that text must not become, because they begin or end turns.

        Tokens that were added as ordinary ones (`<think>`, `<tool_call>`) are text, and are learned as text.
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
        """Return the (tokens,) ids of a rendered chat, in which the template's special tokens become such.

        Returns:
            The ids, and the (tokens, 2) start and end of each token in characters.
        """
        encoding = self._library.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int64), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        """The library's tokenizer, which turns the spelling of a special token into that token."""
        from tokenizers import Tokenizer as Library

        return Library.from_str(self.tokenizer.serialised)

    def _cut(self, row: ExampleRow, *, prompts: int = 0, sources: int = 0, chats: int = 0, texts: int = 0) -> None:
        """Count an example that is cut; under the policy "strict" it is an error."""
        self.bad_rows.lose(CUT_EXAMPLE, row.place)
        self.cut.add(row.place, prompts=prompts, sources=sources, chats=chats, texts=texts)

    def _left_out(self, kind: str, row: ExampleRow, detail: str) -> None:
        self.bad_rows.take_back(kind, row.place, detail, size=text_size(row))


def _text_bytes(text: str, offsets: np.ndarray) -> int:
    """Return the UTF-8 bytes of the characters that tokens cover; a character of several tokens is counted once."""
    size = reached = 0
    for start, end in offsets.tolist():
        size += len(text[max(start, reached) : end].encode())
        reached = max(reached, end)
    return size
