"""Denoising on packed windows: texts with holes, in one sequence or for an encoder and a decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lavra.config.denoising import Denoiser
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.objectives.base import Loss, loss_at_targets, padded_width
from lavra.objectives.denoise.layouts import (
    Laid,
    encoder_and_decoder,
    left_to_right,
    masked_next,
    one_sequence,
    prefix_and_rest,
    with_sentinels,
)
from lavra.objectives.denoise.marks import MODES, mask_of, required, sentinels_of
from lavra.objectives.denoise.patterns import Spans, Suffix, Tokens, pattern_of
from lavra.objectives.denoise.rows import ROW_STEP, Part, batch_of_parts
from lavra.objectives.room import expected_longest
from lavra.objectives.seq2seq import Shift

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.models.protocols import Batch, Model


@dataclass(frozen=True, eq=False)
class Denoise:
    """Prediction of hidden parts of texts from the rest, by a mixture of denoisers (UL2, arXiv 2205.05131).

    The parts of documents in a window are laid out one by one, each by a denoiser that is drawn for it, and share a
    row. A part of a document without text, which holds its end alone, is laid out without anything hidden.

    For a decoder, the text with holes and its hidden spans are one sequence, of which the spans are learned; a hidden
    end needs no sentinel. For an encoder-decoder, the encoder reads the text with holes, as T5 does.

    Attributes:
        context: Tokens of a window. What is made of them is longer.
        denoisers: The mixture.
        sentinels: Ids of the sentinels in their order.
        end: Id that ends documents and answers.
        modes: Id of the mode token of each mode of the mixture.
        around: Ids that an encoder reads before and after a text; None for a decoder alone.
        shift: Function from the targets to the ids that the decoder of an encoder-decoder reads; None for a decoder.
        bidirectional: Whether what is given is seen in both directions; an encoder always does.
        isolate: Whether each document is a text of its own. Otherwise a window is one text.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.

    Raises:
        InputError: If the denoisers hide spans and there are no sentinels.
    """

    context: int
    denoisers: tuple[Denoiser, ...]
    sentinels: tuple[int, ...]
    end: int
    modes: dict[str, int] = field(default_factory=dict)
    around: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    shift: Shift | None = None
    bidirectional: bool = True
    isolate: bool = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.sentinels and any(one.mean is not None or self.around is not None for one in self.denoisers):
            raise InputError(
                "the tokenizer has no sentinels such as <extra_id_0>", "give `lavra train` the text itself"
            )

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each window, which holds the laid-out parts of its documents.

        Args:
            rows: Windows of a token store.
            streams: Function from a place in `rows` to the random generator that hides parts of that window.
            progress: Not used.
        """
        return batch_of_parts(rows, streams, self.lay_out, self.context, self.end, isolate=self.isolate)

    def lay_out(self, part: Part, stream: np.random.Generator) -> Laid:
        """Return what a model reads and predicts of one part of a document.

        Args:
            part: Part of a document.
            stream: Random generator.
        """
        denoiser = self._drawn(stream)
        mode = self.modes.get(denoiser.mode) if denoiser.mode else None
        pattern = pattern_of(denoiser, len(self.sentinels))
        if self.around is None and isinstance(pattern, Suffix):
            whole = part.whole
            laid = prefix_and_rest(part.before if mode is None else mode, whole, pattern.hidden(len(whole), stream))
        else:
            hidden = pattern.hidden(len(part.tokens), stream)
            corrupted, answer = with_sentinels(part.tokens, hidden, self.sentinels)
            if self.around is None:
                laid = one_sequence(part.before if mode is None else mode, corrupted, answer, self.end)
            else:
                before, after = self.around
                source = np.concatenate([before, [] if mode is None else [mode], corrupted, after]).astype(np.int64)
                shifted = None if self.shift is None else self.shift([*answer.tolist(), self.end])
                return encoder_and_decoder(source, answer, self.end, shifted)
        return laid if self.bidirectional else replace(laid, prefix=0)

    def _drawn(self, stream: np.random.Generator) -> Denoiser:
        """Return the denoiser that is drawn by the weights of the mixture; nothing is drawn where there is only one."""
        if len(self.denoisers) == 1:
            return self.denoisers[0]
        borders = np.cumsum([one.weight for one in self.denoisers])
        return self.denoisers[int(np.searchsorted(borders, stream.random() * borders[-1], side="right"))]

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the hidden parts in nats, each target times its weight.

        Args:
            model: Model that computes the features and owns the output projection.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.
        """
        return loss_at_targets(model, batch, self.label_smoothing if learning else 0.0)


@dataclass(frozen=True, eq=False)
class MaskedAndCausal:
    """A mixture of masked and of causal texts for one decoder (GPT-BERT, Charpentier and Samuel 2024, 2410.24159).

    Each part of a document is either read from left to right, or with masks and in both directions; the same head then
    predicts what comes next.

    Attributes:
        context: Tokens of a window.
        mask: Id that hides a token.
        masked_share: Share of the parts that are masked.
        rate: Share of the tokens of these that are masked.
        end: Id that ends documents, which is never masked.
        isolate: Whether each document is a text of its own. Otherwise a window is one text.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.
    """

    context: int
    mask: int
    end: int
    masked_share: float = 0.5
    rate: float = 0.15
    isolate: bool = True
    label_smoothing: float = 0.0

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each window.

        Args:
            rows: Windows of a token store.
            streams: Function from a place in `rows` to the random generator of that window.
            progress: Not used.
        """
        return batch_of_parts(rows, streams, self.lay_out, self.context, self.end, isolate=self.isolate)

    def lay_out(self, part: Part, stream: np.random.Generator) -> Laid:
        """Return what a model reads and predicts of one part of a document.

        Args:
            part: Part of a document.
            stream: Random generator.
        """
        whole = part.whole
        masked = stream.random() < self.masked_share
        hidden = Tokens(self.rate).hidden(len(whole), stream)
        if not masked:
            return left_to_right(part.before, whole)
        return masked_next(part.before, whole, hidden & (whole != self.end), self.mask)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the targets in nats, each times its weight; see `Denoise`."""
        return loss_at_targets(model, batch, self.label_smoothing if learning else 0.0)


# How long a text becomes, and the objective for a tokenizer.


def longest_sequence(denoisers: Sequence[Denoiser], length: int, *, limit: int, around: int = 0) -> int:
    """Return the tokens of the longest sequence that a text becomes, on either side of an encoder-decoder.

    Args:
        denoisers: The mixture.
        length: Tokens of the text.
        limit: Number of sentinels.
        around: Ids that an encoder reads around a text; 0 for a decoder alone.
    """
    return max(_sequence(one, length, limit, around) for one in denoisers)


@dataclass(frozen=True)
class Computed:
    """What is computed for a text, on average over long texts and with the padding to the longest row of a micro-batch.

    Attributes:
        decoder: Positions of the decoder.
        encoder: Positions of the encoder; 0 for a decoder alone.
        targets: Targets.
    """

    decoder: float
    encoder: float
    targets: float


def computed(denoisers: Sequence[Denoiser], length: int, *, limit: int, around: int = 0) -> Computed:
    """Return how many positions are computed for a text, and how many targets it has.

    Args:
        denoisers: The mixture.
        length: Tokens of the text.
        limit: Number of sentinels.
        around: Ids that an encoder reads around a text; 0 for a decoder alone.
    """
    total = sum(one.weight for one in denoisers)
    kinds = [(one.weight / total * share, *found) for one in denoisers for share, *found in _kinds(one, length, limit)]
    targets = sum(share * (hidden + marks) for share, hidden, marks in kinds)
    if not around:
        rows = [(share, length if not marks else _padded(length + 2 * marks - 1)) for share, _, marks in kinds]
        return Computed(expected_longest(rows), 0.0, targets)
    written = [(share, _padded(hidden + max(marks, 1))) for share, hidden, marks in kinds]
    read = [(share, _padded(length - hidden + max(marks - 1, 0) + around)) for share, hidden, marks in kinds]
    return Computed(expected_longest(written), expected_longest(read), targets)


_QUANTILES = 8
"""Kinds of row by which the length of a hidden end, which is drawn uniformly, is reckoned."""


def _kinds(denoiser: Denoiser, length: int, limit: int) -> list[tuple[float, float, int]]:
    """Return probability, hidden tokens, and predicted marks (sentinels and the end) of the rows of a denoiser."""
    hidden, spans = pattern_of(denoiser, limit).most(length)
    if denoiser.mean is not None:
        return [(1.0, float(hidden), spans + 1)]
    return [(1.0 / _QUANTILES, hidden * (part + 0.5) / _QUANTILES, 0) for part in range(_QUANTILES)]


def _padded(length: float) -> int:
    return padded_width(math.ceil(length), None, ROW_STEP)


def growth(denoisers: Sequence[Denoiser], length: int, *, limit: int, around: int = 0) -> float:
    """Return how many tokens a model computes for each token of long texts, see `computed`.

    Each token of an encoder-decoder passes about half of its layers, and is counted as half a token.

    Args:
        denoisers: The mixture.
        length: Tokens of a text.
        limit: Number of sentinels.
        around: Ids that an encoder reads around a text; 0 for a decoder alone.
    """
    found = computed(denoisers, length, limit=limit, around=around)
    return (found.decoder + found.encoder) / (2 * length if around else length)


def _sequence(denoiser: Denoiser, length: int, limit: int, around: int) -> int:
    pattern = pattern_of(denoiser, limit)
    hidden, spans = pattern.most(length)
    if not around:
        return length + 2 * spans + 1 if isinstance(pattern, Spans) else length
    return max(length - (hidden if isinstance(pattern, Spans) else 1) + spans + around, hidden + spans + 1)


def denoise_for(
    tokenizer: Tokenizer,
    denoisers: tuple[Denoiser, ...],
    context: int,
    *,
    shift: Callable[[Sequence[int]], list[int]] | None = None,
    bidirectional: bool = True,
    isolate: bool = True,
    label_smoothing: float = 0.0,
) -> Denoise:
    """Return the denoising objective for texts of a tokenizer.

    Args:
        tokenizer: Tokenizer that made the texts, with the special tokens of the mixture.
        denoisers: The mixture.
        context: Tokens of a window.
        shift: Function from the targets to the ids that the decoder of an encoder-decoder reads; None for a decoder.
        bidirectional: Whether what is given is seen in both directions.
        isolate: Whether each document is a text of its own.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.

    Raises:
        InputError: If the tokenizer lacks special tokens that the mixture needs.
    """
    modes = [mode for mode in MODES if any(one.mode == mode for one in denoisers)]
    around = None if shift is None else tokenizer.around_source
    return Denoise(
        context,
        denoisers,
        sentinels_of(tokenizer),
        tokenizer.end_of_document,
        dict(zip(modes, required(tokenizer, [MODES[mode] for mode in modes]), strict=True)),
        None if around is None else (tuple(around[0]), tuple(around[1])),
        shift,
        bidirectional,
        isolate,
        label_smoothing,
    )


def mask_token(tokenizer: Tokenizer) -> int:
    """Return the id of the mask token.

    Args:
        tokenizer: Tokenizer that should have one.

    Raises:
        InputError: If it has none.
    """
    found = mask_of(tokenizer)
    return required(tokenizer, ["<mask>"])[0] if found is None else found
