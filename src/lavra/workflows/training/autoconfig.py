"""The plan of a run: everything that is fixed before the first step, from the request, the text and the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from lavra.config.training import ModelConfig, TrainConfig
from lavra.config.transforms import TransformConfig
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.models.native.decoder import Decoder, count_parameters
from lavra.models.spec import DecoderSpec, preset
from lavra.planning.budget import (
    BYTES_PER_TOKEN,
    TOKENS_PER_PARAMETER,
    assumed_efficiency,
    batch_tokens_for,
    busy_tokens,
    draft_shape,
    tokens_that_fit,
)
from lavra.planning.machine.flops import training_flops_per_token
from lavra.tasks.base import Task
from lavra.tasks.datasets import Dataset, DataSize, RowShape
from lavra.tasks.samples import SAMPLE_TOKENS
from lavra.training.acceleration.compiling import should_compile
from lavra.training.batches import DistributedInfo
from lavra.training.plan import Plan
from lavra.training.precision import Precision
from lavra.workflows.models.base_model import Base
from lavra.workflows.models.ngram_init import contexts_to_count, pairs_worth_counting
from lavra.workflows.training.optimization import optimizer_options, options_after_bigrams, schedule_of

DEFAULT_BUDGET = 600.0
"""Time budget in seconds of a run whose length is not given."""

_TOKENS_AT_ONCE = {"cpu": 8192, "cuda": 262144, "mps": 16384}
"""Most tokens of a micro-batch, by device: more would take more memory and not be faster."""

_LARGE = 3e7
"""FLOPs for each token from which on a processor is busy with a smaller micro-batch, and its tokens."""
_TOKENS_OF_LARGE = 2048

EVALUATION_SHARE = 0.06
"""Share of a time budget that the final evaluation may take."""

_COMPILED_GAIN = 1.6
"""Speed of compiled blocks on a CPU relative to the expected speed, and the seconds that compiling takes."""
_COMPILING = 30.0
_VALIDATIONS = 8
"""Number of validations of a run, and the share of the training time that they may take together."""
_VALIDATION_SHARE = 0.02

_VALIDATION_ROWS = 8
"""Fewest sequences of one of several validations, and of the only one of a short run."""
_LEAST_ROWS = 4

_STATE_BYTES = 12
"""Bytes of a checkpoint for each weight, the bytes that are written in a second beside the training, and the share of
the training time that this may take."""
_WRITTEN_BYTES = 4e8
_WRITING_SHARE = 0.05

_FORWARD_SHARE = 0.35
"""Time of a forward pass as a share of the time of a whole step."""


@dataclass(frozen=True)
class Machine:
    """The machine that trains, and how fast it multiplies matrices.

    Attributes:
        device: Device that holds the model and computes.
        precision: Type of the weights in the forward and backward pass.
        peak: FLOP/s of matrix products, measured or from a data sheet.
        threads: Number of processor threads.
        memory: Bytes of memory for training; infinite where it is not known.
        efficiency: Share of the peak that training is expected to reach; None for what is usual on such a device.
    """

    device: torch.device
    precision: Precision
    peak: float
    threads: int
    memory: float = math.inf
    efficiency: float | None = None

    @property
    def expected_flops(self) -> float:
        """The expected FLOP/s of a training step, before any step was timed."""
        usual = assumed_efficiency(self.device.type, self.peak, self.threads)
        return self.peak * (usual if self.efficiency is None else self.efficiency)


def given_seconds(config: TrainConfig) -> float | None:
    """Return the time budget of a request.

    Args:
        config: The request.

    Returns:
        Seconds; ten minutes where no length is given, and None where it is given in tokens, epochs or steps.

    Raises:
        InputError: If several lengths are given, or one is not above 0.
    """
    given = [name for name in ("budget", "tokens", "epochs", "steps") if getattr(config, name) is not None]
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise InputError(f"{names} both say how long to train", "give one of them")
    for name in given:
        if getattr(config, name) <= 0:
            raise InputError(f"--{name} is {getattr(config, name)}", "it must be above 0")
    if given and given[0] != "budget":
        return None
    return config.budget if config.budget is not None else DEFAULT_BUDGET


def draft_model(config: TrainConfig, machine: Machine, corpus_bytes: float) -> DecoderSpec:
    """Return the shape of the model to train from scratch.

    Args:
        config: The request, which may name a preset and single values of the shape.
        machine: The machine that will train.
        corpus_bytes: Bytes of the training text.

    Returns:
        The preset, or the compute-optimal shape for budget and text, with the values of the request.
    """
    if config.model.preset != "auto":
        return _overridden(preset(config.model.preset), config.model)
    seconds = given_seconds(config)
    if seconds is not None:
        flops = seconds * 0.85 * machine.expected_flops
    else:
        flops = _flops_of_length(config, corpus_bytes)
    spec = draft_shape(flops, corpus_bytes, machine.memory).spec
    if config.text.vocabulary:
        spec = replace(spec, vocabulary=config.text.vocabulary)
    return _overridden(spec, config.model)


def _flops_of_length(config: TrainConfig, corpus_bytes: float) -> float:
    """Return the FLOPs of a run whose length is given in tokens, for the compute-optimal model of that length.

    The compute-optimal model for D tokens has about D / 1.5 matrix parameters, so the compute is 6 D² / 1.5. Large
    language models have some 20 tokens for each parameter (Hoffmann et al., arXiv 2203.15556); small models in short
    runs do best with far fewer.
    """
    tokens = _asked_tokens(config, corpus_bytes / BYTES_PER_TOKEN)
    return 6.0 * tokens**2 / TOKENS_PER_PARAMETER


def _overridden(spec: DecoderSpec, asked: ModelConfig) -> DecoderSpec:
    names = (
        "context",
        "depth",
        "width",
        "heads",
        "kv_heads",
        "positions",
        "norm",
        "activation",
        "bigram_embedding",
        "ngram_copy",
        "tied",
        "dropout",
    )
    given = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    if "width" in given and "heads" not in given:
        given["heads"] = max(1, given["width"] // 64)
    return replace(spec, **given)


@dataclass(frozen=True)
class Learner:
    """What learns and from what, before the length of the run is known.

    Attributes:
        task: The task.
        objective: The name of the objective.
        spec: The shape of lavra's own decoder; None for a model of `transformers`.
        base: The base model; None for training from scratch.
        parameters: Number of parameters of the model.
        context: Tokens of a sequence.
        source_context: Tokens of a source; 0 for other models than encoder-decoders.
        flops_per_token: FLOPs of a training step for each token.
        isolate: Whether the documents of a sequence are kept apart.
        seed: Seed of the run.
    """

    task: Task
    objective: str
    spec: DecoderSpec | None
    base: Base | None
    parameters: int
    context: int
    source_context: int
    flops_per_token: float
    isolate: bool
    seed: int


def learner_of(config: TrainConfig, model: DecoderSpec | Base, data: DataSize, task: Task, objective: str) -> Learner:
    """Return what learns: the base model, or a decoder of the shape with the vocabulary and the rows of the data.

    Args:
        config: The request.
        model: The shape to train from scratch, or the base model.
        data: The data, or how much there is.
        task: The task.
        objective: The name of the objective.
    """
    if isinstance(model, DecoderSpec):
        spec = replace(model, vocabulary=data.vocabulary, context=data.context or model.context)
        base, parameters, context, source = None, _parameters(spec), spec.context, 0
        flops, packs = training_flops_per_token(spec), True
    else:
        spec, base, parameters, context, source = model.spec, model, model.parameters, model.window, model.source_window
        flops, packs = model.flops_per_token, model.supports_packing
    isolate = config.text.isolate and packs
    return Learner(task, objective, spec, base, parameters, context, source, flops, isolate, config.seed)


def autoconfig(
    config: TrainConfig,
    machine: Machine,
    learner: Learner,
    data: DataSize,
    distributed: DistributedInfo,
    facts: dict[str, Any] | None = None,
) -> Plan:
    """Return the plan of a run, with a length that is a guess where a time budget is given and no step was timed yet.

    Args:
        config: The request.
        machine: The machine that trains.
        learner: What learns.
        data: The data, or how much there is.
        distributed: The place of this process among all.
        facts: What the task knows of the data.

    Raises:
        InputError: If the lengths of the request contradict each other.
    """
    world, adapting, asked = distributed.world_size, learner.base is not None, config.objective
    seconds, per_token = given_seconds(config), learner.flops_per_token / machine.expected_flops
    tokens = (
        _asked_tokens(config, data.epoch_tokens(learner)) if seconds is None else seconds * 0.85 * world / per_token
    )
    busy = busy_tokens(machine.device.type, world * machine.expected_flops, learner.flops_per_token)
    rows = _global_batch_size(config, learner.context, tokens, distributed, busy, adapting=adapting)
    micro = _micro_batch_size(config, learner.context, rows // world, _tokens_at_once(machine, learner))
    compile = learner.spec is not None and should_compile(  # a wrapped model has no blocks that are known to compile
        config.machine.compile, machine.device, seconds or tokens * per_token / world
    )
    warm_start = _warm_start(config, machine, learner, tokens, compile, seconds)
    length = _length(
        config,
        data,
        learner,
        config.steps or max(1, round(tokens / (rows * learner.context))),
        parameters=learner.parameters,
        batch_tokens=rows * learner.context,
        micro_batch_size=micro,
        budget=seconds,
        adapting=adapting,
        compile=compile,
        seconds_per_token=per_token,
    )
    return Plan(
        model=learner.spec,
        base=None if learner.base is None else learner.base.place,
        task=learner.task.name,
        objective=learner.objective,
        facts=facts or {},
        parameters=learner.parameters,
        context=learner.context,
        source_context=learner.source_context,
        batch_tokens=rows * learner.context,
        global_batch_size=rows,
        micro_batch_size=micro,
        device=machine.device.type,
        precision=machine.precision,
        compile=compile,
        threads=machine.threads,
        seed=config.seed,
        isolate=learner.isolate,
        label_smoothing=config.optimization.label_smoothing,
        max_grad_norm=config.optimization.max_grad_norm,
        flops_per_token=learner.flops_per_token,
        mask_rate=asked.mask_rate,
        final_mask_rate=asked.mask_rate if asked.final_mask_rate is None else asked.final_mask_rate,
        whole_words=asked.whole_words,
        pure_mask=asked.pure_mask,
        transforms=_transforms(config.transforms, learner.base),
        budget_seconds=seconds,
        **warm_start,
        **length,
    )


def _transforms(asked: TransformConfig, base: Base | None) -> TransformConfig:
    """Return the transforms of a run: an adapter also trains embedding and head where rows of them are new."""
    if base is None or not base.another_vocabulary:
        return asked
    return replace(asked, vocabulary=base.tokenizer.vocabulary_size)


def _warm_start(
    config: TrainConfig, machine: Machine, learner: Learner, tokens: float, compile: bool, seconds: float | None
) -> dict[str, Any]:
    """Return the fields of the plan about the optimiser and the warm start, on which its learning rates depend."""
    adapting, adapter = learner.base is not None, config.transforms.adapter.kind != "none"
    options = optimizer_options(config.optimization, adapting, adapter, None if adapting else learner.spec)
    plain = not adapting and learner.task.follows_scaling_law
    contexts = contexts_to_count(config, learner.spec if plain else None, learner.flops_per_token, tokens)
    if not contexts or learner.spec is None:
        return {"optimizer": options}
    likely = tokens
    if compile and seconds is not None and machine.device.type == "cpu":
        likely *= _COMPILED_GAIN * max(0.1, 1.0 - _COMPILING / seconds)
    pairs = pairs_worth_counting(learner.spec, likely, learner.flops_per_token)
    rates = options_after_bigrams(config.optimization, options, likely, learner.spec.vocabulary, pairs > 0)
    return {"optimizer": rates, "bigram_contexts": contexts, "trigram_contexts": pairs}


def with_length(plan: Plan, steps: int, config: TrainConfig, data: DataSize, seconds_per_token: float) -> Plan:
    """Return the plan for a number of steps, with intervals of validation and checkpoints that fit this length.

    Args:
        plan: The plan so far.
        steps: The number of updates.
        config: The request, which may fix the interval of checkpoints.
        data: The training and validation data, or how much there is.
        seconds_per_token: Seconds of training for each token, from which the cost of evaluation follows.
    """
    length = _length(
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


def _length(
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
    """Return the fields of a plan that depend on its number of steps."""
    tokens = steps * batch_tokens
    short = budget is not None and budget < _SHORT
    save_every = config.checkpoint_every or max(
        1,
        -(-steps // (_VALIDATIONS if short else _CHECKPOINTS)),
        steps_between_checkpoints(parameters, config.transforms, seconds_per_token * batch_tokens),
    )
    times, rows = validations_of(tokens / shape.context)
    # Validations fall on checkpoints, so that the best checkpoint by validation can be kept.
    every = save_every * max(1, round(steps / times / save_every))
    validation_rows = data.validation_rows(shape)
    rows = min(validation_rows, rows)
    if rows > micro_batch_size:  # whole micro-batches: another shape would be compiled once more
        rows -= rows % micro_batch_size
    measured = validation_rows * shape.context
    if budget is not None:
        seconds = EVALUATION_SHARE * budget
        least = min(_LEAST_EVALUATED, 2 * shape.context)
        measured = min(measured, max(least, int(seconds / _evaluation_seconds(compile, seconds_per_token))))
    return {
        "steps": steps,
        "tokens": tokens,
        "epochs": round(tokens / data.epoch_tokens(shape), 4),
        "schedule": schedule_of(config.optimization, adapting, steps),
        "validation_rows": rows,
        "validate_every": every,
        "checkpoint_every": save_every,
        "evaluation_tokens": measured,
    }


def validations_of(sequences: float) -> tuple[int, int]:
    """Return how often a run validates, and on how many sequences, so that all of it takes a small share of the time.

    A run that is too short for all validations has fewer of them, and one that is too short for one has a small one.

    Args:
        sequences: Number of sequences that the run trains on.

    Examples:
        A long run, and one of a dozen steps of a large model:

        >>> validations_of(100_000), validations_of(48)
        ((8, 714), (1, 4))
    """
    affordable = sequences * _VALIDATION_SHARE / _FORWARD_SHARE
    times = min(_VALIDATIONS, max(1, int(affordable / _VALIDATION_ROWS)))
    return times, max(_LEAST_ROWS if times == 1 else _VALIDATION_ROWS, round(affordable / times))


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
    seconds = _STATE_BYTES * parameters / _WRITTEN_BYTES
    return max(1, math.ceil(seconds / (_WRITING_SHARE * step_seconds)))


_ROUNDS = 3
"""Times that the length is reckoned again with the validations of the length before it."""


def steps_within(
    seconds: float, step_seconds: float, plan: Plan, config: TrainConfig, data: DataSize, seconds_per_token: float
) -> int:
    """Return how many steps fit into a time, with as many and as large validations as a run of that length has.

    Args:
        seconds: The time that is left.
        step_seconds: Seconds of one step.
        plan: The plan with a guess of its length.
        config: The request.
        data: How much data there is.
        seconds_per_token: Seconds of training for each token.

    Returns:
        At least 1.
    """
    steps = plan.steps
    for _ in range(_ROUNDS):
        plan = with_length(plan, steps, config, data, seconds_per_token)
        steps = steps_in(seconds, step_seconds, plan, seconds_per_token)
    return steps


def steps_in(seconds: float, step_seconds: float, plan: Plan, seconds_per_token: float) -> int:
    """Return how many steps fit into a time, beside validations and the final evaluation.

    Args:
        seconds: The time that is left.
        step_seconds: Seconds of one step.
        plan: The plan of the run.
        seconds_per_token: Seconds of training for each token.

    Returns:
        At least 1.
    """
    validations = _VALIDATIONS * plan.validation_rows * plan.context * _FORWARD_SHARE * seconds_per_token
    left = seconds - seconds_after(plan, seconds_per_token) - validations
    return max(1, int(left / (step_seconds * (1.0 + _OVERHEAD))))


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
    writing = plan.parameters * _BYTES_WRITTEN / _WRITING_SPEED
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

_BYTES_WRITTEN = 16
"""Bytes for each parameter that are written after the last step, for its checkpoint (weights and moments in fp32) and
the model, and bytes that are written and hashed in a second."""
_WRITING_SPEED = 4e8

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


def log_plan(plan: Plan, data: Dataset, begun: float) -> None:
    """Say which model will be trained, for how long and how fast, before the first step.

    Args:
        plan: The plan of the run.
        data: The training data.
        begun: When the command started (`time.monotonic`).
    """
    shape = f"context {plan.context}"
    if plan.model is not None:
        shape = f"{counted(plan.model.depth, 'block')}, width {plan.model.width}, {shape}, vocabulary "
        shape += f"{plan.model.vocabulary}"
    log(
        f"model: {show_count(plan.parameters)} parameters ({shape}), {plan.precision} on {plan.device}"
        + (", compiled" if plan.compile else "")
        + (f", {plan.objective}, from {plan.base}" if plan.base else "")
    )
    length = f"{show_count(plan.tokens)} tokens ({plan.epochs:.2f} epochs)"
    parts = [counted(plan.steps, "step"), length]
    if speed := plan.probe.get("tokens_per_second"):
        parts.append(f"{show_count(speed)} tokens/s")
    if "step_seconds" in plan.probe:
        parts.append(f"about {show_duration(plan.steps * plan.probe['step_seconds'])}")
    ready = show_duration(time.monotonic() - begun)
    log(f"ready after {ready}; an epoch has {show_count(data.epoch_tokens(plan))} tokens")
    log(" · ".join(parts))


def _asked_tokens(config: TrainConfig, corpus: float) -> float:
    """Return the tokens of a run whose length is not given as a time; an epoch has `corpus` of them."""
    if config.tokens is not None:
        return float(config.tokens)
    if config.epochs is not None:
        return config.epochs * corpus
    return float(config.steps or 1) * (config.optimization.batch_tokens or 4096)


def _global_batch_size(
    config: TrainConfig, context: int, tokens: float, distributed: DistributedInfo, busy: float, *, adapting: bool
) -> int:
    asked = config.optimization.batch_tokens
    if asked is not None:
        if asked % (context * distributed.world_size):
            raise InputError(
                f"--optimization.batch-tokens {asked} is no multiple of the context {context}"
                + (f" x {distributed.world_size} processes" if distributed.world_size > 1 else ""),
                f"choose e.g. "
                f"{max(1, round(asked / context / distributed.world_size)) * context * distributed.world_size}",
            )
        return asked // context
    rows = max(1, batch_tokens_for(tokens, context, busy, adapting=adapting) // context)
    return -(-rows // distributed.world_size) * distributed.world_size


def tokens_at_once(device: str, flops_per_token: float) -> int:
    """Return how many tokens of a micro-batch keep a device busy.

    Args:
        device: The type of the device: cpu, cuda or mps.
        flops_per_token: FLOPs of a training step for each token.
    """
    if device == "cpu" and flops_per_token >= _LARGE:
        return _TOKENS_OF_LARGE
    return _TOKENS_AT_ONCE.get(device, 8192)


def _tokens_at_once(machine: Machine, learner: Learner) -> int:
    """Return the tokens of a micro-batch: as many as keep the device busy, and as a GPU's memory holds."""
    wanted = tokens_at_once(machine.device.type, learner.flops_per_token)
    shape = learner.spec or learner.base
    if machine.device.type != "cuda" or shape is None or math.isinf(machine.memory):
        return wanted
    return min(wanted, tokens_that_fit(machine.memory, learner.parameters, shape.depth, shape.width))


def _micro_batch_size(config: TrainConfig, context: int, share: int, tokens: int) -> int:
    if config.machine.micro_batch_size:
        return config.machine.micro_batch_size
    most = max(1, tokens // context)
    return next(rows for rows in range(min(most, share), 0, -1) if share % rows == 0)


def _parameters(spec: DecoderSpec) -> int:
    with torch.device("meta"):
        return count_parameters(Decoder(spec))
