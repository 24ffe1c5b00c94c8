"""The model's contract: two methods, answered alike by our decoder and by every wrapped model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from lavra.models.batch import Batch


@runtime_checkable
class Model(Protocol):
    """A language model, split where objectives need it split."""

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (rows, length, width): the last hidden states, after the final norm."""
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits for features of shape (…, width)."""
        ...
