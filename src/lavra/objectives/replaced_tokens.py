"""Replaced-token detection: say which tokens of a text a small generator put there (ELECTRA, arXiv 2003.10555)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.protocols import IGNORED, REPLACEABLE, Batch, logit_cap_of
from lavra.objectives.base import Loss, batch_of_windows
from lavra.objectives.cross_entropy import chunk_length, chunk_logits, summed_cross_entropy, wide_type

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.models.protocols import Model
    from lavra.objectives.mlm import MaskedLM

ORIGINAL = "original"
"""Name in `Batch.model_inputs` of the ids of the text, (sequences, length) int64."""
DRAWS = "draws"
"""Name of a number from 0 to below 1 for each position, (sequences, length) float32, by which the generator's token is
drawn."""
RATE = "mask_rate"
"""Name of the share of words that are hidden, () float32."""

PARTS = ("generator_nats", "hidden", "detection_nats", "replaced", "claimed", "found")
"""Sums that are measured beside the loss: the generator's negative log-likelihood and the number of its targets; the
detector's negative log-likelihood; the numbers of tokens that are replaced, that are said to be, and of which both is
true."""


@dataclass(frozen=True, eq=False)
class ReplacedTokens:
    """Detection of the tokens that a generator replaced, while the generator learns to fill in hidden tokens.

    Words are hidden as by the masked objective. The generator, which `lavra.models.replaced_tokens` attaches to the
    model, predicts the hidden tokens, and a token is drawn from each prediction. The model reads the text with these
    tokens, and says of every token whether it is that of the text; a token that was drawn as it stood counts as it
    stood. Nothing of the detector's loss reaches the generator through the drawn tokens.

    The loss for each token of the text is `detection` times the mean loss of the detector, plus the loss of the
    generator for each hidden token. The latter is its sum divided by the number of tokens times the masking rate, so
    that micro-batches add up although they hide different numbers of tokens. What is drawn depends on the random
    generator of a row alone, and on the model.

    Attributes:
        masked: The masked objective whose rule hides words.
        context: Length of every sequence in tokens.
        detection: Weight of the detector's loss; 50 in the paper.
        isolate: Whether positions attend only to their own document. Otherwise a window is one text.
        label_smoothing: Share of each of the generator's targets that is spread over the vocabulary while it learns.
        z_loss: Weight of the squared logarithm of the generator's softmax normaliser while it learns; 0 for none.

    Raises:
        InputError: If the weight is not above 0.
    """

    masked: MaskedLM
    context: int
    detection: float = 50.0
    isolate: bool = True
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if not self.detection > 0:
            raise InputError(
                f"--objective.detection-weight {self.detection:g} is not possible", "choose more than 0, such as 50"
            )

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each window: the text with hidden words, and every token a target.

        Args:
            rows: Windows of a token store.
            streams: Function from a place in `rows` to the random generator of that window.
            progress: Share of the run that is done, from 0 to 1; it decides the masking rate.
        """
        rate = self.masked.rate_at(progress)
        hidden = np.zeros((len(rows), self.context), bool)
        draws = np.zeros((len(rows), self.context), np.float32)

        def ask(row: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
            stream = streams(row)
            inputs, targets = self.masked.hide(window, stream, rate)
            hidden[row, : len(window)] = targets != IGNORED
            draws[row, : len(window)] = stream.random(len(window), np.float32)
            return inputs, window.tokens[1:]

        batch = batch_of_windows(rows, self.context, self.isolate, ask)
        batch.model_inputs = {
            REPLACEABLE: torch.from_numpy(hidden),
            DRAWS: torch.from_numpy(draws),
            ORIGINAL: batch.targets.clamp(min=0),
            RATE: torch.tensor(rate, dtype=torch.float32),
        }
        return batch

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of generator and detector in nats, see the class; each target times its weight.

        Args:
            model: Model with the head of this objective.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where it is only measured, `PARTS` are measured beside it.
        """
        head: Any = head_of(model)
        places = self.hidden_places(batch)
        features = head.generator.features(batch, model.embed(batch.inputs))
        features = features.reshape(-1, features.shape[-1]).index_select(0, places)
        generated = self._generator_loss(model, features, batch, places, learning)
        read = self._replaced(model, features.detach(), batch, places)
        odds = head(model.features(read), read)
        detected, parts = self._detection_loss(odds, batch, read)
        rate = batch.model_inputs[RATE].to(generated.dtype)
        total = self.detection * detected + generated / rate
        if learning:
            return Loss(total, batch.weight)
        asked = batch.model_inputs[REPLACEABLE] & (batch.targets != IGNORED)
        return Loss(total, batch.weight, {"generator_nats": generated, "hidden": asked.sum(), **parts})

    def hidden_places(self, batch: Batch) -> torch.Tensor:
        """Return the (hidden,) places of the hidden positions, counted through all sequences.

        Their number is not known beforehand: a GPU is waited for once in each micro-batch.

        Args:
            batch: Batch that `encode` made.
        """
        return batch.model_inputs[REPLACEABLE].reshape(-1).nonzero()[:, 0]

    def _generator_loss(
        self, model: Model, features: torch.Tensor, batch: Batch, places: torch.Tensor, learning: bool
    ) -> torch.Tensor:
        """Return the summed loss of the generator at those hidden positions that are targets."""
        weight, bias = model.output_projection()
        return summed_cross_entropy(
            features.to(weight.dtype),
            weight,
            batch.targets.reshape(-1)[places],
            bias=bias,
            weights=None if batch.weights is None else batch.weights.reshape(-1)[places],
            vocabulary=model.vocabulary,
            label_smoothing=self.label_smoothing if learning else 0.0,
            cap=logit_cap_of(model),
            z_loss=self.z_loss if learning else 0.0,
        )

    def _replaced(self, model: Model, features: torch.Tensor, batch: Batch, places: torch.Tensor) -> Batch:
        """Return the batch with the text as inputs, in which the generator's tokens stand at the hidden positions."""
        weight, bias = model.output_projection()
        drawn = drawn_tokens(
            features.to(weight.dtype),
            weight,
            bias,
            batch.model_inputs[DRAWS].reshape(-1)[places],
            vocabulary=model.vocabulary,
            cap=logit_cap_of(model),
        )
        original = batch.model_inputs[ORIGINAL]
        inputs = original.reshape(-1).scatter(0, places, drawn).view_as(original)
        return Batch(
            inputs=inputs,
            targets=batch.targets,
            document_ids=batch.document_ids,
            positions=batch.positions,
            weight=batch.weight,
            documents=batch.documents,
            _bounds=batch._bounds,
        )

    def _detection_loss(
        self, odds: torch.Tensor, batch: Batch, read: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the summed loss of the detector, and what is measured of it."""
        asked = batch.targets != IGNORED
        replaced = read.inputs != batch.model_inputs[ORIGINAL]
        odds = odds.to(wide_type(odds.dtype))
        losses = F.binary_cross_entropy_with_logits(odds, replaced.to(odds.dtype), reduction="none")
        weights = asked.to(odds.dtype) if batch.weights is None else batch.weights.where(asked, 0.0).to(odds.dtype)
        total = (losses * weights).sum()
        replaced, claimed = replaced & asked, (odds > 0) & asked
        parts = {"detection_nats": total.detach(), "replaced": replaced.sum(), "claimed": claimed.sum()}
        return total, {**parts, "found": (replaced & claimed).sum()}

    def uninformed_loss(self, batch: Batch) -> float:
        """Return the mean loss for each token of a generator that gives all tokens of the vocabulary the same
        probability, and of a detector that knows nothing.

        Args:
            batch: Batch that `encode` made.
        """
        asked = batch.targets != IGNORED
        hidden = float((batch.model_inputs[REPLACEABLE] & asked).sum()) / max(1.0, float(asked.sum()))
        return self.detection * math.log(2) + hidden / float(batch.model_inputs[RATE]) * math.log(
            len(self.masked.words.special)
        )


def drawn_tokens(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    draws: torch.Tensor,
    *,
    vocabulary: int,
    cap: float | None = None,
) -> torch.Tensor:
    """Return a token for each position, drawn from the softmax of its logits, (positions,) int64; without a gradient.

    The probabilities are added up in the order of the ids, and the token is the first at which the sum reaches the
    number that was drawn (the inverse of the cumulative distribution). One number for each position is therefore all
    the randomness. The logits are made a chunk of positions at a time.

    Args:
        features: Hidden states, (positions, width).
        weight: Weight of the head, (padded vocabulary, width).
        bias: Bias of the head, (padded vocabulary,), or None.
        draws: Numbers from 0 to below 1, (positions,).
        vocabulary: Number of rows of `weight` that stand for tokens.
        cap: Bound of the logits, see `lavra.objectives.cross_entropy.chunk_logits`.

    Examples:
        Two tokens with probabilities of a quarter and three quarters:

        >>> head = torch.tensor([[0.0], [math.log(3.0)]])
        >>> drawn_tokens(torch.ones(3, 1), head, None, torch.tensor([0.0, 0.2, 0.3]), vocabulary=2).tolist()
        [0, 0, 1]
    """
    size, found = chunk_length(weight.shape[0], features.device), []
    with torch.no_grad():
        for start in range(0, features.shape[0], size):
            chunk = features[start : start + size]
            logits = chunk_logits(chunk, weight, bias, vocabulary, cap).to(wide_type(weight.dtype))
            sums = logits.softmax(-1).cumsum(-1)
            reached = draws[start : start + size, None].to(sums.dtype) * sums[:, -1:]
            found.append(torch.searchsorted(sums, reached)[:, 0])
    drawn = torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=features.device)
    return drawn.clamp_(max=vocabulary - 1)
