"""Masked language modelling: guess words that are hidden, from both sides (Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lavra.core.errors import InputError
from lavra.models.contract import IGNORED, Batch
from lavra.objectives.base import Loss, batch_of_windows, loss_at_targets

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.data.tokenizers.word_boundaries import Words
    from lavra.models.contract import Model

_MASKS = ("[MASK]", "<mask>")


@dataclass(frozen=True, eq=False)
class Masked:
    """Prediction of the hidden tokens of windows; documents see themselves only, in both directions.

    A word is chosen with the rate of the moment. Of the tokens of chosen words, which are the targets, most are
    replaced by the mask token, some by a random token, and the others stay. Special tokens are never chosen.

    Attributes:
        context: length of a row; a shorter window (the last of an epoch) is filled up with ignored positions.
        mask_token: the id that hides a token.
        words: the borders of words in the vocabulary, and its special tokens.
        whole_words: hide all tokens of a word together (default); otherwise each token by itself.
        rate: share of the words that are chosen at the beginning of the run.
        final_rate: the same at its end, changing linearly between; None: as at the beginning.
        mask_share: share of the chosen tokens that the mask token replaces; 1 is pure masking.
        random_share: share of the chosen tokens that a random token replaces.
        isolate: positions see only their own document and count from its beginning; otherwise a window is one text.
        label_smoothing: share of each target's probability that is spread over the vocabulary while learning; what is
            only measured is the plain likelihood.

    Raises:
        InputError: for rates and shares that are none.
    """

    context: int
    mask_token: int
    words: Words = field(repr=False)
    whole_words: bool = True
    rate: float = 0.15
    final_rate: float | None = None
    mask_share: float = 0.8
    random_share: float = 0.1
    isolate: bool = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for rate in (self.rate, self.final_rate):
            if rate is not None and not 0 < rate <= 1:
                raise InputError(f"a masking rate of {rate} is not possible", "choose more than 0 and at most 1")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1 + 1e-9:
            raise InputError(
                f"{self.mask_share} masked and {self.random_share} random tokens are no shares of one whole",
                "choose two shares that add up to at most 1",
            )

    def rate_at(self, progress: float) -> float:
        """Return the share of words that are chosen when `progress` (0 to 1) of the run is done."""
        final = self.rate if self.final_rate is None else self.final_rate
        return self.rate + (final - self.rate) * progress

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Lay windows out as rows and hide words of each by the row's own stream; targets stand where they are read."""
        rate = self.rate_at(progress)
        return batch_of_windows(
            rows, self.context, self.isolate, lambda row, window: self._hide(window, streams(row), rate)
        )

    def _hide(self, window: Window, stream: np.random.Generator, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the (length,) inputs and targets of a window."""
        tokens = window.tokens[1:]
        word = self.words.groups(tokens, window.segments) if self.whole_words else np.arange(len(tokens))
        # What is drawn does not depend on the rate, so that equal rates give equal masks however they are scheduled.
        chosen = (stream.random(len(tokens)) < rate)[word] & ~self.words.special[tokens]
        replaced = stream.random(len(tokens))
        others = self.words.texts[stream.integers(len(self.words.texts), size=len(tokens))]
        inputs = np.where(chosen & (replaced < self.mask_share), self.mask_token, tokens)
        swapped = chosen & (replaced >= self.mask_share) & (replaced < self.mask_share + self.random_share)
        return np.where(swapped, others, inputs), np.where(chosen, tokens, IGNORED)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the hidden tokens."""
        return loss_at_targets(model, batch, self.label_smoothing if learning else 0.0)


def mask_token_of(tokenizer: Tokenizer) -> int:
    """Return the id of a tokenizer's mask token.

    Raises:
        InputError: if it has none, as the tokenizers of decoders.
    """
    for name in _MASKS:
        number = tokenizer.inner.token_to_id(name)
        if number is not None:
            return number
    raise InputError(
        f"the tokenizer has no mask token ({' or '.join(_MASKS)})", "start from an encoder such as BERT, or add one"
    )
