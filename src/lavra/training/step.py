"""One optimiser step as an object: its micro-batches, and a gradient that can be computed again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lavra.core.memory import is_out_of_memory, release_memory
from lavra.core.seeds import derive_seed
from lavra.models.batch import Batch
from lavra.models.contract import Model
from lavra.objectives.base import Objective
from lavra.training.batches import BatchSource
from lavra.training.fault_points import fault_point
from lavra.training.memory_faults import halve
from lavra.training.precision import LossScale, Masters
from lavra.training.ranks import sum_over_ranks


class Step:
    """What updates work with. `backward` may be called again: same rows, same randomness, fresh gradient.

    Args:
        number: of the step, from 0.
        progress: share of the run that is done.

    Attributes:
        loss: mean loss in nats per target after `backward`; not a number where the step has no target.
        weight: number of targets of the step, over all ranks.
    """

    def __init__(
        self,
        number: int,
        progress: float,
        model: Model,
        objective: Objective,
        batches: BatchSource,
        masters: Masters,
        scale: LossScale,
        device: torch.device,
        report: Callable[[str], None],
    ) -> None:
        self.number, self.progress, self.model, self.objective = number, progress, model, objective
        self.batches, self.masters, self.scale, self.device = batches, masters, scale, device
        self._report = report
        self.loss = math.nan
        self.weight = 0.0
        self._micro: list[Batch] | None = None
        self._norm: float | None = None

    @property
    def micro_batches(self) -> list[Batch]:
        """This rank's micro-batches."""
        if self._micro is None:
            self._micro = self.batches.micro_batches(self.number)
        return self._micro

    @property
    def documents(self) -> list[int]:
        """Numbers of the documents that the step trains on (on this rank)."""
        return sorted({document for batch in self.micro_batches for document in batch.documents})

    def backward(self) -> None:
        """Compute the mean loss of the whole step and its gradient, into the masters' `grad`.

        When memory runs out, the step is done again with half the micro-batch and the same rows. When fp16 gradients
        overflow, it is done again with half the loss scale.

        Raises:
            InputError: if one row alone is too much for the memory.
        """
        self._compute()
        if self.scale.active:
            self._rescale()

    def _rescale(self) -> None:
        """Halve the loss scale until the gradient is finite; where no scale helps, it is not to blame and stays."""
        before = self.scale.state_dict()
        while math.isfinite(self.loss) and not math.isfinite(self.gradient_norm()):
            if self.scale.value <= 1.0:
                self.scale.load_state_dict(before)
                return
            self.scale.update(overflowed=True)
            self._compute()

    def _compute(self) -> None:
        while not self._attempt():
            pass

    def _attempt(self) -> bool:
        try:
            self._accumulate()
            return True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = halve(self.batches.micro_rows, self.batches.share)
            release_memory(error)
        self._report(
            f"out of memory at step {self.number + 1}: micro-batch {self.batches.micro_rows} -> {smaller} rows; "
            "the step is done again with the same tokens"
        )
        self.batches.micro_rows = smaller
        self._micro = None
        return False

    def _accumulate(self) -> None:
        self.masters.clear()
        self._norm = None
        batches = self.micro_batches
        if not self.weight:
            # Once a step: a rank that runs out of memory and begins again must not ask the others, who went on, again.
            self.weight = sum_over_ranks(sum(batch.weight for batch in batches), self.batches.ranks)
        if not self.weight:
            return  # masks may leave a step without a target; there is nothing to learn from it
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for index, batch in enumerate(batches):
            fault_point("step.backward")
            self._seed_dropout(index)
            loss = self.objective.loss(self.model, batch.to(self.device))
            (loss.sum * (self.scale.value / self.weight)).backward()
            self.masters.collect(self.scale.value)
            total += loss.sum.detach().float()
        if self.batches.ranks.world > 1:
            self._reduce(total)
        self.loss = float(total) / self.weight

    def _seed_dropout(self, index: int) -> None:
        """Give dropout the stream of this micro-batch; the global generator's past plays no part."""
        torch.manual_seed(derive_seed(self.batches.seed, "dropout", self.number, self.batches.ranks.rank, index))

    def _reduce(self, total: torch.Tensor) -> None:
        torch.distributed.all_reduce(total)
        for gradient in self.masters.gradients():
            torch.distributed.all_reduce(gradient)

    def gradient_norm(self) -> float:
        """Return the L2 norm of the whole gradient, as it was before any update changed it."""
        if self._norm is None:
            gradients = self.masters.gradients()
            norms = torch._foreach_norm(gradients)
            self._norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        return self._norm
