"""The model's contract: the batch that it sees, what every model answers alike, and using one without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch

from lavra.models.native.attention_masks import document_bounds

IGNORED = -100
"""The target value of a position that is not learned from."""


@dataclass(slots=True)
class Batch:
    """One micro-batch. All tensors are on one device; rows × length unless said otherwise.

    Attributes:
        inputs: (rows, length) int64 token ids.
        targets: (rows, length) int64 ids to predict at each position, `IGNORED` where nothing is learned.
        segments: (rows, length) int32 number of the document within the row; positions see only their own
            segment. None: every row is one document. Padding has segment -1.
        positions: (rows, length) int64 position of each token in its segment. None: 0, 1, 2, ….
        weight: number of targets in the batch (a Python number, so that nothing waits for the device).
        documents: ids of the documents in the batch, for messages and the ledger.
        extra: further tensors by name, for objectives that need them (encoder inputs, teacher logits, …).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    segments: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    weight: float = 0.0
    documents: tuple[int, ...] = ()
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    _bounds: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def bounds(self) -> torch.Tensor | None:
        """Where each document begins in the rows laid end to end, see `document_bounds`; None without segments.

        Made once for the segments that they are the bounds of; best before the batch goes to a device.
        """
        if self.segments is None:
            return None
        if self._bounds is None or self._bounds[0] is not self.segments:
            self._bounds = self.segments, document_bounds(self.segments)
        return self._bounds[1]

    def take(self, rows: slice) -> Batch:
        """Return some rows, with the number of their targets as weight."""
        part = replace(
            self,
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            segments=None if self.segments is None else self.segments[rows],
            positions=None if self.positions is None else self.positions[rows],
            extra={name: tensor[rows] if tensor.dim() else tensor for name, tensor in self.extra.items()},
        )
        part.weight = float((part.targets != IGNORED).sum())
        return part

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`, with its bounds if they were made; copies from pinned memory do not wait."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        moved = replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            segments=move(self.segments),
            positions=move(self.positions),
            extra={name: tensor.to(device, non_blocking=True) for name, tensor in self.extra.items()},
            _bounds=None,
        )
        if self._bounds is not None and self._bounds[0] is self.segments and moved.segments is not None:
            moved._bounds = moved.segments, self._bounds[1].to(device, non_blocking=True)
        return moved


# The model's contract, answered alike by our decoder and by every wrapped model.


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

    `lavra.models.native.decoder.Decoder` answers it, and so does every wrapped model that writes. Those may say
    besides: of encoder-decoders `beginning` and `forced` (what their decoder begins with), and `pads`, False where only
    rows of one length can be read together.
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


# Using a model without training it.


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Switch dropout and its like off for the block, and back to what it was.

    Gradients are not switched off: pair it with `torch.no_grad` (not `inference_mode`, whose tensors, once a model has
    cached them, can never be trained with).
    """
    if not isinstance(model, torch.nn.Module):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def device_of(model: object) -> torch.device:
    """Return the device of a model's first parameter, the CPU if it has none."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")
