"""A finished run that is trained for longer: the plan of its new length."""

from __future__ import annotations

from dataclasses import replace

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.tasks.opening import open_dataset
from lavra.training.plan import Plan
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.training.job import checkpoint_store
from lavra.workflows.training.run_length import steps_within, with_length


def refuse_wrong_length(steps: int | None, budget: float | None) -> None:
    """Raise an error unless one further length is given, and is above zero.

    Args:
        steps: The further steps; None if they are not given.
        budget: The further seconds; None if they are not given.

    Raises:
        InputError: If both are given, or one is not above zero.
    """
    if steps is not None and budget is not None:
        raise InputError("--steps and --budget both say how much longer the run is trained", "give one of them")
    for flag, value in (("--steps", steps), ("--budget", budget)):
        if value is not None and not value > 0:
            raise InputError(f"{flag} {value:g} is no length", "give more than 0")


def lengthen(run: RunFolder, *, steps: int | None = None, budget: float | None = None) -> None:
    """Write the plan of a finished run that is trained for longer; `resume` then goes on from its last step.

    From there on each step has the learning rate that it has in a run of the new length, so that the end is that of a
    longer run. The optimiser's state and the order of the data go on. How many steps fit into a time follows from the
    speed of the run so far.

    Args:
        run: The folder of the run, of whose lock the caller is the holder.
        steps: Number of further steps; None where a time is given.
        budget: Further time in seconds.

    Raises:
        InputError: If the run is not finished, its last checkpoint is gone, or it ends by itself.
    """
    if not run.result:
        raise InputError(f"{run.path} is not finished", f"finish it first: lavra resume {run.path}")
    config, done = request_of(run), int(run.result.get("step", 0))
    if config.early_stopping is not None:
        raise InputError(f"{run.path} stops early by itself", _otherwise(run))
    last = checkpoint_store(config, run).latest() if run.plan else None
    if last is None or last.step != done:
        raise InputError(f"{run.path} has no checkpoint of its last step", _otherwise(run))
    plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
    plan = _longer(plan, config, run, done, steps, budget)
    text = f"trained for longer: {counted(plan.steps - done, 'further step')}, {plan.steps:,} in all"
    run.log(text)
    log(text)
    run.write_plan(plan.to_json())


def _longer(
    plan: Plan, config: TrainConfig, run: RunFolder, done: int, steps: int | None, budget: float | None
) -> Plan:
    """Return the plan of the whole run, `done` steps of which are taken."""
    speed = run.result.get("tokens_per_second") or plan.probe.get("tokens_per_second")
    data = open_dataset(data_folder(config, run.path))
    # A forecast for another length says nothing here, and who asks for more does not fear that it is learned by heart.
    plan = replace(plan, budget_seconds=budget, most_steps=None, forecast={})
    per_token = 1.0 / speed if speed else 0.0
    if budget is not None:
        if not speed:
            raise InputError(f"{run.path} does not say how fast it was", "give --steps instead of --budget")
        steps = steps_within(budget, per_token * plan.batch_tokens, plan, config, data, per_token, least=0)
        if not steps:
            second = show_duration(per_token * plan.batch_tokens)
            raise InputError(f"no step fits into {show_duration(budget)}: one takes {second}", "give a longer --budget")
    assert steps is not None
    return with_length(plan, done + steps, config, data, per_token)


def _otherwise(run: RunFolder) -> str:
    return f"begin another run with its model: lavra train … --from {run.path}"
