"""Building the model, the batches, the optimiser and the trainer of a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.units import counted
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.objectives.base import Objective
from lavra.objectives.causal import Causal
from lavra.objectives.completion import Completion
from lavra.objectives.mlm import MaskedLM, mask_token_of
from lavra.objectives.seq2seq import Seq2Seq
from lavra.planning.plan import Plan
from lavra.training.acceleration.compiling import compile_step
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import AnomalyGuard, Clip, ExponentialAverage, Monitor, SnapshotAverage, Update
from lavra.training.updates.anomalies import SpikeDetector
from lavra.training.validation import Validation
from lavra.workflows.datasets.dataset import Dataset
from lavra.workflows.models.saved_base import build_model

# The objective of a plan.


def objective_of(plan: Plan, model: Decoder | HFModel, data: Dataset) -> Objective:
    """Return the training objective of a plan.

    Args:
        plan: The plan of the run.
        model: The model, whose decoder inputs a seq2seq objective needs.
        data: The data set, whose tokenizer a masked objective needs.
    """
    if plan.objective == "completion":
        return Completion(plan.context, plan.label_smoothing)
    if plan.objective == "seq2seq":
        assert isinstance(model, HFModel)
        return Seq2Seq(plan.context, plan.source_context, model.decoder_inputs, plan.label_smoothing)
    if plan.objective == "mlm":
        return MaskedLM(
            plan.context,
            mask_token_of(data.tokenizer),
            Words.of(data.tokenizer),
            whole_words=plan.whole_words,
            rate=plan.mask_rate,
            final_rate=plan.final_mask_rate,
            mask_share=1.0 if plan.pure_mask else 0.8,
            random_share=0.0 if plan.pure_mask else 0.1,
            isolate=plan.isolate,
            label_smoothing=plan.label_smoothing,
        )
    return Causal(plan.context, plan.isolate, plan.label_smoothing)


# The trainer of a plan.

_EXCERPT = 200
"""Characters of each document that are logged when a step has a loss or gradient that is not finite."""


@dataclass
class TrainingJob:
    """A training job: a trainer with its model and validation.

    Attributes:
        trainer: The trainer, at its first step.
        model: The model that it trains.
        validation: The validation during training; None where there is none.
        home: The folder of the run, in which the base model is saved; None for training from scratch.
    """

    trainer: Trainer
    model: Decoder | HFModel
    validation: Validation | None
    home: Path | None = None

    def undo_compilation(self) -> None:
        """Return to the blocks as they were before compilation; does nothing where nothing is compiled."""
        if self.trainer.compilation is not None:
            self.trainer.compilation.undo()

    def set_length(self, config: TrainConfig, plan: Plan, data: Dataset) -> None:
        """Set the length of a plan that was fixed after the trainer was built.

        Args:
            config: The request.
            plan: The plan with its final number of steps.
            data: The data set.
        """
        trainer = self.trainer
        trainer.set_length(plan.steps)
        trainer.schedule = plan.schedule
        for update in trainer.updates:
            if isinstance(update, SnapshotAverage):
                update.begin = _first_snapshot(config, plan)
        self.validation = _validation(plan, data)


def build_training_job(
    config: TrainConfig,
    plan: Plan,
    data: Dataset,
    run: RunFolder | None,
    device: torch.device,
    distributed: DistributedInfo,
    home: Path | None = None,
) -> TrainingJob:
    """Build the model, the batches, the chain of updates and the trainer of a plan.

    Args:
        config: The request, which says what to do about anomalies and which weights to average.
        plan: The plan of the run.
        data: The data set.
        run: The folder of the run, in which anomalies are logged; None on processes that keep no record.
        device: Device that holds the model and computes.
        distributed: The place of this process among all.
        home: The folder of the run, in which the base model is saved; None for training from scratch.

    Returns:
        The training job, at its first step.
    """
    model = build_model(plan, home)
    objective = objective_of(plan, model, data)
    batches = BatchSource(
        data.source(plan),
        objective,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.micro_batch_size,
        steps=plan.steps,
        seed=plan.seed,
        distributed=distributed,
        pin=device.type == "cuda",
    )
    trainer = Trainer(
        model,
        objective,
        batches,
        optimizer=plan.optimizer,
        schedule=plan.schedule,
        precision=plan.precision,
        device=device,
        steps=plan.steps,
        report=_reporter(run),
    )
    trainer.updates = update_chain(config, plan, trainer, _anomaly_recorder(run, data))
    if plan.compile:
        compile_step(trainer)
    return TrainingJob(trainer, model, _validation(plan, data), home)


def update_chain(
    config: TrainConfig, plan: Plan, trainer: Trainer, record: Callable[[Step, str], None]
) -> list[Update]:
    """Return the updates of a run, outermost first: monitor, guard against anomalies, weight averaging, clipping.

    Args:
        config: The request.
        plan: The plan of the run.
        trainer: The trainer, whose master weights are averaged.
        record: The function that logs a step with an anomaly, and why.
    """
    anomalies, average = config.anomalies, config.average
    chain: list[Update] = [
        Monitor(),
        AnomalyGuard(
            anomalies.policy,
            record,
            max_in_a_row=anomalies.max_in_a_row,
            spikes=SpikeDetector() if anomalies.spikes else None,
        ),
    ]
    if average.kind == "ema":
        chain.append(ExponentialAverage(trainer.master_weights, average.decay))
    elif average.kind == "swa":
        chain.append(SnapshotAverage(trainer.master_weights, _first_snapshot(config, plan), average.every))
    chain.append(Clip(plan.max_grad_norm))
    return chain


def _first_snapshot(config: TrainConfig, plan: Plan) -> int:
    return int(plan.steps * config.average.start)


def _validation(plan: Plan, data: Dataset) -> Validation | None:
    if not plan.validation_rows:
        return None
    validation_set = data.validation_set(plan)
    return Validation(validation_set.source, plan.validation_rows, validation_set.bytes_per_target)


def _reporter(run: RunFolder | None) -> Callable[[str], None]:
    from lavra.core.progress import log

    def report(text: str) -> None:
        log(text)
        if run is not None:
            run.log(text)

    return report


def _anomaly_recorder(run: RunFolder | None, data: Dataset) -> Callable[[Step, str], None]:
    """Return the function that logs the documents of an anomalous step in `events.log`, with their first characters."""

    def record(step: Step, reason: str) -> None:
        report = _reporter(run)
        documents = step.documents
        report(f"step {step.number + 1}: {reason}; {counted(len(documents), 'document')} in the batch, see events.log")
        if run is None:
            return
        for document in documents:
            text = data.excerpt(document)
            run.log(f"step {step.number + 1}: document {document}: {text[:_EXCERPT]!r}")

    return record
