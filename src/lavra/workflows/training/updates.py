"""The chain of updates of a run, and the record of its anomalous steps."""

from __future__ import annotations

from collections.abc import Callable

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.tasks.datasets import Dataset
from lavra.training.optimizers.table import METHODS
from lavra.training.plan import Plan
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import (
    AnomalyGuard,
    Clip,
    ExponentialAverage,
    Monitor,
    ScheduleFreeWeights,
    SnapshotAverage,
    Stability,
    Update,
)
from lavra.training.updates.anomalies import SpikeDetector
from lavra.training.updates.table import find_update
from lavra.workflows.training.spikes import Advisor
from lavra.workflows.training.techniques import technique_updates

_EXCERPT = 200
"""Characters of each document that are logged when a step has a loss or gradient that is not finite."""


_RECORDS = 40
"""Records of stability over a run, and least steps between two of them. A record costs less than half of a step, which
is below one part in a hundred at this distance."""
_LEAST_STEPS = 50


def update_chain(
    config: TrainConfig, plan: Plan, trainer: Trainer, record: Callable[[Step, str], None], run: RunFolder | None = None
) -> list[Update]:
    """Return the updates of a run, outermost first.

    They are the monitor, the record of stability, the guard against anomalies, weight averaging, the updates that the
    request names, techniques, and clipping.

    Args:
        config: The request.
        plan: The plan of the run.
        trainer: The trainer, whose master weights are averaged.
        record: The function that logs a step with an anomaly, and why.
        run: The folder of the run, which gets the records of stability; None on processes that keep none.
    """
    anomalies, average = config.anomalies, config.average
    chain: list[Update] = [
        Monitor(),
        *_stability(config, plan, trainer, run),
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
        chain.append(SnapshotAverage(trainer.master_weights, first_snapshot(config, plan), average.every))
    if METHODS[plan.optimizer.name].averages:
        chain.append(ScheduleFreeWeights(trainer.master_weights, trainer.optimizers))
    chain += [find_update(name)(trainer) for name in config.update]
    chain += technique_updates(config.technique, trainer)
    chain.append(Clip(plan.max_grad_norm))
    return chain


def _stability(config: TrainConfig, plan: Plan, trainer: Trainer, run: RunFolder | None) -> list[Update]:
    """Return the update that records stability, where there is a run to record it in and it is not switched off."""
    every = stability_every(config, plan.steps)
    if run is None or not every:
        return []
    return [
        Stability(trainer, every, run.stability.append, histograms=config.stability.histograms, report=reporter(run))
    ]


def stability_every(config: TrainConfig, steps: int) -> int:
    """Return the steps between two records of stability; 0 for none.

    Args:
        config: The request.
        steps: Length of the run.
    """
    asked = config.stability.every
    return max(_LEAST_STEPS, steps // _RECORDS) if asked is None else asked


def first_snapshot(config: TrainConfig, plan: Plan) -> int:
    """Return the step of the first snapshot of the weights, for their average."""
    return int(plan.steps * config.average.start)


def reporter(run: RunFolder | None) -> Callable[[str], None]:
    """Return the function that prints a line and logs it in the run.

    Args:
        run: The folder of the run; None on processes that keep no record.
    """

    def report(text: str) -> None:
        log(text)
        if run is not None:
            run.log(text)

    return report


def anomaly_recorder(
    run: RunFolder | None, data: Dataset, advisor: Advisor | None = None
) -> Callable[[Step, str], None]:
    """Return the function that logs the documents of an anomalous step in `events.log`, with their first characters.

    Args:
        run: The folder of the run; None on processes that keep no record.
        data: The data set.
        advisor: What says what helps, the first time; None says nothing.
    """

    def record(step: Step, reason: str) -> None:
        documents = step.documents
        place = f"step {step.number + 1}"
        reporter(run)(f"{place}: {reason}; {counted(len(documents), 'document')} in the batch, see events.log")
        for document in documents if run is not None else ():
            assert run is not None
            run.log(f"{place}: document {document}: {data.excerpt(document)[:_EXCERPT]!r}")
        if advisor is not None:
            advisor.advise(finite=step.finite)

    return record
