"""The plan of a run: everything that is fixed before the first step, from the request, the text and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from lavra.config.denoising import DenoisingConfig
from lavra.config.training import ModelConfig, TrainConfig
from lavra.config.transforms import TransformConfig
from lavra.core.errors import InputError
from lavra.models.hf.model import HFModel
from lavra.models.native.building import parameters_of
from lavra.models.presets import as_encoder, as_encoder_decoder, named_architecture, preset
from lavra.models.replaced_tokens import generator_spec, outline_of_encoder
from lavra.models.spec import DecoderSpec
from lavra.objectives.room import Room
from lavra.planning.budget import (
    BYTES_PER_TOKEN,
    TOKENS_PER_PARAMETER,
    assumed_efficiency,
    batch_tokens_for,
    busy_tokens,
    draft_shape,
    tokens_that_fit,
)
from lavra.planning.machine.flops import text_flops_per_token, training_flops_per_token
from lavra.tasks.base import ModelKind, Task
from lavra.tasks.datasets import DataSize
from lavra.tasks.embedding import EmbeddingTask
from lavra.tasks.table import kind_from_scratch
from lavra.training.acceleration.compiling import should_compile
from lavra.training.batches import DistributedInfo
from lavra.training.plan import Plan
from lavra.training.precision import Precision
from lavra.workflows.models.base_model import Base
from lavra.workflows.models.ngram_init import contexts_to_count, pairs_worth_counting
from lavra.workflows.training.one_step import refuse_too_large, refuse_without_time
from lavra.workflows.training.optimization import optimizer_options, options_after_bigrams
from lavra.workflows.training.run_length import length_fields
from lavra.workflows.training.techniques import cost_of_steps, rows_together

DEFAULT_BUDGET = 600.0
"""Time budget in seconds of a run whose length is not given."""

_TOKENS_AT_ONCE = {"cpu": 8192, "cuda": 262144, "mps": 16384}
"""Most tokens of a micro-batch, by device: more would take more memory and not be faster."""

_LARGE = 3e7
"""FLOPs for each token from which on a processor is busy with a smaller micro-batch, and its tokens."""
_TOKENS_OF_LARGE = 2048

_COMPILED_GAIN = 1.6
"""Speed of compiled blocks on a CPU relative to the expected speed, and the seconds that compiling takes."""
_COMPILING = 30.0


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


LEAST_TRAINING = 0.5
"""Share of a time budget that training gets at least, however long the preparation before it took."""


def seconds_to_train(budget: float, spent: float) -> float:
    """Return the seconds that are left for training in a time budget, of which at least half is kept for it.

    Args:
        budget: The time budget in seconds.
        spent: Seconds from the start of the command to the plan, for reading and tokenising the text.

    Examples:
        >>> seconds_to_train(60.0, 10.0), seconds_to_train(60.0, 50.0)
        (50.0, 30.0)
    """
    return max(budget - spent, LEAST_TRAINING * budget)


def draft_model(config: TrainConfig, machine: Machine, corpus_bytes: float, spent: float = 0.0) -> DecoderSpec:
    """Return the shape of the model to train from scratch.

    Args:
        config: The request, which may name a preset and single values of the shape.
        machine: The machine that will train.
        corpus_bytes: Bytes of the training text.
        spent: Seconds of the time budget that the preparation took.

    Returns:
        The preset, or the compute-optimal shape for budget and text, with the values of the request.
    """
    kind = kind_from_scratch(config)
    if config.model.preset != "auto":
        return _overridden(_of_kind(preset(config.model.preset), kind, config.model.preset), config.model)
    seconds = given_seconds(config)
    if seconds is not None:
        flops = seconds_to_train(seconds, spent) * 0.85 * machine.expected_flops
    else:
        flops = _flops_of_length(config, corpus_bytes)
    spec = _of_kind(draft_shape(flops, corpus_bytes, machine.memory).spec, kind)
    if config.text.vocabulary:
        spec = replace(spec, vocabulary=config.text.vocabulary)
    return _overridden(spec, config.model)


_BALANCE_LOSS = 0.01
"""Factor of the auxiliary loss of a mixture of experts (Fedus et al. 2021, arXiv 2101.03961)."""


def _of_kind(spec: DecoderSpec, kind: ModelKind, name: str = "auto") -> DecoderSpec:
    """Return a shape as a model of a kind: of a well-known model only the mask of attention changes."""
    if spec.architecture == kind:
        return spec
    if named_architecture(name) is not None or kind == "decoder":
        return replace(spec, architecture=kind)
    return as_encoder(spec) if kind == "encoder" else as_encoder_decoder(spec)


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
        "window",
        "global_every",
        "norm",
        "norm_placement",
        "deepnorm",
        "normformer",
        "value_residual",
        "shared_blocks",
        "own_norms",
        "attention_cap",
        "logit_cap",
        "activation",
        "experts",
        "experts_per_token",
        "shared_experts",
        "expert_normalized",
        "balance_loss",
        "balance_bias",
        "bigram_embedding",
        "ngram_copy",
        "tied",
        "dropout",
    )
    if asked.extension is not None:
        raise InputError("--model.extension says how a pretrained model reads longer sequences", "give --from, too")
    given = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
    if "width" in given and "heads" not in given:
        given["heads"] = max(1, given["width"] // 64)
    if given.get("experts") and not given.get("balance_bias"):
        given.setdefault("balance_loss", _BALANCE_LOSS)
    if given.get("shared_blocks") or given.get("norm_placement") == "after":
        given["first_norm"] = True  # blocks that are used again, and norms after sums, have no first one to leave out
    if given.get("own_norms"):
        given["norm_weight"] = True  # without gains, norms have nothing of their own
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
        context: Tokens of text in a sequence.
        source_context: Tokens of a source; 0 for other models than encoder-decoders.
        flops_per_token: FLOPs of a training step for each token of text.
        isolate: Whether the documents of a sequence are kept apart.
        seed: Seed of the run.
        growth: Tokens that the model computes for each token of text.
        predicted: Share of these at which the head is computed.
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
    growth: float = 1.0
    predicted: float = 1.0


def learner_of(config: TrainConfig, model: DecoderSpec | Base, data: DataSize, task: Task, objective: str) -> Learner:
    """Return what learns: the base model, or a decoder of the shape with the vocabulary and the rows of the data.

    Args:
        config: The request.
        model: The shape to train from scratch, or the base model.
        data: The data, or how much there is.
        task: The task.
        objective: The name of the objective.
    """
    predicted = task.predicted(task.mask_rates(config.objective, adapting=not isinstance(model, DecoderSpec)))
    if isinstance(model, DecoderSpec):
        wanted = data.context or model.context
        room = task.room(config.objective, objective, model.architecture, wanted, None, base=None)
        # A row may be several texts that are read apart: then the model reads what the longest of them has.
        longest = getattr(data, "longest_text", None) or room.model_context
        source = data.source_context if task.sources else 0
        spec = replace(
            model,
            vocabulary=data.vocabulary,
            context=max(longest, source),
            prefix_attention=room.bidirectional,
        )
        base, parameters, context, packs = None, parameters_of(spec), room.context, True
        flops = text_flops_per_token(spec, room, predicted, getattr(data, "longest_text", None), source)
    else:
        spec, base, parameters, source = model.spec, model, model.parameters, model.source_window
        context, packs = min(model.window, data.context or model.window), model.supports_packing
        room = model.room or Room(context, context)
        if spec is None:
            flops = _flops_of_wrapped(model, room, predicted)
        else:
            flops = text_flops_per_token(spec, room, predicted, source=source if task.sources else 0)
    if room.targets is not None:
        predicted = min(1.0, room.targets / (room.lengths or (room.growth, 0.0))[0])
    isolate, growth = config.text.isolate and packs and task.packs, room.growth
    return Learner(
        task, objective, spec, base, parameters, context, source, flops, isolate, config.seed, growth, predicted
    )


def _flops_of_wrapped(base: Base, room: Room, predicted: float) -> float:
    """Return the FLOPs for each token of text of a model of `transformers`, in its linear layers; and those of a
    generator beside it."""
    if base.opened is None:
        return room.growth * base.flops_per_token
    head = 6.0 * base.model.output_projection()[0].numel()
    targets = predicted * room.growth if room.targets is None else room.targets
    flops = room.growth * (base.flops_per_token - head) + targets * head
    if room.generator and isinstance(base.model, HFModel):
        spec = generator_spec(outline_of_encoder(base.model), room.generator)
        flops += training_flops_per_token(spec, base.window, 0.0)
    return flops


def autoconfig(
    config: TrainConfig,
    machine: Machine,
    learner: Learner,
    data: DataSize,
    distributed: DistributedInfo,
    facts: dict[str, Any] | None = None,
    spent: float = 0.0,
) -> Plan:
    """Return the plan of a run, with a length that is a guess where a time budget is given and no step was timed yet.

    Args:
        config: The request.
        machine: The machine that trains.
        learner: What learns.
        data: The data, or how much there is.
        distributed: The place of this process among all.
        facts: What the task knows of the data.
        spent: Seconds of the time budget that are gone, for reading and tokenising the text.

    Raises:
        InputError: If the lengths of the request contradict each other, or no step fits into the time budget.
    """
    world, adapting, asked = distributed.world_size, learner.base is not None, config.objective
    mask_rate, final_mask_rate = learner.task.mask_rates(asked, adapting=adapting)
    cost, group = cost_of_steps(config.technique), rows_together(config.technique)
    budget, per_token = given_seconds(config), cost * learner.flops_per_token / machine.expected_flops
    seconds = None if budget is None else seconds_to_train(budget, spent)
    tokens = (
        _asked_tokens(config, data.epoch_tokens(learner)) if seconds is None else seconds * 0.85 * world / per_token
    )
    busy = busy_tokens(machine.device.type, world * machine.expected_flops, learner.flops_per_token)
    suited = data.batch_tokens(learner)
    if config.embedding.batch is not None and learner.task.name == EmbeddingTask.name:
        suited = config.embedding.batch * learner.context
    elif suited is not None and seconds is not None and learner.task.fewest_steps > 1:
        affordable = max(learner.task.fewest_rows, int(tokens / learner.task.fewest_steps / learner.context))
        suited = min(suited, learner.context << affordable.bit_length() - 1)  # a power of two, for micro-batches
    rows = _global_batch_size(config, learner.context, tokens, world * group, busy, suited, adapting=adapting)
    if seconds is not None and budget is not None:
        step_seconds = rows * learner.context * per_token / world
        refuse_too_large(step_seconds, seconds, budget, learner.context, machine.expected_flops)
        if adapting:
            refuse_without_time(step_seconds, learner.context * per_token, learner.parameters, spent, budget)
    micro = _micro_batch_size(config, learner.context, rows // world, _tokens_at_once(machine, learner), group)
    compile = learner.spec is not None and should_compile(  # a wrapped model has no blocks that are known to compile
        config.machine.compile, machine.device, seconds or tokens * per_token / world
    )
    warm_start = _warm_start(config, machine, learner, tokens, compile, seconds)
    most = _most_steps(config, learner, data, rows * learner.context)
    steps = config.steps or max(1, round(tokens / (rows * learner.context)))
    length = length_fields(
        config,
        data,
        learner,
        steps if most is None else min(steps, most),
        parameters=learner.parameters,
        batch_tokens=rows * learner.context,
        micro_batch_size=micro,
        budget=None if seconds is None else spent + seconds,
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
        most_steps=most,
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
        z_loss=config.optimization.z_loss,
        max_grad_norm=config.optimization.max_grad_norm,
        flops_per_token=learner.flops_per_token,
        mask_rate=mask_rate,
        final_mask_rate=final_mask_rate,
        whole_words=asked.whole_words,
        pure_mask=asked.pure_mask,
        denoising=DenoisingConfig(**{one.name: getattr(asked, one.name) for one in fields(DenoisingConfig)}),
        growth=learner.growth,
        predicted=learner.predicted,
        transforms=_transforms(config.transforms, learner.base),
        budget_seconds=None if seconds is None else spent + seconds,
        **warm_start,
        **length,
    )


def _most_steps(config: TrainConfig, learner: Learner, data: DataSize, batch_tokens: int) -> int | None:
    """Return the number of steps beyond which the task only memorises its data; None where the request says how long,
    or the task has no such number."""
    if learner.task.most_epochs is None or (config.tokens or config.epochs or config.steps) is not None:
        return None
    epochs = learner.task.most_epochs[0 if learner.base is not None else 1]
    return max(1, math.ceil(epochs * data.epoch_tokens(learner) / batch_tokens))


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
    shape, rate = None if adapting else learner.spec, learner.task.adapting_rate
    if learner.base is not None and learner.base.rate is not None:
        rate = learner.base.rate
    options = optimizer_options(config.optimization, adapting, adapter, shape, rate)
    plain = not adapting and learner.task.counts_ngrams
    contexts = contexts_to_count(config, learner.spec if plain else None, learner.flops_per_token, tokens)
    if not contexts or learner.spec is None:
        return {"optimizer": options}
    likely = tokens
    if compile and seconds is not None and machine.device.type == "cpu":
        likely *= _COMPILED_GAIN * max(0.1, 1.0 - _COMPILING / seconds)
    pairs = pairs_worth_counting(learner.spec, likely, learner.flops_per_token)
    rates = options_after_bigrams(config.optimization, options, likely, learner.spec.vocabulary, pairs > 0)
    return {"optimizer": rates, "bigram_contexts": contexts, "trigram_contexts": pairs}


def _asked_tokens(config: TrainConfig, corpus: float) -> float:
    """Return the tokens of a run whose length is not given as a time; an epoch has `corpus` of them."""
    if config.tokens is not None:
        return float(config.tokens)
    if config.epochs is not None:
        return config.epochs * corpus
    return float(config.steps or 1) * (config.optimization.batch_tokens or 4096)


def _global_batch_size(
    config: TrainConfig, context: int, tokens: float, multiple: int, busy: float, suited: int | None, *, adapting: bool
) -> int:
    """Return the rows of a step: a multiple of the number of processes, times the rows that must stay together."""
    asked = config.optimization.batch_tokens
    if asked is not None:
        if asked % (context * multiple):
            raise InputError(
                f"--optimization.batch-tokens {asked} is no multiple of the context {context}"
                + (f" x {multiple} (processes, and rows that are mixed)" if multiple > 1 else ""),
                f"choose e.g. {max(1, round(asked / context / multiple)) * context * multiple}",
            )
        return asked // context
    rows = max(1, (suited or batch_tokens_for(tokens, context, busy, adapting=adapting)) // context)
    return -(-rows // multiple) * multiple


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
    depth = shape.depth + (0 if learner.spec is None else learner.spec.blocks_of_encoder)
    return min(wanted, tokens_that_fit(machine.memory, learner.parameters, depth, shape.width))


def _micro_batch_size(config: TrainConfig, context: int, share: int, tokens: int, group: int) -> int:
    if config.machine.micro_batch_size:
        return config.machine.micro_batch_size
    most = max(1, tokens // context)
    possible = range(min(most, share), 0, -1)
    return next((rows for rows in possible if share % rows == 0 and rows % group == 0), group)
