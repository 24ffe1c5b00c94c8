"""The length of a run: how many steps fit into a time, and the validations and checkpoints of so many steps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from lavra.config.training import TrainConfig
from lavra.config.transforms import TransformConfig
from lavra.tasks.datasets import DataSize, RowShape
from lavra.tasks.samples import SAMPLE_TOKENS
from lavra.training.plan import Plan
from lavra.workflows.training.optimization import schedule_of

EVALUATION_SHARE = 0.06
"""Share of a time budget that the final evaluation may take."""

_EVALUATION_OF_TRAINING = 0.25
"""The same share of the training time of a run without a time budget, and the seconds that it may take in any case: a
few steps of a large model are not to be followed by an hour of evaluation."""
_EVALUATION_SECONDS = 120.0

_VALIDATIONS = 8
"""Number of validations of a run, and the share of the training time that they may take together."""
_VALIDATION_SHARE = 0.02

_VALIDATION_ROWS = 8
"""Fewest sequences of one of several validations, and of the only one of a short run."""
_LEAST_ROWS = 4

STATE_BYTES = 12
"""Bytes of a checkpoint for each weight, and the share of the training time that writing them may take."""
_WRITING_SHARE = 0.05

_FORWARD_SHARE = 0.35
"""Time of a forward pass as a share of the time of a whole step."""


def with_length(plan: Plan, steps: int, config: TrainConfig, data: DataSize, seconds_per_token: float) -> Plan:
    """Return the plan for a number of steps, with intervals of validation and checkpoints that fit this length.

    Args:
        plan: The plan so far.
        steps: The number of updates.
        config: The request, which may fix the interval of checkpoints.
        data: The training and validation data, or how much there is.
        seconds_per_token: Seconds of training for each token, from which the cost of evaluation follows.
    """
    length = length_fields(
        config,
        data,
        plan,
        steps,
        parameters=plan.parameters,
        batch_tokens=plan.batch_tokens,
        micro_batch_size=plan.micro_batch_size,
        budget=plan.budget_seconds,
        adapting=plan.base is not None,
        compile=plan.compile,
        seconds_per_token=seconds_per_token,
    )
    return replace(plan, **length)


def length_fields(
    config: TrainConfig,
    data: DataSize,
    shape: RowShape,
    steps: int,
    *,
    parameters: int,
    batch_tokens: int,
    micro_batch_size: int,
    budget: float | None,
    adapting: bool,
    compile: bool,
    seconds_per_token: float,
) -> dict[str, Any]:
    """Return the fields of a plan that depend on its number of steps.

    Args:
        config: The request, which may fix the interval of checkpoints.
        data: The training and validation data, or how much there is.
        shape: How the data is cut into rows.
        steps: The number of updates.
        parameters: Number of parameters of the model.
        batch_tokens: Tokens of an update.
        micro_batch_size: Sequences of a micro-batch.
        budget: The time budget in seconds; None for a length that is given in another way.
        adapting: Whether a base model is trained.
        compile: Whether the blocks of the model are compiled.
        seconds_per_token: Seconds of training for each token, from which the cost of evaluation follows.
    """
    tokens = steps * batch_tokens
    short = budget is not None and budget < _SHORT
    save_every = config.checkpoint_every or max(
        1,
        -(-steps // (_VALIDATIONS if short else _CHECKPOINTS)),
        steps_between_checkpoints(parameters, config.transforms, seconds_per_token * batch_tokens),
    )
    times, rows = validations_of(tokens / shape.context, getattr(data, "fewest_validated", _VALIDATION_ROWS))
    # Validations fall on checkpoints, so that the best checkpoint by validation can be kept.
    every = save_every * max(1, round(steps / times / save_every))
    validation_rows = data.validation_rows(shape)
    rows = min(validation_rows, rows)
    if rows > micro_batch_size:  # whole micro-batches: another shape would be compiled once more
        rows -= rows % micro_batch_size
    training = tokens * seconds_per_token
    seconds = (
        max(_EVALUATION_SECONDS, _EVALUATION_OF_TRAINING * training) if budget is None else EVALUATION_SHARE * budget
    )
    affordable = max(
        min(_LEAST_EVALUATED, 2 * shape.context), int(seconds / _evaluation_seconds(compile, seconds_per_token))
    )
    return {
        "steps": steps,
        "tokens": tokens,
        "epochs": round(tokens / data.epoch_tokens(shape), 4),
        "schedule": schedule_of(config.optimization, adapting, steps),
        "validation_rows": rows,
        "validate_every": every,
        "checkpoint_every": save_every,
        "evaluation_tokens": min(validation_rows * shape.context, affordable),
    }


def validations_of(sequences: float, fewest: int = _VALIDATION_ROWS) -> tuple[int, int]:
    """Return how often a run validates, and on how many sequences, so that all of it takes a small share of the time.

    A run that is too short for all validations has fewer of them, and one that is too short for one has a small one.

    Args:
        sequences: Number of sequences that the run trains on.
        fewest: Fewest sequences of one of several validations.

    Examples:
        A long run, and one of a dozen steps of a large model:

        >>> validations_of(100_000), validations_of(48)
        ((8, 714), (1, 4))
    """
    affordable = sequences * _VALIDATION_SHARE / _FORWARD_SHARE
    times = min(_VALIDATIONS, max(1, int(affordable / fewest)))
    least = fewest * _LEAST_ROWS // _VALIDATION_ROWS if times == 1 else fewest
    return times, max(least, round(affordable / times))


def steps_between_checkpoints(parameters: int, transforms: TransformConfig, step_seconds: float) -> int:
    """Return the least number of steps between two checkpoints, so that writing them takes a small share of the time.

    A checkpoint holds three numbers of four bytes for each weight, is copied in memory and written beside the training;
    with a large model and few steps that slows training down by a quarter. An adapter is small, and costs nothing.

    Args:
        parameters: Number of parameters of the model.
        transforms: The changes of the model.
        step_seconds: Seconds of a step.
    """
    if transforms.adapter.kind != "none":
        return 1
    seconds = STATE_BYTES * parameters / WRITING_SPEED
    return max(1, math.ceil(seconds / (_WRITING_SHARE * step_seconds)))


_ROUNDS = 3
"""Times that the length is reckoned again with the validations of the length before it."""


def steps_within(
    seconds: float,
    step_seconds: float,
    plan: Plan,
    config: TrainConfig,
    data: DataSize,
    seconds_per_token: float,
    least: int = 1,
) -> int:
    """Return how many steps fit into a time, with as many and as large validations as a run of that length has.

    Args:
        seconds: The time that is left.
        step_seconds: Seconds of one step.
        plan: The plan with a guess of its length.
        config: The request.
        data: How much data there is.
        seconds_per_token: Seconds of training for each token.
        least: The number to return where there is time for none.
    """
    steps = plan.steps
    for _ in range(_ROUNDS):
        plan = with_length(plan, max(1, steps), config, data, seconds_per_token)
        steps = steps_in(seconds, step_seconds, plan, seconds_per_token, least)
        steps = steps if plan.most_steps is None else min(steps, plan.most_steps)
    return steps


def steps_in(seconds: float, step_seconds: float, plan: Plan, seconds_per_token: float, least: int = 1) -> int:
    """Return how many steps fit into a time, beside validations and the final evaluation.

    Args:
        seconds: The time that is left.
        step_seconds: Seconds of one step.
        plan: The plan of the run.
        seconds_per_token: Seconds of training for each token.
        least: The number to return where there is time for none.
    """
    times = -(-plan.steps // plan.validate_every)
    validations = times * plan.validation_rows * plan.context * _FORWARD_SHARE * seconds_per_token
    left = seconds - seconds_after(plan, seconds_per_token) - validations
    return max(least, int(left / (step_seconds * (1.0 + _OVERHEAD))))


def seconds_after(plan: Plan, seconds_per_token: float) -> float:
    """Return the seconds that a run takes after its last step, for the final evaluation, the model and the samples.

    Args:
        plan: The plan of the run.
        seconds_per_token: Seconds of training for each token.
    """
    evaluation = _evaluation_seconds(plan.compile, seconds_per_token) * plan.evaluation_tokens
    samples = SAMPLE_TOKENS * _decode_seconds(plan)
    if plan.budget_seconds is not None:
        evaluation = min(evaluation, EVALUATION_SHARE * plan.budget_seconds)
        samples = min(samples, SAMPLES_SHARE * plan.budget_seconds)
    writing = plan.parameters * BYTES_WRITTEN / WRITING_SPEED
    return evaluation + samples + writing + _FINISH_SECONDS


def _evaluation_seconds(compiled: bool, seconds_per_token: float) -> float:
    """Return the seconds of the final evaluation for each token.

    Half-overlapping windows read every token about twice, and nothing is compiled then.
    """
    return 2 * _FORWARD_SHARE * seconds_per_token * (_EAGER if compiled else 1.0)


def _decode_seconds(plan: Plan) -> float:
    """Return the seconds of generating one token, in which all weights are read once."""
    return 2 * plan.parameters / _READING_SPEED.get(plan.device, 1e10) + _DECODE_SECONDS


SAMPLES_SHARE = 0.02
"""Share of a time budget that generating the samples may take."""

_EAGER = 1.4
"""Time of an eager forward pass relative to a compiled one."""

BYTES_WRITTEN = 16
"""Bytes for each parameter that are written after the last step, for its checkpoint (weights and moments in fp32) and
the model, and bytes that are written and hashed in a second."""
WRITING_SPEED = 4e8

_READING_SPEED = {"cpu": 1e10, "cuda": 1e12, "mps": 1e11}
"""Bytes of weights that a device reads in a second, and the seconds that a token takes besides."""
_DECODE_SECONDS = 0.005

_CHECKPOINTS = 20
"""Number of checkpoints of a run, and the time budget in seconds below which there are only as many as validations:
writing checkpoints every few steps makes these steps a quarter slower."""
_SHORT = 300.0

_LEAST_EVALUATED = 4096
"""Fewest tokens of the final evaluation in a short budget, or two sequences where these are fewer."""

_FINISH_SECONDS = 1.0
"""Seconds that the end of a run takes besides."""

_OVERHEAD = 0.03
"""Share of the training time for checkpoints and logging, and for a machine that is slower once it is warm."""
