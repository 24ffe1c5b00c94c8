"""The training loop of a plan with its checkpoints and callbacks, from the first step or from a checkpoint."""

from __future__ import annotations

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_json
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.planning.machine.timed_steps import TimedSteps
from lavra.planning.plan import Plan
from lavra.training.batches import DistributedInfo
from lavra.training.callbacks import Callbacks
from lavra.training.checkpoints.checkpoints import Checkpoint, CheckpointStore
from lavra.training.loop import Intervals, Loop, Units
from lavra.training.trackers import make_tracker
from lavra.workflows.datasets.dataset import Dataset
from lavra.workflows.training.best_step import OverfittingWatch, with_early_stopping
from lavra.workflows.training.build import TrainingJob
from lavra.workflows.training.forecast import live_forecasts
from lavra.workflows.training.time_budget import TimeBudget

_MOST_LOGGED = 5000
"""Most lines of training metrics that a run writes."""


def checkpoint_store(config: TrainConfig, run: RunFolder) -> CheckpointStore:
    """Return the checkpoints of a run.

    Args:
        config: The request, which says how many checkpoints are kept.
        run: The folder of the run.
    """
    return CheckpointStore(run.checkpoints, config.keep_checkpoints, on_warning=run.log)


def fit(
    config: TrainConfig,
    plan: Plan,
    job: TrainingJob,
    data: Dataset,
    run: RunFolder | None,
    distributed: DistributedInfo,
    checkpoint: Checkpoint | None = None,
    first: TimedSteps | None = None,
    time_budget: TimeBudget | None = None,
) -> float:
    """Train from the first step, or from a checkpoint, to the last step.

    Args:
        config: The request.
        plan: The plan of the run.
        job: The training job at its first step.
        data: The data set.
        run: The folder of the run; None on processes other than the first.
        distributed: The place of this process among all.
        checkpoint: The checkpoint to continue from; None for the first step.
        first: The timed steps that were taken already and are part of the run; None for none.
        time_budget: The time budget, which may set the length once more; None for a fixed length.

    Returns:
        Seconds that training waited for checkpoints.

    Raises:
        Interrupted: After a signal to stop, when a checkpoint is written.
        Diverged: If the loss stays not finite, by the policy for anomalies.
    """
    trainer = job.trainer
    if checkpoint is not None:
        trainer.restore(checkpoint.load, checkpoint.state)
    watch = OverfittingWatch(run, plan, _patience(config, distributed)) if run is not None else None
    callbacks = _callbacks(config, plan, data, run, watch)
    loop = Loop(
        trainer,
        run,
        checkpoint_store(config, run) if run is not None else None,
        _intervals(plan),
        _units(plan, data, distributed),
        job.validation,
        callbacks,
        with_early_stopping(watch, None if time_budget is None else time_budget.steps_after, plan),
    )
    callbacks.on("start", {"config": to_json(config), "step": trainer.step})
    try:
        if first is not None:
            loop.record(first.reports, first.probe.tokens_per_second)
        loop.train()
    except BaseException as error:
        if run is not None:
            run.log(f"stopped: {type(error).__name__}: {error}")
        raise
    finally:
        trainer.batches.close()
    callbacks.on("end", {"step": trainer.step, "status": "done"})
    return loop.waited


def _patience(config: TrainConfig, distributed: DistributedInfo) -> int | None:
    """Return the patience of early stopping, which is refused for several processes: they could stop at other steps."""
    if config.early_stopping is not None and distributed.world_size > 1:
        raise InputError("--early-stopping is for one process", "leave it out; the best checkpoint is kept anyway")
    return config.early_stopping


def _callbacks(
    config: TrainConfig, plan: Plan, data: Dataset, run: RunFolder | None, watch: OverfittingWatch | None
) -> Callbacks:
    """Return the callbacks: trackers, forecasts, the overfitting watch; none on processes without a record."""
    if run is None:
        return Callbacks(report=log)
    trackers = [make_tracker(name, run.path) for name in config.track]
    watches = [] if watch is None else [watch]
    return Callbacks([*trackers, *live_forecasts(run, plan, data), *watches], report=run.log)


def _intervals(plan: Plan) -> Intervals:
    every = max(1, -(-plan.steps // _MOST_LOGGED))
    return Intervals(plan.steps, plan.validate_every, plan.checkpoint_every, log_every=every)


def _units(plan: Plan, data: Dataset, distributed: DistributedInfo) -> Units:
    peak = plan.probe.get("peak_flops", 0.0) * distributed.world_size
    return Units(data.bytes_per_target, data.words_per_target, plan.flops_per_token, peak)
