"""TSDAE: a text is written again from the vector of what is left of it after most of its words were deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss, padded_width
from lavra.objectives.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Model
    from lavra.objectives.embedding.rows import PairRow

DELETED = 0.6
"""Share of the tokens that are deleted, which was best in the paper (section 5)."""

_STEP = 16
"""Multiple of the length of sequences, which hold one text each."""


@dataclass(frozen=True, eq=False)
class TSDAE:
    """A denoising auto-encoder of texts (Wang, Reimers and Gurevych 2021, arXiv 2104.06979).

    The encoder reads what is left of a text, and makes one vector of it, from which a decoder writes the whole text; it
    sees nothing else of the encoder. The decoder of the paper has the size and the weights of the encoder. Here it is
    the single block of a `ReconstructingHead`, tied to the word embeddings of the model, so that encoders and decoders
    of any family can learn: a weak decoder leaves more to the vector.

    Attributes:
        context: Longest text in tokens; longer ones must have been cut before.
        special: Whether each token is special, such as the first and the last of a text, (vocabulary,) bool; these are
            never deleted.
        deleted: Share of the other tokens that are deleted, each by chance, from 0 to below 1. One is always left.

    Raises:
        InputError: If the share is not possible.
    """

    context: int
    special: np.ndarray = field(repr=False)
    deleted: float = DELETED

    def __post_init__(self) -> None:
        if not 0 <= self.deleted < 1:
            raise InputError(f"a share of {self.deleted} cannot be deleted", "choose from 0 to below 1, e.g. 0.6")

    def encode(self, rows: Sequence[PairRow], streams: Streams, progress: float) -> Batch:
        """Return a batch of the first text of each row: its words are the targets, and what is left of it the inputs.

        The inputs of the batch are those of the decoder, the word before each target; the encoder reads
        `model_inputs["left"]`.

        Args:
            rows: The texts.
            streams: Function from a place in `rows` to the random generator that deletes words of that text.
            progress: Not used.

        Raises:
            InputError: If a text has no word.
        """
        left = [self._left(row.anchor, streams(place)) for place, row in enumerate(rows)]
        words = [row.anchor[self._first_word(row) :] for row in rows]
        shape = len(rows), padded_width(max(map(len, words)), self.context, _STEP)
        inputs, targets = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
        document_ids, weights = np.full(shape, -1, dtype=np.int32), np.ones(shape, dtype=np.float32)
        narrow = len(rows), padded_width(max(map(len, left)), self.context, _STEP)
        read, read_ids = np.zeros(narrow, dtype=np.int64), np.full(narrow, -1, dtype=np.int32)
        for number, (row, text, kept) in enumerate(zip(rows, words, left, strict=True)):
            inputs[number, 1 : len(text)], targets[number, : len(text)] = text[:-1], text
            document_ids[number, : len(text)] = 0
            read[number, : len(kept)], read_ids[number, : len(kept)] = kept, 0
            weights[number] = row.weight
        batch = Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            document_ids=torch.from_numpy(document_ids),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(row.number for row in rows),
            model_inputs={"left": torch.from_numpy(read), "left_ids": torch.from_numpy(read_ids)},
        )
        return batch if bool((weights == 1).all()) else batch.weighted(torch.from_numpy(weights))

    def _left(self, tokens: np.ndarray, stream: np.random.Generator) -> np.ndarray:
        """Return what is left of a text."""
        drawn = stream.random(len(tokens))
        deleted = (drawn < self.deleted) & ~self.special[tokens]
        words = ~self.special[tokens]
        if words.any() and deleted[words].all():
            deleted[np.flatnonzero(words)[drawn[words].argmax()]] = False
        return tokens[~deleted]

    def _first_word(self, row: PairRow) -> int:
        words = ~self.special[row.anchor]
        if not words.any():
            raise InputError(f"row {row.number} has a text without words", "leave such rows out when preparing them")
        return int(words.argmax())

    def embed(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the vectors of what is left of the texts, (texts, dimensions).

        Args:
            model: Model with a `ReconstructingHead`.
            batch: Batch on the model's device.
        """
        left = batch.model_inputs["left"]
        positions = torch.arange(left.shape[1], device=left.device).expand_as(left).contiguous()
        read = Batch(left, left, batch.model_inputs["left_ids"], positions)
        return head_of(model)(model.features(read), read)

    def judge(self, model: Model, vectors: torch.Tensor, batch: Batch) -> Loss:
        """Return the summed negative log-likelihood of the words in nats, given the vectors.

        Args:
            model: Model with a `ReconstructingHead`.
            vectors: The vector of each text, (texts, dimensions).
            batch: Batch on the model's device.

        Raises:
            InputError: If the model has no such head, or word embeddings of another size.
        """
        head: Any = head_of(model)
        table = model.embed(torch.arange(model.vocabulary, device=vectors.device))
        if table.shape[-1] != vectors.shape[-1]:
            raise InputError(
                f"the word embeddings have {table.shape[-1]} dimensions, and the vectors {vectors.shape[-1]}",
                "use --objective simcse, which learns from bare text too",
            )
        before = table[batch.inputs]
        before = torch.cat([torch.zeros_like(before[:, :1]), before[:, 1:]], 1)
        # Tables differ in the length of their rows, by which logits would begin far too large or too small.
        features = head.reconstruct(vectors.to(table.dtype), before) / table.detach().norm(dim=-1).mean()
        total = summed_cross_entropy(
            features.flatten(0, 1),
            table,
            batch.targets.flatten(),
            weights=None if batch.weights is None else batch.weights.flatten(),
        )
        return Loss(total, batch.weight)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the words in nats, each times its weight.

        Args:
            model: Model with a `ReconstructingHead`.
            batch: Batch on the model's device.
            learning: Not used: nothing differs.
        """
        return self.judge(model, self.embed(model, batch), batch)
