"""Masked language modelling: predict hidden words from the text around them (Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lavra.core.errors import InputError
from lavra.data.tokenizers.for_encoders import MASKS
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss, batch_of_windows, loss_at_targets

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.data.tokenizers.word_boundaries import Words
    from lavra.models.protocols import Model


@dataclass(frozen=True, eq=False)
class MaskedLM:
    """Prediction of the hidden tokens of windows, from the text before and after them.

    Each word is chosen with the masking rate. The tokens of the chosen words are the targets: most of them are replaced
    by the mask token, some by a random token, and the others stay. Special tokens are never chosen.

    Attributes:
        context: Length of every sequence in tokens. A shorter window, the last of an epoch, is padded with positions
            that have no target.
        mask_token: Id of the token that hides another one.
        words: Word boundaries of the vocabulary, and its special tokens.
        whole_words: Whether all tokens of a word are hidden together. Otherwise each token is chosen by itself.
        rate: Share of the words that are chosen at the beginning of the run, above 0 and at most 1.
        final_rate: Share of the words that are chosen at the end of the run; in between it changes linearly. None
            keeps `rate` throughout.
        mask_share: Share of the chosen tokens that the mask token replaces. With 1, all of them are masked.
        random_share: Share of the chosen tokens that a random token replaces.
        isolate: Whether positions attend only to their own document and are counted from its beginning. Otherwise a
            window is one text.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.
            Validation measures the plain likelihood.
        z_loss: Weight of the squared logarithm of the softmax normaliser while the model learns; 0 for none.

    Raises:
        InputError: If a rate is not above 0 and at most 1, or the two shares are negative or add up to more than 1.
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
    z_loss: float = 0.0

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
        """Return the share of words that are chosen at a moment of the run.

        Args:
            progress: Share of the run that is done, from 0 to 1.

        Examples:
            >>> objective = MaskedLM(8, mask_token=3, words=None, rate=0.3, final_rate=0.1)
            >>> round(objective.rate_at(0.5), 3)
            0.2
        """
        final = self.rate if self.final_rate is None else self.final_rate
        return self.rate + (final - self.rate) * progress

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each window, in which some words are hidden.

        The target of a hidden token stands at its own position, unlike in a causal model.

        Args:
            rows: Windows of a token store.
            streams: Function from a place in `rows` to the random generator that hides the words of that window.
            progress: Share of the run that is done, from 0 to 1; it decides the masking rate.
        """
        rate = self.rate_at(progress)
        return batch_of_windows(
            rows, self.context, self.isolate, lambda row, window: self.hide(window, streams(row), rate)
        )

    def hide(self, window: Window, stream: np.random.Generator, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the (length,) inputs and the (length,) targets of a window, some of whose words are hidden.

        Args:
            window: Window of a token store.
            stream: Random generator.
            rate: Share of the words that are hidden.
        """
        tokens = window.tokens[1:]
        word = self.words.groups(tokens, window.document_ids) if self.whole_words else np.arange(len(tokens))
        # The numbers drawn do not depend on the rate, so that equal rates give equal masks however they are scheduled.
        chosen = (stream.random(len(tokens)) < rate)[word] & ~self.words.special[tokens]
        replaced = stream.random(len(tokens))
        others = self.words.texts[stream.integers(len(self.words.texts), size=len(tokens))]
        inputs = np.where(chosen & (replaced < self.mask_share), self.mask_token, tokens)
        swapped = chosen & (replaced >= self.mask_share) & (replaced < self.mask_share + self.random_share)
        return np.where(swapped, others, inputs), np.where(chosen, tokens, IGNORED)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the hidden tokens in nats, each times its weight.

        Args:
            model: Model that computes the features and owns the output projection.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.
        """
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if learning else (0.0, 0.0)
        return loss_at_targets(model, batch, smoothing, z_loss)


def mask_token_of(tokenizer: Tokenizer) -> int:
    """Return the id of the tokenizer's mask token.

    Args:
        tokenizer: Tokenizer of an encoder.

    Raises:
        InputError: If the tokenizer has no mask token; those of decoders have none.
    """
    for name in MASKS:
        number = tokenizer.inner.token_to_id(name)
        if number is not None:
            return number
    raise InputError(
        f"the tokenizer has no mask token ({' or '.join(MASKS)})",
        "start from an encoder such as BERT, or give the text itself, for which an encoder's vocabulary is made",
    )
