"""The plan of a run: everything that is fixed before the first step, from the request, the text and the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from lavra.config.training import ModelConfig, TrainConfig
from lavra.config.transforms import TransformConfig
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_count, show_duration
from lavra.models.hf.model import HFModel
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
from lavra.planning.machine.memory import memory_of
from lavra.planning.plan import Plan
from lavra.training.acceleration.compiling import should_compile
from lavra.training.batches import DistributedInfo
from lavra.training.precision import choose_precision
from lavra.workflows.datasets.dataset import Dataset
from lavra.workflows.models.base_model import Base, objective_from_nothing
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
        peak: Measured FLOP/s of matrix products.
        threads: Number of processor threads.
    """

    device: torch.device
    precision: str
    peak: float
    threads: int

    @property
    def expected_flops(self) -> float:
        """The expected FLOP/s of a training step, before any step was timed."""
        return self.peak * assumed_efficiency(self.device.type, self.peak, self.threads)


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
    spec = draft_shape(flops, corpus_bytes, memory_of(machine.device)).spec
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


def autoconfig(
    config: TrainConfig, machine: Machine, model: DecoderSpec | Base, data: Dataset, distributed: DistributedInfo
) -> Plan:
    """Return the plan as far as it can be made before steps are timed.

    Args:
        config: The request.
        machine: The machine that trains.
        model: The shape to train from scratch, or the base model.
        data: The training data.
        distributed: The place of this process among all.

    Returns:
        The plan; the number of steps is a guess where a time budget is given.

    Raises:
        InputError: If the lengths of the request contradict each other, or the objective does not fit the model.
    """
    learning = learning_plan(config, machine, model, data)
    per_token = learning.flops_per_token / machine.expected_flops
    seconds = given_seconds(config)
    corpus = data.epoch_tokens(learning)
    tokens = _asked_tokens(config, corpus) if seconds is None else seconds * 0.85 * distributed.world_size / per_token
    busy = busy_tokens(machine.device.type, distributed.world_size * machine.expected_flops, learning.flops_per_token)
    rows = _global_batch_size(config, learning.context, tokens, distributed, busy, adapting=isinstance(model, Base))
    at_once = _tokens_at_once(machine, model, learning)
    plan = replace(
        learning,
        global_batch_size=rows,
        batch_tokens=rows * learning.context,
        micro_batch_size=_micro_batch_size(config, learning.context, rows // distributed.world_size, at_once),
        compile=learning.model is not None  # a wrapped model has no blocks that are known to compile
        and should_compile(
            config.machine.compile, machine.device, seconds or tokens * per_token / distributed.world_size
        ),
        budget_seconds=seconds,
    )
    contexts = contexts_to_count(config, plan, data, tokens)
    if contexts and plan.model is not None:
        likely = tokens
        if plan.compile and seconds is not None and machine.device.type == "cpu":
            likely *= _COMPILED_GAIN * max(0.1, 1.0 - _COMPILING / seconds)
        pairs = pairs_worth_counting(plan.model, likely, plan.flops_per_token)
        vocabulary = plan.model.vocabulary
        lrs = options_after_bigrams(config.optimization, plan.optimizer, likely, vocabulary, pairs > 0)
        plan = replace(plan, bigram_contexts=contexts, trigram_contexts=pairs, optimizer=lrs)
    steps = config.steps or max(1, round(tokens / plan.batch_tokens))
    return with_length(plan, steps, config, data, per_token)


def learning_plan(config: TrainConfig, machine: Machine, model: DecoderSpec | Base, data: Dataset) -> Plan:
    """Return the plan of model, objective and optimiser; batch size and number of steps are still to be fixed.

    Args:
        config: The request.
        machine: The machine that trains.
        model: The shape to train from scratch, or the base model.
        data: The training data.

    Raises:
        InputError: If the objective does not fit the model and the data.
    """
    asked = config.objective
    base = model if isinstance(model, Base) else None
    spec = replace(model, vocabulary=data.tokenizer.vocabulary_size) if isinstance(model, DecoderSpec) else model.spec
    if base is None:
        assert spec is not None
        spec = replace(spec, context=data.context or spec.context)
        parameters, context, flops = _parameters(spec), spec.context, training_flops_per_token(spec)
        objective = objective_from_nothing(asked.name, examples=data.examples)
    else:
        parameters, context, flops = base.parameters, base.window, base.flops_per_token
        objective = base.objective
    return Plan(
        model=spec,
        base=None if base is None else base.place,
        parameters=parameters,
        context=context,
        batch_tokens=1,
        global_batch_size=1,
        micro_batch_size=1,
        steps=1,
        tokens=0,
        epochs=0.0,
        device=machine.device.type,
        precision=choose_precision(machine.precision, machine.device),
        compile=False,
        threads=machine.threads,
        optimizer=optimizer_options(
            config.optimization,
            base is not None,
            config.transforms.adapter.kind != "none",
            spec if base is None else None,
        ),
        schedule=schedule_of(config.optimization, base is not None, 1),
        seed=config.seed,
        isolate=config.text.isolate and (base is None or base.supports_packing),
        label_smoothing=config.optimization.label_smoothing,
        max_grad_norm=config.optimization.max_grad_norm,
        validation_rows=0,
        validate_every=1,
        checkpoint_every=1,
        evaluation_tokens=0,
        flops_per_token=flops,
        objective=objective,
        source_context=0 if base is None else base.source_window,
        mask_rate=asked.mask_rate,
        final_mask_rate=asked.mask_rate if asked.final_mask_rate is None else asked.final_mask_rate,
        whole_words=asked.whole_words,
        pure_mask=asked.pure_mask,
        transforms=config.transforms,
    )


def with_length(plan: Plan, steps: int, config: TrainConfig, data: Dataset, seconds_per_token: float) -> Plan:
    """Return the plan for a number of steps, with intervals of validation and checkpoints that fit this length.

    Args:
        plan: The plan so far.
        steps: The number of updates.
        config: The request, which may fix the interval of checkpoints.
        data: The training and validation data.
        seconds_per_token: Seconds of training for each token, from which the cost of evaluation follows.
    """
    tokens = steps * plan.batch_tokens
    short = plan.budget_seconds is not None and plan.budget_seconds < _SHORT
    save_every = config.checkpoint_every or max(
        1,
        -(-steps // (_VALIDATIONS if short else _CHECKPOINTS)),
        steps_between_checkpoints(plan, config.transforms, seconds_per_token),
    )
    times, rows = validations_of(tokens / plan.context)
    # Validations fall on checkpoints, so that the best checkpoint by validation can be kept.
    every = save_every * max(1, round(steps / times / save_every))
    validation_rows = data.validation_set(plan).rows
    rows = min(validation_rows, rows)
    if rows > plan.micro_batch_size:  # whole micro-batches: another shape would be compiled once more
        rows -= rows % plan.micro_batch_size
    validation_set = validation_rows * plan.context
    if plan.budget_seconds is not None:
        # Half-overlapping windows read every token about twice.
        seconds = EVALUATION_SHARE * plan.budget_seconds
        least = min(_LEAST_EVALUATED, 2 * plan.context)
        validation_set = min(validation_set, max(least, int(seconds / (2 * _FORWARD_SHARE * seconds_per_token))))
    return replace(
        plan,
        steps=steps,
        tokens=tokens,
        epochs=round(tokens / data.epoch_tokens(plan), 4),
        schedule=schedule_of(config.optimization, plan.base is not None, steps),
        validation_rows=rows,
        validate_every=every,
        checkpoint_every=save_every,
        evaluation_tokens=validation_set,
    )


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


def steps_between_checkpoints(plan: Plan, transforms: TransformConfig, seconds_per_token: float) -> int:
    """Return the least number of steps between two checkpoints, so that writing them takes a small share of the time.

    A checkpoint holds three numbers of four bytes for each weight, is copied in memory and written beside the training;
    with a large model and few steps that slows training down by a quarter. An adapter is small, and costs nothing.

    Args:
        plan: The plan of the run.
        transforms: The changes of the model.
        seconds_per_token: Seconds of training for each token.
    """
    if transforms.adapter.kind != "none":
        return 1
    seconds = _STATE_BYTES * plan.parameters / _WRITTEN_BYTES
    return max(1, math.ceil(seconds / (_WRITING_SHARE * seconds_per_token * plan.batch_tokens)))


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
    left = seconds - seconds_after(plan, seconds_per_token)
    return max(1, int(left / (step_seconds * (1.0 + _VALIDATION_SHARE + _OVERHEAD))))


def seconds_after(plan: Plan, seconds_per_token: float) -> float:
    """Return the seconds that a run takes after its last step, for the final evaluation, the model and the samples.

    Args:
        plan: The plan of the run.
        seconds_per_token: Seconds of training for each token.
    """
    evaluation = 2 * _FORWARD_SHARE * seconds_per_token * plan.evaluation_tokens
    writing = 4 * plan.parameters / _WRITTEN_BYTES
    sampling = sample_tokens(plan) * _decode_seconds(plan)
    return evaluation + writing + sampling + _FINISH_SECONDS


def sample_tokens(plan: Plan) -> int:
    """Return the largest number of tokens of a sample text, so that the samples take a small share of a time budget.

    Args:
        plan: The plan of the run.
    """
    most, seconds = min(SAMPLE_TOKENS, plan.context), _decode_seconds(plan)
    if plan.budget_seconds is None or not seconds:
        return most
    return min(most, max(_LEAST_SAMPLE, int(_SAMPLE_SHARE * plan.budget_seconds / seconds)))


def _decode_seconds(plan: Plan) -> float:
    """Return the seconds in which a processor generates a token: it reads every weight from memory, in fp32."""
    return 4 * plan.parameters / _READ_BYTES if plan.device == "cpu" else 0.0


_CHECKPOINTS = 20
"""Number of checkpoints of a run, and the time budget in seconds below which there are only as many as validations:
writing checkpoints every few steps makes these steps a quarter slower."""
_SHORT = 300.0

_FINISH_SECONDS = 1.5
"""Seconds that the end of a run takes with any model."""

_LEAST_EVALUATED = 4096
"""Fewest tokens of the final evaluation, or two sequences where these are fewer."""

SAMPLE_TOKENS = 120
"""Most and fewest tokens of a sample text, the share of a time budget that the samples may take, and the bytes of
weights that a processor reads in a second."""
_LEAST_SAMPLE = 16
_SAMPLE_SHARE = 0.02
_READ_BYTES = 8e9

_OVERHEAD = 0.03
"""Share of the training time for checkpoints and logging, and for a machine that is slower once it is warm."""


def log_plan(plan: Plan, machine: Machine, data: Dataset, begun: float) -> None:
    """Say which model will be trained, for how long and how fast, before the first step.

    Args:
        plan: The plan of the run.
        machine: The device that computes.
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


def _tokens_at_once(machine: Machine, model: DecoderSpec | Base, learning: Plan) -> int:
    """Return the tokens of a micro-batch: as many as keep the device busy, and as a GPU's memory holds."""
    wanted = tokens_at_once(machine.device.type, learning.flops_per_token)
    if machine.device.type != "cuda":
        return wanted
    depth, width = _depth_and_width(model)
    return min(wanted, tokens_that_fit(memory_of(machine.device), learning.parameters, depth, width))


def _depth_and_width(model: DecoderSpec | Base) -> tuple[int, int]:
    spec = model if isinstance(model, DecoderSpec) else model.spec
    if spec is not None:
        return spec.depth, spec.width
    assert isinstance(model, Base)
    assert isinstance(model.opened.model, HFModel)
    config = model.opened.model.inner.config.get_text_config()
    return int(getattr(config, "num_hidden_layers", 24)), int(getattr(config, "hidden_size", 1024))


def _micro_batch_size(config: TrainConfig, context: int, share: int, tokens: int) -> int:
    if config.machine.micro_batch_size:
        return config.machine.micro_batch_size
    most = max(1, tokens // context)
    return next(rows for rows in range(min(most, share), 0, -1) if share % rows == 0)


def _parameters(spec: DecoderSpec) -> int:
    with torch.device("meta"):
        return count_parameters(Decoder(spec))
