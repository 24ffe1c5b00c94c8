"""One optimiser step as an object: its micro-batches, and a gradient that can be computed again."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack

import torch

from lavra.core.errors import InputError
from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.seeds import derive_seed
from lavra.models.native.loss_factor import scaled_loss
from lavra.models.protocols import Batch
from lavra.objectives.base import ComparingObjective, group_of
from lavra.training.acceleration.compiling import CompilableLearner
from lavra.training.acceleration.recovery import recoveries
from lavra.training.comparing import Embedded, gather, put_together
from lavra.training.distributed import max_over_ranks, sums_over_ranks
from lavra.training.fault_injection import fault_point

# The next smaller micro-batch to try when memory runs out.


def halve(micro_batch_size: int, global_batch_size: int, group: int = 1) -> int:
    """Return the micro-batch to try next: the largest divisor of `global_batch_size` that is at most half of
    `micro_batch_size`.

    A divisor, so that a step keeps its rows and is still cut into equal micro-batches.

    Args:
        micro_batch_size: rows per micro-batch that did not fit.
        global_batch_size: rows per optimiser step (on this rank), which stays as it is.
        group: rows that must stay together (`lavra.objectives.base.group_of`), of which the result is a multiple.

    Raises:
        InputError: if one row, or one group of rows, was already too much.
    """
    if micro_batch_size <= group:
        raise InputError(
            "out of memory with a micro-batch of " + ("a single row" if group == 1 else f"{group} rows"),
            "shorten the context, choose a smaller model (--model), or end other programs that use this memory",
        )
    possible = range(micro_batch_size // 2, 0, -1)
    return next((rows for rows in possible if global_batch_size % rows == 0 and rows % group == 0), group)


# One optimiser step as an object: its micro-batches, and a gradient that can be computed again.


class Step:
    """What updates work with. `backward` may be called again: same rows, same randomness, fresh gradient.

    Args:
        number: of the step, from 0.
        progress: share of the run that is done.
        trainer: whose step it is.
        recover: whether a step that is not finite is done again in plainer ways.

    Attributes:
        loss: mean loss in nats per target after `backward`; not a number where the step has no target.
        weight: sum of the weights of the step's targets, over all ranks; their number where they have no weights.
        targets: number of targets of the step, over all ranks.
    """

    def __init__(self, number: int, progress: float, trainer: CompilableLearner, *, recover: bool = True) -> None:
        self.number, self.progress, self.trainer, self.recover = number, progress, trainer, recover
        self.model, self.batches, self.master_weights, self.scale = (
            trainer.model,
            trainer.batches,
            trainer.master_weights,
            trainer.scale,
        )
        self.device = trainer.device
        self.loss = math.nan
        self.weight = self.targets = 0.0
        self._micro: list[Batch] | None = None
        self._norm: float | None = None
        self._embedded: Embedded | None = None
        self._share = 1.0
        self._part_weight: float | None = None

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

    def backward(self, *, record: bool = True, share: float = 1.0) -> float:
        """Compute the mean loss of the whole step and its gradient, into the masters' `grad`.

        When memory runs out, the step is done again with half the micro-batch and the same rows. When fp16 gradients
        overflow, it is done again with half the loss scale. When it is not finite, it is done again in plainer ways
        (`lavra.training.acceleration.recovery`).

        Args:
            record: False where an update computes the gradient once more, at other weights: `loss` and the gradient's
                norm, which the log shows, stay those of the first time.
            share: Share of the rows of the step that are computed, above 0 and at most 1. They are spread evenly over
                the step, and are the same in micro-batches of any size and on any number of processes, as long as each
                has one of them.

        Returns:
            The mean loss at the weights as they are now.

        Raises:
            InputError: if one row alone is too much for the memory.
            ValueError: if a share is asked of an objective that compares all rows of the step.
        """
        if share < 1.0 and isinstance(self.trainer.objective, ComparingObjective):
            raise ValueError("an objective that compares the rows of a step has no gradient of a part of them")
        self._share = share
        recorded = None if record else (self.loss, self.gradient_norm())
        self._compute()
        if self.scale.active:
            self._rescale()
        if not self.finite:
            self._compute_plainly()
        found = self.loss
        if recorded is not None:
            self.loss, self._norm = recorded
        return found

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers; a step without targets has neither."""
        return not self.weight or (math.isfinite(self.loss) and math.isfinite(self.gradient_norm()))

    def _compute_plainly(self) -> None:
        """Do the step again with the same rows in plainer ways, and give up the fast one without which it is finite."""
        with ExitStack() as stack:
            for recovery in recoveries(self.trainer) if self.recover else ():
                stack.enter_context(recovery.without())
                self._compute()
                if self.finite:
                    break
            else:
                return
        recovery.give_up()
        self.trainer.report(
            f"step {self.number + 1} was not finite with {recovery.fast}, and is without: that was wrong and is given "
            "up; the step was done again with the same tokens"
        )

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
        """Compute the loss and its gradient, with smaller micro-batches until the memory suffices on every process."""
        objective = self.trainer.objective
        while True:
            several = self.batches.distributed.world_size > 1 or len(self.micro_batches) > 1
            if several and isinstance(objective, ComparingObjective):
                if self._compare(objective):
                    return
                continue
            try:
                total = torch.zeros((), dtype=torch.float32, device=self.device)
                batches = self._begin()
                for index, batch in enumerate(batches):
                    fault_point("step.backward")
                    self._seed_dropout(index)
                    loss = objective.loss(self.model, batch.to(self.device))
                    factor = self.scale.value / self._divisor
                    with scaled_loss(factor):
                        (loss.sum * factor).backward()
                    self.master_weights.accumulate(self.scale.value)
                    total += loss.sum.detach().float()
                if batches:
                    self._reduce(total)
                    self.loss = float(total) / self._divisor
                return
            except (RuntimeError, MemoryError) as error:
                self._halve(error)

    def _halve(self, error: Exception) -> None:
        """Halve the micro-batch after an error of memory; any other error is raised again."""
        if not is_out_of_memory(error):
            raise error
        smaller = halve(self.batches.micro_batch_size, self.batches.share, self._group)
        release_memory(error)
        self.trainer.report(
            f"out of memory at step {self.number + 1}: micro-batch {self.batches.micro_batch_size} -> {smaller} rows; "
            "the step is done again with the same tokens"
        )
        self.batches.micro_batch_size = smaller
        self._micro = None

    def _attempt(self, compute: Callable[[], None]) -> bool:
        """Return whether there was memory for a computation; if there was not, the micro-batch is halved."""
        try:
            compute()
            return True
        except (RuntimeError, MemoryError) as error:
            self._halve(error)
        return False

    def _begin(self) -> list[Batch]:
        """Clear the gradients and return the micro-batches; none where the step has no target on any process."""
        self.master_weights.clear()
        self._norm = None
        batches = self.micro_batches
        if not self.weight:
            # Once a step: a rank that runs out of memory and begins again must not ask the others, who went on, again.
            weight, count = sum(batch.weight for batch in batches), float(sum(batch.count for batch in batches))
            self.weight, self.targets = sums_over_ranks((weight, count), self.batches.distributed)
        if not self.weight:
            return []  # masks may leave a step without a target
        return batches if self._share == 1.0 else self._part()

    def _part(self) -> list[Batch]:
        """Return the rows of this process that belong to the share, or all where none of them has a target."""
        number, parts = self.batches.distributed.rank * self.batches.share, []
        for batch in self.micro_batches:
            rows = batch.inputs.shape[0]
            chosen = [row for row in range(rows) if _belongs(number + row, self._share, self._group)]
            parts += [batch.take(chosen)] if chosen else []
            number += rows
        parts = parts or [self.micro_batches[0].take(list(range(self._group)))]
        if self._part_weight is None:
            (self._part_weight,) = sums_over_ranks([sum(batch.weight for batch in parts)], self.batches.distributed)
        return parts if self._part_weight else self.micro_batches

    @property
    def _divisor(self) -> float:
        """Sum of the weights of the targets that are computed, over all ranks."""
        return self.weight if self._share == 1.0 else self._part_weight or self.weight

    @property
    def _group(self) -> int:
        return group_of(self.trainer.objective)

    def _compare(self, objective: ComparingObjective) -> bool:
        """Compute the gradient of a loss over all micro-batches and processes, and return whether all had the memory.

        See `lavra.objectives.base.ComparingObjective`. Processes gather embeddings in the middle of the step, so one
        that runs out of memory after that cannot begin again by itself: all of them do.
        """
        while not self._attempt(lambda: self._embed(objective)):
            pass
        if self._embedded is None:
            return True
        together = gather(self._embedded, self.batches.distributed)
        enough = self._attempt(lambda: self._back_propagate(objective, together))
        if max_over_ranks(not enough, self.batches.distributed):
            return False
        self._reduce()
        return True

    def _embed(self, objective: ComparingObjective) -> None:
        """Compute the embeddings of this process's rows, a micro-batch at a time, and keep them without a gradient."""
        batches, parts = self._begin(), []
        for index, batch in enumerate(batches):
            fault_point("step.embed")
            self._seed_dropout(index)
            moved = batch.to(self.device)
            # With gradients on and then detached: without them, a compiled model would compile once more, and other
            # kernels could give other bits than when the micro-batch is computed again.
            parts.append((objective.embed(self.model, moved).detach(), objective.info(moved)))
        self._embedded = put_together(parts) if parts else None

    def _back_propagate(self, objective: ComparingObjective, together: Embedded) -> None:
        """Compare all embeddings, and compute each micro-batch again with the gradient at its own."""
        batches, embeddings = self._begin(), together.embeddings.detach().requires_grad_()
        loss = objective.compare(embeddings, together.info)
        if not math.isclose(loss.weight, self.weight, rel_tol=1e-4):
            raise ValueError(f"a comparison of weight {loss.weight} was made of batches of weight {self.weight}")
        (gradient,) = torch.autograd.grad(loss.sum * (self.scale.value / self.weight), embeddings)
        for index, (batch, part) in enumerate(zip(batches, together.own(gradient), strict=True)):
            fault_point("step.backward")
            self._seed_dropout(index)
            embedded = objective.embed(self.model, batch.to(self.device))
            with scaled_loss(self.scale.value / self.weight):
                embedded.backward(part.to(embedded.dtype))
            self.master_weights.accumulate(self.scale.value)
        self.loss = float(loss.sum.detach()) / self.weight

    def _seed_dropout(self, index: int) -> None:
        """Give dropout the stream of this micro-batch; the global generator's past plays no part."""
        torch.manual_seed(derive_seed(self.batches.seed, "dropout", self.number, self.batches.distributed.rank, index))

    def _reduce(self, *totals: torch.Tensor) -> None:
        """Add up the gradients, and other tensors, over all processes."""
        if self.batches.distributed.world_size > 1:
            for tensor in (*totals, *self.master_weights.gradients()):
                torch.distributed.all_reduce(tensor)

    def gradient_norm(self) -> float:
        """Return the L2 norm of the whole gradient, as it was before any update changed it."""
        if self._norm is None:
            self._norm = self.current_norm()
        return self._norm

    def current_norm(self) -> float:
        """Return the L2 norm of the whole gradient as it is now, after the updates around have changed it."""
        norms = torch._foreach_norm(self.master_weights.gradients())
        return float(torch.linalg.vector_norm(torch.stack(norms)))


def _belongs(row: int, share: float, group: int) -> bool:
    """Return whether a row of a step, counted from 0, is one of those that make up a share of it, evenly spread."""
    number = row // group
    return math.ceil((number + 1) * share) > math.ceil(number * share)
