"""Matryoshka embeddings: the first dimensions of a vector are a vector of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.objectives.base import ComparingObjective, Loss, Objective, compared_loss
from lavra.objectives.wrapping import Wrapper

if TYPE_CHECKING:
    from lavra.models.protocols import Batch, Model


@dataclass(frozen=True, eq=False)
class Matryoshka(Wrapper):
    """Learns with the first dimensions of each vector, in several sizes at once (Kusupati et al. 2022, 2205.13147).

    The loss is the mean of those of the sizes. A vector that is cut keeps its size, with zeros after the dimensions
    that are kept, and has the length 1 again: its cosines are those of the short vector. What is only measured are the
    whole vectors.

    Attributes:
        sizes: Numbers of dimensions, each above 0. The whole size is learned if it is one of them.

    Raises:
        InputError: If there is no size, or one is not above 0.
    """

    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise InputError(f"{list(self.sizes)} are no sizes of vectors", "give numbers of dimensions, as 256 128 64")

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the mean of the losses of the sizes, within one batch."""
        inner: Any = self.inner
        if not learning:
            return inner.loss(model, batch, learning=False)
        vectors = inner.embed(model, batch)
        return self._mean([inner.judge(model, self._shortened(vectors, size), batch) for size in self.sizes])

    @staticmethod
    def _mean(losses: list[Loss]) -> Loss:
        total = losses[0].sum
        for one in losses[1:]:
            total = total + one.sum
        return Loss(total / len(losses), losses[0].weight)

    @staticmethod
    def _shortened(vectors: torch.Tensor, size: int) -> torch.Tensor:
        """Return vectors with zeros after the first dimensions; as they are where they have no more."""
        if size > vectors.shape[-1]:
            raise InputError(
                f"vectors of {vectors.shape[-1]} dimensions have no first {size}", "give sizes up to that of the model"
            )
        if size == vectors.shape[-1]:
            return vectors
        return F.pad(F.normalize(vectors[:, :size], dim=-1), (0, vectors.shape[-1] - size))


@dataclass(frozen=True, eq=False)
class ComparingMatryoshka(Matryoshka):
    """`Matryoshka` around an objective that compares the rows of a step."""

    def embed(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the whole vectors, see `ComparingObjective.embed`."""
        inner: Any = self.inner
        return inner.embed(model, batch)

    def info(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return what the objective inside knows of the texts."""
        inner: Any = self.inner
        return inner.info(batch)

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the mean of the losses of the sizes; see `ComparingObjective.compare`."""
        inner: Any = self.inner
        if not learning:
            return inner.compare(embeddings, info, learning=False)
        return self._mean([inner.compare(self._shortened(embeddings, size), info) for size in self.sizes])

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the mean of the losses of the sizes, within one batch."""
        return compared_loss(self, model, batch, learning=learning)


def matryoshka(objective: Objective, sizes: tuple[int, ...]) -> Objective:
    """Return an objective that learns with vectors of several sizes.

    Args:
        objective: An objective of embeddings.
        sizes: Numbers of dimensions; none leaves the objective as it is.
    """
    if not sizes:
        return objective
    return (ComparingMatryoshka if isinstance(objective, ComparingObjective) else Matryoshka)(objective, tuple(sizes))
