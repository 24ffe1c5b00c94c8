"""What a training job is made of, for what works on one: the checks before the first step and the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.planning.machine.timed_steps import TimedSteps
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.datasets import Dataset
from lavra.training.batches import DistributedInfo
from lavra.training.callbacks import Callback
from lavra.training.checkpoints.checkpoints import Checkpoint
from lavra.training.deadline import Deadline
from lavra.training.plan import Plan
from lavra.training.trainer import Trainer
from lavra.training.validation import Validation
from lavra.workflows.models.base_model import Base
from lavra.workflows.training.autoconfig import Machine
from lavra.workflows.training.spikes import Advisor
from lavra.workflows.training.time_budget import TimeBudget


@dataclass
class JobParts:
    """What was asked, where it is recorded, what computes, what learns from what, and the plan.

    Attributes:
        config: The request.
        home: The folder of the run; for a check without a run, a folder for the prepared data.
        run: The record of the run; None on processes that keep none.
        device: Device that holds the model and computes.
        distributed: The place of this process among all.
        dataset: The data set.
        task: The task.
        plan: The plan of the run.
        base: The base model; None for training from scratch, and after a resume.
        machine: The measured machine; None after a resume.
        checkpoint: The checkpoint to continue from; None for the first step.
        model: The model, once it was built.
        trainer: The trainer, once it was built.
        validation: The validation during training; None where there is none.
        frozen: The names of the parameters that are frozen on purpose.
        timed: The timed steps that stay part of the run; None for none.
        time_budget: What sets the length once more while the run goes on; None for a fixed length.
        waited: Seconds that training waited for checkpoints.
        began: When the command started (`time.monotonic`); 0 after a resume.
        preparation: Seconds from then to the plan, in which the text was read and tokenised.
        measure: What measures the finished model; None for the task on the validation data.
        observers: Further observers of the run, besides those that it always has.
    """

    config: TrainConfig
    home: Path
    run: RunFolder | None
    device: torch.device
    distributed: DistributedInfo
    dataset: Dataset
    task: Task
    plan: Plan
    base: Base | None = None
    machine: Machine | None = None
    checkpoint: Checkpoint | None = None
    validation: Validation | None = None
    frozen: frozenset[str] = frozenset()
    timed: TimedSteps | None = None
    time_budget: TimeBudget | None = None
    waited: float = 0.0
    began: float = 0.0
    preparation: float = 0.0
    measure: Callable[[], Measured] | None = None
    observers: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        self.model: Decoder | HFModel
        self.trainer: Trainer
        self.advisor: Advisor

    def trained(self, share_after: float = 0.0) -> Trained:
        """Return the model with what its task needs to measure it.

        Args:
            share_after: Share of the time budget that has to be left after the measurement.
        """
        folder, budget, deadline = None if self.run is None else self.run.path, self.plan.budget_seconds, None
        if self.began and budget is not None:
            deadline = Deadline(self.began + (1.0 - share_after) * budget)
        return Trained(
            self.model, self.trainer.objective, self.dataset, self.plan, self.device, folder, deadline, folder
        )

    def undo_compilation(self) -> None:
        """Return to the blocks as they were before compilation; does nothing where nothing is compiled."""
        if self.trainer.compilation is not None:
            self.trainer.compilation.undo()
