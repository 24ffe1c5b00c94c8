"""The model's contract, answered alike by our decoder and by every wrapped model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from lavra.models.batch import Batch


def logit_cap_of(model: object) -> float | None:
    """Return the bound within which a model bends its logits by cap · tanh(logits / cap); None where it does not."""
    return getattr(model, "logit_cap", None)


@runtime_checkable
class Model(Protocol):
    """A language model, split where objectives need it split: every one is a `torch.nn.Module` besides."""

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (rows, length, width): the last hidden states, after the final norm."""
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits for features of shape (…, width)."""
        ...

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the (padded vocabulary, width) weight and (padded vocabulary,) bias that the head applies.

        Losses multiply by it chunk by chunk, so that the logits of a batch are never held.
        """
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids that can be predicted; rows of the projection beyond are padding."""
        ...

    @property
    def context(self) -> int:
        """Longest window in tokens."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters, as every module does."""
        ...

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the parameters with their names, as every module does."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on, as every module does."""
        ...

    def eval(self) -> Any:
        """Switch dropout off, as every module does."""
        ...


class CachedModel(Protocol):
    """What generation asks of a model.

    `lavra.models.decoder.Decoder` answers it, and so does every wrapped model that writes. Those may say besides: of
    encoder-decoders `beginning` and `forced` (what their decoder begins with), and `pads`, False where only rows of one
    length can be read together.
    """

    @property
    def context(self) -> int:
        """Longest window in tokens."""
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits for features of shape (…, width)."""
        ...

    def new_cache(self, rows: int, length: int) -> Any:
        """Return an empty cache; for encoder-decoders with the ids that each row's encoder reads as a third argument.

        It has `length` (tokens stored), `capacity`, `select(rows)`, which keeps, repeats or reorders rows, and
        `join(other, capacity)`, which returns a cache with the rows of both.
        """
        ...

    def step(self, ids: torch.Tensor, cache: Any, real: torch.Tensor | None = None) -> torch.Tensor:
        """Append (rows, new) ids to the cache, padding on the left not `real`; return (rows, new, width) features."""
        ...
