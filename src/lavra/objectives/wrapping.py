"""What objectives around other objectives share: passing on, streams of their own, and models with other outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lavra.models.heads import head_of
from lavra.objectives.base import Loss, Objective, group_of

if TYPE_CHECKING:
    import torch

    from lavra.core.seeds import Streams
    from lavra.models.protocols import Batch, Model


@dataclass(frozen=True, eq=False)
class Wrapper:
    """Base class of objectives that change how another objective learns, and not what it measures.

    What is only measured, by rows that are encoded with `MEASURED` or a loss with `learning=False`, is what the
    objective inside measures. Attributes that the wrapper lacks are those of the objective inside.

    Attributes:
        inner: Objective inside.
    """

    inner: Objective

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Return the batch of the objective inside; see `lavra.objectives.base.Objective.encode`."""
        return self.inner.encode(rows, streams, progress)

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the loss of the objective inside; see `lavra.objectives.base.Objective.loss`."""
        return self.inner.loss(model, batch, learning=learning)

    @property
    def group(self) -> int:
        """Number of neighbouring rows that must share a micro-batch."""
        return group_of(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


def innermost(objective: Any) -> Any:
    """Return the objective inside all wrappers."""
    while isinstance(objective, Wrapper):
        objective = objective.inner
    return objective


def stream_of(streams: Streams, place: int, wrapper: int) -> np.random.Generator:
    """Return a random generator of a row that is independent of what the objective inside draws for it.

    Args:
        streams: Function from a place in a batch to the generator of that row, a new one in each call.
        place: Place of the row.
        wrapper: Number of the kind of wrapper, so that two of them do not draw the same numbers.
    """
    return streams(place).spawn(wrapper + 1)[wrapper]


class GivenOutputs:
    """A model whose head has given outputs, for an objective inside that is to judge them.

    Args:
        model: Model that has everything else that is asked for.
        features: What `features` returns.
        outputs: What the head of the task returns.
    """

    def __init__(self, model: Model, features: torch.Tensor, outputs: torch.Tensor) -> None:
        self._model, self._features, self._outputs = model, features, outputs

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the given features."""
        return self._features

    def task_head(self, *_: Any) -> torch.Tensor:
        """Return the given outputs."""
        return self._outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class RecordedOutputs:
    """A model that remembers what its head gave last.

    Args:
        model: Model with the head of a task.

    Attributes:
        outputs: What the head gave last.
    """

    outputs: torch.Tensor

    def __init__(self, model: Model) -> None:
        self._model = model

    def task_head(self, *arguments: Any) -> torch.Tensor:
        """Return the outputs of the head of the task, and remember them."""
        self.outputs = head_of(self._model)(*arguments)
        return self.outputs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
