"""What a model sees in one micro-batch, and what it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

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

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; copies from pinned memory do not wait."""

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            segments=move(self.segments),
            positions=move(self.positions),
            extra={name: tensor.to(device, non_blocking=True) for name, tensor in self.extra.items()},
        )
