"""Vectors of texts by a network: the pooled features of an encoder or a decoder, in batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from lavra.core.progress import Progress
from lavra.models.protocols import IGNORED, Batch, Model, device_of, eval_mode
from lavra.vectors.batching import batches_by_length
from lavra.vectors.protocols import TextKind
from lavra.vectors.reading import TextReading

TOKENS_AT_ONCE = {"cpu": 4096}
"""Tokens of a batch by the type of device, padding included. On a processor the features of a batch should stay in its
cache."""

_ELSEWHERE = 65536
"""Tokens of a batch on other devices, which need much work at once."""

_TEXTS_AT_ONCE = 8192
"""Texts that are tokenised and sorted together; the ids of no more texts are in memory."""


class NetworkEncoder:
    """An encoder of texts (see `TextEncoder`) that pools the features of a model.

    Args:
        model: The model; it computes in evaluation mode.
        head: What makes the vectors of a batch of features, called with the features and their batch.
        reading: How texts become ids.
        dimensions: Size of a vector.
        fingerprint: Names everything that the vectors depend on.
        normalise: Whether the vectors have length 1. It is applied after vectors were shortened.
        size: Size of the vectors of the head, of which the first `dimensions` numbers are kept; None keeps all.
        causal: Whether a token is computed from those before it alone, so that padding after a text changes nothing.
        pool_prompt: Whether the tokens of the prompt are pooled with those of the text.
        precision: Type of the weights, for messages and for what is kept of the vectors.

    Attributes:
        model: The model.
        head: What makes the vectors.
        reading: How texts become ids, with the count of what was left out.
        dimensions: Size of a vector.
        fingerprint: Names everything that the vectors depend on.
        normalise: Whether the vectors have length 1.
        longest: Most tokens of a text, with those around it and its prompt.
        precision: Type of the weights.
    """

    def __init__(
        self,
        model: Model,
        head: nn.Module,
        reading: TextReading,
        *,
        dimensions: int,
        fingerprint: str,
        normalise: bool = True,
        causal: bool = False,
        pool_prompt: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.model, self.head, self.reading = model, head, reading
        self.dimensions, self.fingerprint, self.normalise = dimensions, fingerprint, normalise
        self.longest: int | None = reading.longest
        self.precision = precision
        self._causal, self._pool_prompt = causal, pool_prompt
        self.device = device_of(model)
        self._most = TOKENS_AT_ONCE.get(self.device.type, _ELSEWHERE)

    def encode(self, texts: Sequence[str], *, kind: TextKind = "text") -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of the texts, in their order.

        Args:
            texts: Texts, without the prompt of their kind.
            kind: What the texts are.
        """
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        with Progress("embedding", len(texts), "texts") as progress:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                ids = self.reading.ids(texts[start : start + _TEXTS_AT_ONCE], kind)
                for numbers, of_batch in self.batches(ids, kind):
                    vectors[start + numbers] = of_batch
                    progress.advance(len(numbers))
        return vectors

    @torch.no_grad()
    def batches(
        self, ids: Sequence[np.ndarray], kind: TextKind = "text"
    ) -> Iterator[tuple[np.ndarray, NDArray[np.float32]]]:
        """Yield the numbers of some texts and their (texts, dimensions) float32 vectors, until all texts are done.

        Args:
            ids: Ids of each text, with everything that the model reads.
            kind: What the texts are.
        """
        skipped = 0 if self._pool_prompt else self.reading.prompt_tokens(kind)
        with eval_mode(self.model):
            for numbers in batches_by_length([len(one) for one in ids], self._most):
                yield numbers, self._vectors([ids[number] for number in numbers], skipped)

    def _vectors(self, ids: Sequence[np.ndarray], skipped: int) -> NDArray[np.float32]:
        batch = _batch(ids).to(self.device)
        seen = replace(batch, document_ids=None) if self._causal else batch
        features = self.model.features(seen)
        if skipped:
            batch = _without_first(batch, skipped)
        found = self.head(features, batch)[:, : self.dimensions].float()
        return (F.normalize(found, dim=-1) if self.normalise else found).cpu().numpy()


def _batch(ids: Sequence[np.ndarray]) -> Batch:
    """Return one sequence for each text; without padding there are no numbers of documents, and so no mask."""
    longest = max(map(len, ids))
    if all(len(one) == longest for one in ids):
        inputs = torch.from_numpy(np.stack(ids))
        return Batch(inputs, torch.full_like(inputs, IGNORED))
    rows, documents = np.zeros((len(ids), longest), np.int64), np.full((len(ids), longest), -1, np.int32)
    for number, one in enumerate(ids):
        rows[number, : len(one)], documents[number, : len(one)] = one, 0
    inputs = torch.from_numpy(rows)
    return Batch(inputs, torch.full_like(inputs, IGNORED), torch.from_numpy(documents))


def _without_first(batch: Batch, skipped: int) -> Batch:
    """Return the batch with the first tokens of each text marked as padding; a text keeps its last token."""
    ids = torch.zeros_like(batch.inputs) if batch.document_ids is None else batch.document_ids
    last = (ids >= 0).sum(1, keepdim=True) - 1
    places = torch.arange(ids.shape[1], device=ids.device)
    return replace(batch, document_ids=ids.masked_fill((places < skipped) & (places < last), -1))
