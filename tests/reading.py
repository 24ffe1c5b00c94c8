"""Ways of reading a text that must agree, for models that look at more than one token before their first block."""

from __future__ import annotations

from typing import Any

import torch

from lavra.data.packing import WindowSource
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED
from lavra.objectives.causal import Causal
from tiny_training import CONTEXT, topics_store

NO_RANDOMNESS: Any = None


@torch.no_grad()
def assert_moved_rows_read_on(model: Decoder, ids: torch.Tensor, length: int, padding: int, other: int) -> None:
    """Check that rows of a cache that were selected and joined go on as whole texts do.

    Args:
        model: in evaluation mode.
        ids: (3, at least `other` + 1).
        length: tokens of a row that are read first.
        padding: before the second row's tokens.
        other: tokens of the row that is joined.
    """
    cache = model.new_cache(3, 24)
    padded = torch.cat((torch.zeros(1, padding, dtype=torch.long), ids[1:2, : length - padding]), 1)
    real = torch.ones(3, length, dtype=torch.bool)
    real[1, :padding] = False
    model.step(torch.cat((ids[:1, :length], padded, ids[2:, :length])), cache, real)
    cache.select(torch.tensor([2, 1]))
    joined = model.new_cache(1, 24)
    model.step(ids[:1, :other], joined)
    cache = cache.join(joined, 24)
    read = ((2, length), (1, length - padding), (0, other))
    found = model.step(torch.stack([ids[row, count : count + 1] for row, count in read]), cache)
    for place, (row, count) in enumerate(read):
        whole = model(ids[row : row + 1, : count + 1])[0, -1]
        torch.testing.assert_close(found[place, -1], whole, rtol=1e-4, atol=1e-5)


def assert_documents_are_apart(model: Decoder) -> None:
    """Check that each document of a window gives what it gives alone."""
    batch = Causal(CONTEXT).encode(WindowSource(topics_store(), CONTEXT, seed=1).rows(0, 4), NO_RANDOMNESS, 0.0)
    assert batch.document_ids is not None
    features = model.features(batch)
    for row, document_ids in enumerate(batch.document_ids):
        for segment in document_ids.unique().tolist():
            part = (document_ids == segment) & (batch.targets[row] != IGNORED)
            if segment >= 0 and part.any():
                alone = model(batch.inputs[row][part][None])[0]
                torch.testing.assert_close(features[row][part], alone, rtol=1e-3, atol=1e-4)
