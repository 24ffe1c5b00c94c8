"""The trainer: a model, its masters, optimisers and update chain, stepped one optimiser step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lavra.core.machine import is_out_of_memory, keep_freed_memory, release_memory
from lavra.models.native.attention import distrust, distrusted_ways
from lavra.models.protocols import Model
from lavra.objectives.base import Objective, group_of
from lavra.training.acceleration.compiling import EAGER, Compilation
from lavra.training.acceleration.proof import prove_compilation
from lavra.training.batches import Batches
from lavra.training.deadline import Deadline
from lavra.training.embedding_gradient import shrink_embedding_gradient
from lavra.training.fault_injection import fault_point
from lavra.training.optimizers.optimizers import OptimizerOptions, Optimizers
from lavra.training.optimizers.schedules import Schedule
from lavra.training.precision import LossScale, MasterWeights, Precision
from lavra.training.step import Step, halve
from lavra.training.updates import Outcome, Update, run_chain


@dataclass
class StepReport:
    """What one optimiser step did.

    Attributes:
        step: steps done, this one included.
        loss: mean nats per target.
        gradient_norm: before clipping.
        learning_rate: AdamW's.
        targets: tokens learned from.
        applied: whether the weights moved.
        metrics: further figures of the updates.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    targets: float
    applied: bool
    metrics: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Everything that learns, and everything that a checkpoint must hold of it.

    Args:
        model: moved to the device and converted to the precision.
        objective: what is learned.
        batches: where the micro-batches come from.
        optimizer: which optimiser.
        schedule: of the learning rates.
        precision: of the working weights.
        device: where.
        steps: length of the run.
        updates: the chain around the optimiser step, outermost first.
        report: takes a line worth writing down.

    Attributes:
        compilation: what is compiled of a step; None for nothing.
        proved: rows of a micro-batch and type of the weights with which the compiled step was proved.
        deadline: when the last step should be done; None where there is no limit.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        batches: Batches,
        *,
        optimizer: OptimizerOptions,
        schedule: Schedule,
        precision: Precision,
        device: torch.device,
        steps: int,
        updates: Sequence[Update] = (),
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.objective, self.batches, self.device = model, objective, batches, device
        self.schedule, self.steps, self.updates, self.report = schedule, steps, list(updates), report
        if device.type == "cpu":
            keep_freed_memory()
        self.master_weights = MasterWeights(model.to(device), precision)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        self.model.train()  # a model that was opened to go on from may come in evaluation mode
        self.optimizers = Optimizers(self.master_weights.weights, optimizer)
        shrink_embedding_gradient(model, optimizer.embedding_gradient)
        self.scale = LossScale(precision == "fp16")
        self.step = 0
        self.targets = 0.0
        self.excluded: set[int] = set()
        self.compilation: Compilation | None = None
        self.proved: tuple[int, torch.dtype] | None = None
        self.deadline: Deadline | None = None

    def set_length(self, steps: int) -> None:
        """Fix the length of the run, which a probe decides after the trainer is built."""
        self.steps = self.batches.steps = steps

    @property
    def gradients_per_step(self) -> float:
        """Mean number of gradients that a step takes with all updates of the chain.

        Each update calls the rest of the chain at most once, so what one takes beyond the first gradient adds up.
        """
        return 1.0 + sum(update.gradients_per_step - 1.0 for update in self.updates)

    def run_step(self) -> StepReport:
        """Do the next step, or count one as done that is excluded or has no targets, without touching the weights."""
        number = self.step
        self._prove_compilation()
        self.step += 1
        if number in self.excluded:
            return self._left_out()
        step = Step(number, number / self.steps, self)
        step.backward(share=min((update.gradient_share for update in self.updates), default=1.0))
        if not step.weight:
            return self._left_out()
        outcome = run_chain(self.updates, step, lambda: self._apply(number))
        if outcome.applied:
            self.targets += step.targets
        return StepReport(
            self.step,
            step.loss,
            step.gradient_norm(),
            self.optimizers.learning_rate,
            step.targets,
            outcome.applied,
            outcome.metrics,
        )

    def _prove_compilation(self) -> None:
        """Prove what is compiled before it is used; again where rows or numbers are others, which makes other code."""
        if self.compilation is None or self.compilation.flags == EAGER or self.compilation.suspended:
            return
        dtype = next(iter(self.master_weights.working.values())).dtype
        while self.proved is None or (
            self.batches.distributed.world_size == 1 and self.proved != (self.batches.micro_batch_size, dtype)
        ):
            try:
                prove_compilation(self)
                self.proved = self.batches.micro_batch_size, dtype
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.master_weights.clear()
                self.batches.micro_batch_size = halve(
                    self.batches.micro_batch_size, self.batches.share, group_of(self.objective)
                )
                release_memory(error)

    def _left_out(self) -> StepReport:
        """Report a step that is counted as done and moves nothing."""
        return StepReport(self.step, float("nan"), float("nan"), self.optimizers.learning_rate, 0.0, False)

    def _apply(self, number: int) -> Outcome:
        fault_point("step.apply")
        self.optimizers.step(self.schedule.factor(number, self.steps))
        self.master_weights.copy_to_model()
        self.scale.update(overflowed=False)
        return Outcome()

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Switch dropout off and put averaged weights in place, if an update keeps some."""
        with ExitStack() as stack:
            for update in self.updates:
                stack.enter_context(update.eval_weights())
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return every tensor of the training state, in groups, without copying."""
        return {
            "master_weights": {name: weight.detach() for name, weight in self.master_weights.weights.items()},
            "optimizer": self.optimizers.tensors(),
            **self._update_tensors(),
        }

    def _update_tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the tensors of those updates that have some, by the name of the update."""
        return {update.name: tensors for update in self.updates if (tensors := update.tensors())}

    def state(self) -> dict[str, Any]:
        """Return the rest of the training state as JSON values."""
        return {
            "step": self.step,
            "steps": self.steps,
            "targets": self.targets,
            "excluded": sorted(self.excluded),
            "micro_batch_size": self.batches.micro_batch_size,
            "loss_scale": self.scale.state_dict(),
            "computed": self.computed(),
            "updates": {update.name: update.state_dict() for update in self.updates},
            "updates_with_tensors": list(self._update_tensors()),
        }

    def computed(self) -> dict[str, Any]:
        """Return in which ways steps are computed, as JSON values: what is compiled, and what was given up."""
        return {
            "compiled": None if self.compilation is None else self.compilation.flags,
            "distrusted": list(distrusted_ways()),
            "widened": self.master_weights.widened,
        }

    def _compute_as(self, state: dict[str, Any]) -> None:
        """Go without the fast ways that were given up; none is taken again."""
        if self.compilation is not None and state["compiled"] and self.compilation.flags != EAGER:
            self.compilation.set_flags(state["compiled"])
        distrust(*state["distrusted"])
        if state["widened"] and not self.master_weights.widened:
            self.master_weights.widen(self.model)  # pyright: ignore[reportArgumentType]

    def restore(self, load: Callable[[str], dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
        """Go back to a saved state: `load(group)` returns what `tensors()[group]` was.

        The position in the data is the step number alone.
        """
        self.master_weights.load(load("master_weights"))
        self.optimizers.load_tensors(load("optimizer"))
        self.scale.load_state_dict(state["loss_scale"])
        self._compute_as(state["computed"])
        for update in self.updates:
            if update.name in state["updates"]:
                update.load_state_dict(state["updates"][update.name])
                update.load_tensors(load(update.name) if update.name in state["updates_with_tensors"] else {})
        self.step, self.targets = state["step"], state["targets"]
        self.excluded |= set(state["excluded"])
