"""How fast to learn: the request's values, and defaults that depend on where the training begins."""

from __future__ import annotations

from dataclasses import replace

from lavra.config.training import OptimizationConfig
from lavra.models.spec import DecoderSpec
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule

_FROM_NOTHING, _ADAPTING, _ADAPTER = 6e-3, 1e-4, 5e-4
_SMALL, _NORMED_EMBEDDING = 3e-3, 0.15
"""From nothing, AdamW learns a head that begins at zero and, where they are normed, embeddings of unit variance: the
rates were found together (see the lab notebook). GPT-2's kind of model, where both begin at .02, keeps one rate."""
_HEAD_THAT_KNOWS, _EMBEDDING_THAT_KNOWS = 3e-3, 0.05
_LEAST_RATES, _FALL_BELOW = 0.02, 2.5
"""Least factor on these rates, and the power with which they fall, in runs of fewer tokens than a text has kinds of
pairs (about the vocabulary's size to the power of 1.5): such a run forgets by whole rates what the model began with,
and does not get to learn it again."""
_PAIRS_KNOW = 1.4
"""Times the length up to which a run that begins with a table of pairs, too, has more to forget than it learns."""
_MATRICES, _WHOLE_MATRICES_FROM = 0.014, 0.3
"""Muon's rate, and tokens of a run by kinds of pairs from which on it is whole."""
_MOMENTUM = 0.9
"""Of Muon, in runs of hundreds of steps; .95, its usual value, suits longer ones."""
_WARMUP_STEPS, _WARMUP_SHARE = 10, 0.05


def optimizer_options(
    asked: OptimizationConfig, adapting: bool, adapter: bool = False, spec: DecoderSpec | None = None
) -> OptimizerOptions:
    """Return the optimiser: Muon at full rates from nothing, AdamW at gentle rates for a model that knows something.

    Args:
        asked: what was given; None means the default.
        adapting: whether training begins from a trained model.
        adapter: whether only a small addition to it learns.
        spec: of a decoder to train from nothing.
    """
    normed = not adapting and spec is not None and spec.embedding_norm and not spec.tied
    rate, embeddings = asked.learning_rate, asked.embedding_learning_rate
    if rate is None:
        rate = _ADAPTER if adapter else _ADAPTING if adapting else _FROM_NOTHING if normed else _SMALL
    if embeddings is None and normed:
        embeddings = _NORMED_EMBEDDING
    return OptimizerOptions(
        name=asked.name or ("adamw" if adapting else "muon"),
        learning_rate=rate,
        embedding_learning_rate=embeddings,
        matrix_learning_rate=_MATRICES if asked.matrix_learning_rate is None else asked.matrix_learning_rate,
        weight_decay=asked.weight_decay,
        matrix_weight_decay=asked.matrix_weight_decay,
        momentum=_MOMENTUM,
        layer_decay=asked.layer_decay,
    )


def rates_after_bigrams(tokens: float, vocabulary: int, paired: bool) -> float:
    """Return the factor on the rates of embedding and head for a run of `tokens` that begins with pairs of tokens.

    Args:
        tokens: of the run.
        vocabulary: token ids.
        paired: whether it begins with a table of pairs, too.
    """
    length = tokens / vocabulary**1.5 / (_PAIRS_KNOW if paired else 1.0)
    return min(1.0, max(_LEAST_RATES, length**_FALL_BELOW))


def options_after_bigrams(
    asked: OptimizationConfig, options: OptimizerOptions, tokens: float, vocabulary: int, paired: bool = False
) -> OptimizerOptions:
    """Return the rates for a model whose embedding and head know something already, where none were asked for.

    Args:
        asked: what was given; None means the default.
        options: of a model that knows nothing.
        tokens: of the run.
        vocabulary: token ids.
        paired: whether it knows something of pairs of tokens, too, by a table of them.
    """
    head, embeddings = asked.learning_rate, asked.embedding_learning_rate
    matrices = asked.matrix_learning_rate
    length = tokens / vocabulary**1.5
    factor = rates_after_bigrams(tokens, vocabulary, paired)
    return replace(
        options,
        learning_rate=factor * _HEAD_THAT_KNOWS if head is None else head,
        embedding_learning_rate=factor * _EMBEDDING_THAT_KNOWS if embeddings is None else embeddings,
        matrix_learning_rate=_MATRICES * min(1.0, length / _WHOLE_MATRICES_FROM) if matrices is None else matrices,
    )


def schedule_of(asked: OptimizationConfig, adapting: bool, steps: int) -> Schedule:
    """Return the schedule of a run of `steps` steps; the warm-up takes at most a tenth of them."""
    warmup = asked.warmup_steps
    if warmup is None:
        warmup = round(_WARMUP_SHARE * steps) if adapting else _WARMUP_STEPS
    shape = asked.schedule or ("linear" if adapting else "wsd")
    return Schedule(shape, min(warmup, max(1, steps // 10)), asked.cooldown, asked.floor)
