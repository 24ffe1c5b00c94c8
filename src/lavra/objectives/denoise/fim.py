"""Filling in the middle (Bavarian et al. 2022, arXiv 2207.14255): some texts are read with their middle at the end.

Both cuts are between characters, so that a middle may begin and end inside a word, and the three sections are tokenised
each by itself, as they are when somebody asks for a middle. Only the words at the cuts get other tokens for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lavra.data.tokenizers.token_bytes import BytePieces, token_bytes
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.protocols import IGNORED
from lavra.objectives.base import MEASURED, Loss
from lavra.objectives.causal import Causal
from lavra.objectives.denoise.layouts import Laid, left_to_right
from lavra.objectives.denoise.marks import Infilling, infilling_of, required
from lavra.objectives.denoise.rows import Part, batch_of_parts

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.models.protocols import Batch, Model

ROOM = 12
"""Tokens that a text may grow by: one before it, three before its sections, and those of the words at the cuts."""

Sections = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The ids of prefix, middle and suffix."""


class Cutter:
    """Cuts texts, given as tokens, into three sections between characters.

    Where a tokenizer changes a text (it lower-cases or adds a space), or the text holds special tokens, cuts are
    between tokens, because sections that are tokenised by themselves would not give back the text.

    Args:
        tokenizer: Tokenizer that made the tokens.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> tokens = np.array(tokenizer.encode("a rosa rosa"))
        >>> [tokenizer.decode(section) for section in Cutter(tokenizer).sections(tokens, (4, 9))]
        ['a ro', 'sa ro', 'sa']
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.between_characters = tokenizer.byte_level
        self._bytes = token_bytes(tokenizer) if self.between_characters else []
        self._pieces = BytePieces(tokenizer) if self.between_characters else None

    def cut(self, tokens: np.ndarray, stream: np.random.Generator) -> Sections:
        """Return the sections of a text at two places that are drawn uniformly.

        Args:
            tokens: Ids of the text, (length,).
            stream: Random generator.
        """
        places = self.places(tokens)
        first, last = sorted(int(number) for number in stream.integers(len(places), size=2))
        return self.sections(tokens, (int(places[first]), int(places[last])))

    def places(self, tokens: np.ndarray) -> np.ndarray:
        """Return the places at which a text may be cut: bytes before each character and at the end; or tokens.

        Args:
            tokens: Ids of the text, (length,).
        """
        spelled = self._spelled(tokens)
        if spelled is None:
            return np.arange(len(tokens) + 1)
        text = np.frombuffer(b"".join(spelled), np.uint8)
        return np.append(np.flatnonzero(text & 0xC0 != 0x80), len(text))  # 10xxxxxx continues a character of UTF-8

    def sections(self, tokens: np.ndarray, cuts: tuple[int, int]) -> Sections:
        """Return the sections of a text between given places.

        Args:
            tokens: Ids of the text, (length,).
            cuts: Two of its `places`, the smaller first.
        """
        first, last = cuts
        spelled = self._spelled(tokens)
        if spelled is None:
            return tokens[:first], tokens[first:last], tokens[last:]
        ends = np.cumsum([0, *(len(one) for one in spelled)])
        text = b"".join(spelled)
        borders = self._borders(text, ends)
        return (
            self._section(tokens, text, ends, borders, (0, first)),
            self._section(tokens, text, ends, borders, (first, last)),
            self._section(tokens, text, ends, borders, (last, len(text))),
        )

    def _section(
        self, tokens: np.ndarray, text: bytes, ends: np.ndarray, borders: np.ndarray, span: tuple[int, int]
    ) -> np.ndarray:
        """Return the ids of a span of bytes: those of the text between borders of words, and new ones at its ends."""
        start, stop = span
        inside = borders[(borders >= start) & (borders <= stop)]
        if not len(inside):
            return self._encoded(text[start:stop])
        left, right = int(inside[0]), int(inside[-1])
        kept = tokens[np.searchsorted(ends, left) : np.searchsorted(ends, right)]
        return np.concatenate([self._encoded(text[start:left]), kept, self._encoded(text[right:stop])])

    def _borders(self, text: bytes, ends: np.ndarray) -> np.ndarray:
        """Return the places in bytes at which a text can be cut without other tokens for it: single spaces in it.

        A single space between other characters is a border of words for every tokenizer in use
        (`lavra.data.tokenizers.streaming`); the ends of a text are borders, too.
        """
        characters = np.frombuffer(text, np.uint8)
        white = np.isin(characters, _WHITE)
        alone = (characters[1:-1] == _SPACE) & ~white[:-2] & ~white[2:]
        single = np.flatnonzero(alone) + 1 if len(characters) > 2 else np.zeros(0, np.int64)
        single = single[np.isin(single, ends)]  # a merge across it, in a tokenizer that has such
        return np.concatenate([[0], single, [len(text)]])

    def _encoded(self, piece: bytes) -> np.ndarray:
        if not piece:
            return np.zeros(0, np.int64)
        try:
            return self._tokenizer.encode_many([piece.decode()])[0].astype(np.int64)
        except UnicodeDecodeError:  # a window may begin or end inside a character
            assert self._pieces is not None
            return np.array(self._pieces.ids(piece), np.int64)

    def _spelled(self, tokens: np.ndarray) -> list[bytes] | None:
        """Return the bytes of each token; None where cuts are between tokens, also because one of them is no text."""
        if not self.between_characters:
            return None
        spelled = [self._bytes[number] for number in tokens.tolist()]
        known = [one for one in spelled if one is not None]
        return known if len(known) == len(spelled) else None


_SPACE = 0x20
_WHITE = np.frombuffer(b" \t\n\r\x0b\x0c", np.uint8)


def infilled(first: int, sections: Sections, marks: Infilling, end: int, *, suffix_first: bool) -> Laid:
    """Return a text with its middle at the end; every token of the text is predicted, and the end of the middle.

    Args:
        first: Id that is read first, which begins documents.
        sections: Ids of prefix, middle and suffix.
        marks: Ids of the tokens before the sections, which are given and not predicted.
        end: Id that ends the middle.
        suffix_first: Whether the order is suffix, prefix, middle (SPM) and not prefix, suffix, middle (PSM). In the
            former, prefix and middle follow each other without a mark (section 4.4 of the paper).
    """
    prefix, middle, suffix = (section.astype(np.int64) for section in sections)
    pieces = (
        ([marks.prefix, marks.suffix], suffix, [marks.middle], prefix, [], middle)
        if suffix_first
        else ([marks.prefix], prefix, [marks.suffix], suffix, [marks.middle], middle)
    )
    whole = np.concatenate([[first], *pieces, [end]]).astype(np.int64)
    given = np.concatenate(
        [[True], *(np.full(len(piece), number % 2 == 0) for number, piece in enumerate(pieces)), [False]]
    )
    return Laid(whole[:-1], np.where(given, IGNORED, whole)[1:])


def restored_infilled(laid: Laid, marks: Infilling) -> np.ndarray:
    """Return the text that `infilled` laid out, as ids; their text is the original one, also where they are others.

    Args:
        laid: What is read and what is predicted.
        marks: Ids of the tokens before the sections.
    """
    read = laid.inputs[1:].tolist()
    suffix, middle = read.index(marks.suffix), read.index(marks.middle)
    # With the suffix first, prefix and middle stand together; without a prefix both orders are the same.
    return np.array([*read[1:suffix], *read[middle + 1 :], *read[suffix + 1 : middle]], np.int64)


@dataclass(frozen=True, eq=False)
class FillInTheMiddle:
    """Next-token prediction on packed windows, where some texts have their middle at the end.

    Every part of a document in a window is a text of its own, so that no cut crosses the border of a document. All
    tokens of a text are predicted in either order. What is only measured is read from left to right, so that losses are
    those of a causal model; how well middles are filled in is measured by `lavra.evaluation.infilling`.

    Attributes:
        context: Tokens of a window. A text with its middle at the end is up to `ROOM` tokens longer; one that would be
            longer is cut between tokens.
        marks: Ids of the tokens before the sections.
        end: Id that ends documents and middles.
        begin: Id that begins documents.
        cutter: Cuts texts into sections.
        rate: Share of the texts that have their middle at the end; with 0 it is the causal objective, to the bit.
        spm_share: Share of these that begin with the suffix.
        isolate: Whether each document is a text of its own. Otherwise a window is one text.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.
        compiled: Whether the loss may be compiled by `torch.compile`, as the blocks of the model are.
    """

    context: int
    marks: Infilling
    end: int
    begin: int
    cutter: Cutter = field(repr=False)
    rate: float = 0.5
    spm_share: float = 0.5
    isolate: bool = True
    label_smoothing: float = 0.0
    compiled: bool = False

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each window.

        Args:
            rows: Windows of a token store.
            streams: Function from a place in `rows` to the random generator that cuts the texts of that window.
            progress: Share of the run that is done; with `MEASURED` all texts are read from left to right.
        """
        if not self.rate or progress >= MEASURED:
            return Causal(self.context, self.isolate).encode(rows, streams, progress)
        return batch_of_parts(rows, streams, self.lay_out, self.context, self.end, isolate=self.isolate)

    def lay_out(self, part: Part, stream: np.random.Generator) -> Laid:
        """Return what a model reads and predicts of one part of a document.

        Args:
            part: Part of a document.
            stream: Random generator.
        """
        if stream.random() >= self.rate or not len(part.tokens):
            return left_to_right(part.before, part.whole)
        suffix_first = bool(stream.random() < self.spm_share)
        sections = self.cutter.cut(part.tokens, stream)
        laid = infilled(self.begin, sections, self.marks, self.end, suffix_first=suffix_first)
        if len(laid) <= self.context + ROOM:
            return laid
        # Only a text of almost a whole window, with very long words at the cuts, leaves no room for their new tokens.
        first, last = sorted(int(place) for place in stream.integers(len(part.tokens) + 1, size=2))
        sections = part.tokens[:first], part.tokens[first:last], part.tokens[last:]
        return infilled(self.begin, sections, self.marks, self.end, suffix_first=suffix_first)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the batch's targets in nats, each times its weight.

        Args:
            model: Model that computes the features and owns the output projection.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.
        """
        return Causal(self.context, self.isolate, self.label_smoothing, self.compiled).loss(
            model, batch, learning=learning
        )


def fim_for(
    tokenizer: Tokenizer,
    context: int,
    *,
    rate: float = 0.5,
    spm_share: float = 0.5,
    isolate: bool = True,
    label_smoothing: float = 0.0,
) -> FillInTheMiddle:
    """Return the objective of filling in the middle for texts of a tokenizer.

    Args:
        tokenizer: Tokenizer that made the texts.
        context: Tokens of a window.
        rate: Share of the texts that have their middle at the end.
        spm_share: Share of these that begin with the suffix.
        isolate: Whether each document is a text of its own.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.

    Raises:
        InputError: If the tokenizer has no tokens for prefix, suffix and middle.
    """
    marks = infilling_of(tokenizer)
    if marks is None:
        marks = Infilling(*required(tokenizer, ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]))
    return FillInTheMiddle(
        context,
        marks,
        tokenizer.end_of_document,
        tokenizer.document_bos,
        Cutter(tokenizer),
        rate,
        spm_share,
        isolate,
        label_smoothing,
    )
