"""The warm start of a model trained from scratch: embedding and head from the n-gram counts of the text."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.models.native.bigram_init import (
    can_init_from_bigrams,
    flops_of_context,
    init_from_bigrams,
    loss_by_bigrams,
)
from lavra.models.native.trigram_init import flops_of_pair, init_from_trigrams
from lavra.models.spec import DecoderSpec
from lavra.tasks.datasets import Dataset
from lavra.training.plan import Plan
from lavra.training.precision import TYPES, MasterWeights, choose_precision
from lavra.training.trainer import Trainer
from lavra.workflows.training.optimization import lrs_after_bigrams

if TYPE_CHECKING:
    import torch

    from lavra.data.token_store.ngram_counts import Trigrams

_SHARE = 1.0
"""FLOPs that the warm start of embedding and head may take, for each FLOP of the run's steps. The shortest runs learn
little beyond what the warm start gives them."""

PAIRS_UNTIL = 1000
"""Tokens of a run for each token of the vocabulary, beyond which a warm start is not used: a longer run ends at the
same loss without it."""

_PAIRS_SHARE = 0.25
"""FLOPs that the warm start of the bigram embedding may take, for each FLOP of the run's steps. With more, the steps
that it costs would have lowered the loss further."""


def contexts_to_count(config: TrainConfig, spec: DecoderSpec | None, flops_per_token: float, tokens: float) -> int:
    """Return for how many tokens the warm start counts what follows them.

    Args:
        config: The request, which may ask for a warm start or refuse it.
        spec: The shape of the decoder that learns language modelling from scratch; None for any other run.
        flops_per_token: FLOPs of a training step for each token.
        tokens: Length of the run in tokens.

    Returns:
        The number of contexts, most frequent tokens first: all tokens of the vocabulary if the run is long enough to
        pay for it, and 0 for no warm start.

    Raises:
        InputError: If the request asks for a warm start and the model cannot have one.
    """
    asked = config.optimization.bigram_init
    if spec is None or not can_init_from_bigrams(spec):
        if asked:
            raise InputError(
                "this model cannot have a warm start from bigram counts",
                "leave out --optimization.bigram-init: it is for decoders of plain text, trained from scratch, whose "
                "embedding has a norm and is not tied to the head",
            )
        return 0
    if asked is None:
        return contexts_worth_counting(spec, tokens, flops_per_token)
    return spec.vocabulary if asked else 0


def contexts_worth_counting(spec: DecoderSpec, tokens: float, flops_per_token: float) -> int:
    """Return for how many tokens the warm start counts what follows them, where the request leaves that open.

    Args:
        spec: The shape of the decoder.
        tokens: Length of the run in tokens.
        flops_per_token: FLOPs of a training step for each token.

    Returns:
        The number of contexts, most frequent tokens first; 0 for no warm start.
    """
    if tokens > PAIRS_UNTIL * spec.vocabulary or not can_init_from_bigrams(spec):
        return 0
    return min(spec.vocabulary, int(_SHARE * tokens * flops_per_token / flops_of_context(spec)))


def pairs_worth_counting(spec: DecoderSpec, tokens: float, flops_per_token: float) -> int:
    """Return for how many bigrams the warm start counts what follows them, to initialise the bigram embedding.

    Args:
        spec: The shape of the decoder, with the rows of its bigram embedding.
        tokens: Length of the run in tokens.
        flops_per_token: FLOPs of a training step for each token.

    Returns:
        The number of bigrams, most frequent first. It is 0 for runs that are so long that the learning rates are not
        lowered for the warm start: they would forget what the table was initialised with.
    """
    if lrs_after_bigrams(tokens, spec.vocabulary, paired=True) == 1.0:
        return 0
    return min(spec.bigram_embedding, int(_PAIRS_SHARE * tokens * flops_per_token / flops_of_pair(spec)))


def warm_start(trainer: Trainer, plan: Plan, data: Dataset) -> Plan:
    """Initialise embedding and head of a trainer at its first step from n-gram counts, where the plan says so.

    The weights are fitted so that embedding and head alone, without the blocks, predict the bigram statistics of the
    text; see `lavra.models.native.bigram_init`. The checks of the set-up run before this, because they expect random
    weights. A run that is resumed from a checkpoint does not need it.

    Args:
        trainer: The trainer at its first step; its master weights are changed.
        plan: The plan of the run.
        data: The training data, whose n-grams are counted.

    Returns:
        The plan, with the bits per byte of the validation text after the warm start where it was measured.
    """
    if not plan.bigram_contexts:
        return plan
    begun = time.monotonic()
    bigrams = data.bigrams()
    assert bigrams is not None
    master_weights = trainer.master_weights
    embedding, head = (master_weights.weights[name].detach() for name in ("embedding.weight", "output.weight"))
    # fp16 underflows: its exponent is too small for the smallest gradients of this fit, and bf16 has that of fp32.
    precision = choose_precision("auto", embedding.device)
    dtype = TYPES["fp32" if precision == "fp16" else precision]
    loss = init_from_bigrams(embedding, head, bigrams, plan.bigram_contexts, dtype)
    validation = data.bigrams(validation=True)
    bits, told = None, f"training loss {loss:.3f}"
    if validation is not None:
        loss_there = loss_by_bigrams(embedding, head, validation, dtype)
        bits = loss_there / math.log(2) / data.validation_set(plan).bytes_per_target
        told = f"validation loss {loss_there:.3f}, {bits:.3f} bits per byte"
    log(
        f"warm start from {counted(len(bigrams.followers), 'bigram count')}: {told} "
        f"({show_duration(time.monotonic() - begun)})"
    )
    if plan.trigram_contexts:
        _warm_start_with_trigrams(master_weights, embedding, head, data.trigrams(plan.trigram_contexts), dtype)
    master_weights.copy_to_model()
    return replace(plan, start_bits_per_byte=bits)


def _warm_start_with_trigrams(
    master_weights: MasterWeights,
    embedding: torch.Tensor,
    head: torch.Tensor,
    trigrams: Trigrams | None,
    dtype: torch.dtype,
) -> None:
    """Initialise the bigram embedding from trigram counts, as what is missing from the prediction by one token."""
    if trigrams is None or not len(trigrams.pairs):
        return
    begun = time.monotonic()
    table = master_weights.weights["bigram_embedding.weight"].detach()
    first, last = init_from_trigrams(table, embedding, head, trigrams, dtype)
    log(
        f"warm start of the bigram embedding from what follows {counted(len(trigrams.pairs), 'bigram')} "
        f"({trigrams.covered:.0%} of the text): training loss there {last:.3f}, and {first:.3f} without it "
        f"({show_duration(time.monotonic() - begun)})"
    )
