"""Optimiser, learning rates and schedule of a run: the values of the request, and defaults for the kind of training."""

from __future__ import annotations

import math
from dataclasses import replace

from lavra.config.choices import OptimizerName
from lavra.config.training import OptimizationConfig
from lavra.core.errors import InputError
from lavra.models.spec import DecoderSpec
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.optimizers.table import METHODS, Method

_FROM_NOTHING = 6e-3
"""AdamW's peak learning rates: from scratch with a norm on the embeddings, for a base model, and for an adapter."""
_ADAPTING = 1e-4
_ADAPTER = 5e-4

_SMALL = 3e-3
"""AdamW's peak learning rate from scratch for models like GPT-2, in which embedding and head start with a standard
deviation of 0.02, and that of embeddings with a norm, which start with unit variance while the head starts at zero. The
rates were tuned together (see the lab notebook)."""
_NORMED_EMBEDDING = 0.15

_HEAD_THAT_KNOWS = 3e-3
"""AdamW's peak learning rates of head and embedding after a warm start from bigram counts."""
_EMBEDDING_THAT_KNOWS = 0.05

_LEAST_LRS = 0.02
"""Least factor on these two rates, and the exponent with which they are lowered, in runs of fewer tokens than the text
has different bigrams (about the size of the vocabulary to the power of 1.5). At full rates such a run would overwrite
the warm start, and be too short to learn it again."""
_FALL_BELOW = 2.5

_PAIRS_KNOW = 1.4
"""Factor on that length for a run whose bigram embedding has a warm start too, because it has more to overwrite."""

_MATRICES = 0.014
"""Muon's peak learning rate, and the tokens of a run, relative to the different bigrams, from which on it is used in
full after a warm start."""
_WHOLE_MATRICES_FROM = 0.3

_MOMENTUM = 0.9
"""Muon's momentum. It suits runs of hundreds of steps; 0.95, the usual value, suits longer ones."""

_WARMUP_STEPS = 10
"""Steps of warm-up from scratch, and share of the run for a base model."""
_WARMUP_SHARE = 0.05


def optimizer_options(
    asked: OptimizationConfig,
    adapting: bool,
    adapter: bool = False,
    spec: DecoderSpec | None = None,
    adapting_rate: float | None = None,
) -> OptimizerOptions:
    """Return the optimiser and its learning rates: Muon from scratch, AdamW at low rates for a base model.

    The rates of another optimiser are those of AdamW times its factor in the table of optimisers.

    Args:
        asked: The values of the request; those that are None get defaults.
        adapting: Whether training starts from a pretrained model.
        adapter: Whether only an adapter is trained.
        spec: The shape of a decoder to train from scratch; None for other models.
        adapting_rate: AdamW's rate for all weights of a base model; None for the usual one.

    Raises:
        InputError: If the request gives an option that the optimiser does not have.
    """
    name: OptimizerName = asked.name or ("adamw" if adapting else "muon")
    method = METHODS[name]
    normed = not adapting and spec is not None and spec.embedding_norm and not spec.tied
    lr, embeddings = asked.learning_rate, asked.embedding_lr
    if lr is None:
        lr = _ADAPTER if adapter else (adapting_rate or _ADAPTING) if adapting else _FROM_NOTHING if normed else _SMALL
        lr *= method.lr_factor
    if embeddings is None and normed:
        embeddings = _NORMED_EMBEDDING * _embedding_factor(method)
    return OptimizerOptions(
        name=name,
        learning_rate=lr,
        embedding_lr=embeddings,
        muon_lr=_MATRICES if asked.muon_lr is None else asked.muon_lr,
        weight_decay=asked.weight_decay,
        muon_weight_decay=asked.muon_weight_decay,
        betas=_betas(asked, name),
        eps=asked.eps,
        momentum=_MOMENTUM,
        embedding_gradient=asked.embedding_gradient,
        layer_decay=asked.layer_decay,
    )


def _embedding_factor(method: Method) -> float:
    return method.lr_factor if method.embedding_factor is None else method.embedding_factor


def _betas(asked: OptimizationConfig, name: OptimizerName) -> tuple[float, float] | None:
    """Return the decay rates of the request, filled up with those of the optimiser; None where none is given."""
    if asked.beta1 is None and asked.beta2 is None:
        return None
    usual = METHODS[name].betas
    if usual is None:
        raise InputError(f"{name} has no betas", "leave out --optimization.beta1 and --optimization.beta2")
    if name == "schedule-free-adamw" and asked.beta1 == 0:
        raise InputError(f"--optimization.beta1 0 is no value for {name}", "give more than 0 and less than 1")
    first, second = asked.beta1, asked.beta2
    return usual[0] if first is None else first, usual[1] if second is None else second


def lrs_after_bigrams(tokens: float, vocabulary: int, paired: bool) -> float:
    """Return the factor on the learning rates of embedding and head after a warm start from bigram counts.

    Args:
        tokens: Length of the run in tokens.
        vocabulary: Number of tokens in the vocabulary.
        paired: Whether the bigram embedding has a warm start too.

    Returns:
        A number from 0.02 to 1, which grows with the length of the run.

    Examples:
        >>> lrs_after_bigrams(1e9, 1000, paired=False), lrs_after_bigrams(1.0, 1000, paired=False)
        (1.0, 0.02)
    """
    length = tokens / vocabulary**1.5 / (_PAIRS_KNOW if paired else 1.0)
    return min(1.0, max(_LEAST_LRS, length**_FALL_BELOW))


def options_after_bigrams(
    asked: OptimizationConfig, options: OptimizerOptions, tokens: float, vocabulary: int, paired: bool = False
) -> OptimizerOptions:
    """Return the optimiser with the learning rates for a model with a warm start, where the request gives none.

    Args:
        asked: The values of the request; those that are None get defaults.
        options: The optimiser for a model without a warm start.
        tokens: Length of the run in tokens.
        vocabulary: Number of tokens in the vocabulary.
        paired: Whether the bigram embedding has a warm start too.
    """
    head, embeddings = asked.learning_rate, asked.embedding_lr
    matrices = asked.muon_lr
    length = tokens / vocabulary**1.5
    factor = lrs_after_bigrams(tokens, vocabulary, paired)
    method, gentle = METHODS[options.name], min(1.0, length / _WHOLE_MATRICES_FROM)
    return replace(
        options,
        learning_rate=factor * _HEAD_THAT_KNOWS * method.lr_factor if head is None else head,
        embedding_lr=factor * _EMBEDDING_THAT_KNOWS * _embedding_factor(method) if embeddings is None else embeddings,
        muon_lr=_MATRICES * gentle if matrices is None else matrices,
        # The blocks hold nothing of the warm start, and keep the rate that they would have without one.
        matrix_lr=options.learning_rate * gentle if head is None and options.name != "muon" else None,
    )


def _power_of_two(steps: float) -> int:
    """Return the largest power of two up to a number, at least 1, which lengths that are nearly equal share."""
    return 1 << max(0, math.floor(math.log2(max(1.0, steps))))


def schedule_of(asked: OptimizationConfig, adapting: bool, steps: int) -> Schedule:
    """Return the learning-rate schedule of a run; the warm-up takes at most a tenth of the steps.

    Args:
        asked: The values of the request; those that are None get defaults.
        adapting: Whether training starts from a pretrained model.
        steps: Number of steps of the run.
    """
    warmup = asked.warmup_steps
    if warmup is None:
        warmup = _power_of_two(_WARMUP_SHARE * steps) if adapting else _WARMUP_STEPS
    # With wsd the first steps of a run do not depend on its length: those that are timed stay part of the run, and a
    # time budget can be kept by changing the length while it runs.
    shape = asked.schedule or ("constant" if asked.name == "schedule-free-adamw" else "wsd")
    return Schedule(shape, min(warmup, max(1, steps // 10)), asked.decay_fraction, asked.min_lr_ratio)
