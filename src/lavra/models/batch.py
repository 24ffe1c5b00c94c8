"""What a model sees in one micro-batch, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from lavra.models.attention_masks import document_bounds

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
