"""What a model from nothing knows before its first step."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.core.units import show_duration
from lavra.models.native.bigram_init import (
    can_start_from_bigrams,
    flops_of_context,
    loss_by_bigrams,
    start_from_bigrams,
)
from lavra.models.native.trigram_init import flops_of_pair, start_from_trigrams
from lavra.models.spec import DecoderSpec
from lavra.planning.plan import Plan
from lavra.training.precision import TYPES, Masters, choose_precision
from lavra.workflows.datasets.dataset import Material
from lavra.workflows.training.build import Assembly
from lavra.workflows.training.optimization import rates_after_bigrams

if TYPE_CHECKING:
    import torch

    from lavra.data.token_store.ngram_counts import Trigrams

_SHARE, PAIRS_UNTIL = 1.0, 1000
"""What may go into the first embedding and head for each FLOP of a run's steps (the shortest runs learn little else),
and tokens of a run for each token of the vocabulary beyond which it has forgotten how it began."""

_PAIRS_SHARE = 0.25
"""The same for a table of pairs: with more of them, the steps that they cost would have brought more."""


def contexts_to_count(config: TrainConfig, plan: Plan, data: Material, tokens: float) -> int:
    """Return how many tokens' followers are worth counting before a run of `tokens`: all, if time allows.

    Raises:
        InputError: if it is asked for where it cannot be done.
    """
    asked, spec = config.optimization.bigrams, plan.model
    plain = plan.base is None and plan.objective == "causal" and not data.examples
    if spec is None or not plain or not can_start_from_bigrams(spec):
        if asked:
            raise InputError(
                "this model cannot begin with pairs of tokens",
                "leave out --optimization.bigrams: it is for decoders of plain text, from nothing, whose embedding is "
                "normed and not the head",
            )
        return 0
    if asked is None:
        return contexts_worth_counting(spec, tokens, plan.flops_per_token)
    return spec.vocabulary if asked else 0


def contexts_worth_counting(spec: DecoderSpec, tokens: float, flops_per_token: float) -> int:
    """Return how many tokens' followers are counted before a run of `tokens` if nothing else is asked for."""
    if tokens > PAIRS_UNTIL * spec.vocabulary or not can_start_from_bigrams(spec):
        return 0
    return min(spec.vocabulary, int(_SHARE * tokens * flops_per_token / flops_of_context(spec)))


def pairs_worth_counting(spec: DecoderSpec, tokens: float, flops_per_token: float) -> int:
    """Return how many pairs' followers are counted too before a run of `tokens` that begins with single tokens'.

    None where rates are whole all the same: such a run forgets what the table began with.
    """
    if rates_after_bigrams(tokens, spec.vocabulary, paired=True) == 1.0:
        return 0
    return min(spec.pairs, int(_PAIRS_SHARE * tokens * flops_per_token / flops_of_pair(spec)))


def begin(assembly: Assembly, plan: Plan, data: Material) -> Plan:
    """Give a trainer that is at its first step the embedding and the head that the plan wants it to begin with.

    Checks come before: they expect fresh weights. A run that goes on from a checkpoint has no need of it.

    Returns:
        The plan, with how good the model is now.
    """
    if not plan.bigram_contexts:
        return plan
    begun = time.monotonic()
    bigrams = data.bigrams()
    assert bigrams is not None
    masters = assembly.trainer.masters
    embedding, head = (masters.weights[name].detach() for name in ("embedding.weight", "output.weight"))
    # fp16 has no room for the smallest gradients
    precision = choose_precision("auto", embedding.device)
    dtype = TYPES["fp32" if precision == "fp16" else precision]
    loss = start_from_bigrams(embedding, head, bigrams, plan.bigram_contexts, dtype)
    held_out = data.bigrams(held_out=True)
    bits = None
    if held_out is not None:
        loss_there = loss_by_bigrams(embedding, head, held_out, dtype)
        bits = loss_there / math.log(2) / data.held_out(plan).bytes_per_target
    told = "" if bits is None else f", {bits:.3f} bits per byte of the held-out text"
    say(
        f"beginning: {len(bigrams.followers):,} pairs of tokens counted, loss {loss:.3f} by them{told} "
        f"({show_duration(time.monotonic() - begun)})"
    )
    if plan.trigram_contexts:
        _begin_with_pairs(masters, embedding, head, data.trigrams(plan.trigram_contexts), dtype)
    masters.publish()
    return replace(plan, start_bits_per_byte=bits)


def _begin_with_pairs(
    masters: Masters, embedding: torch.Tensor, head: torch.Tensor, trigrams: Trigrams | None, dtype: torch.dtype
) -> None:
    if trigrams is None or not len(trigrams.pairs):
        return
    begun = time.monotonic()
    table = masters.weights["pair_embedding.weight"].detach()
    first, last = start_from_trigrams(table, embedding, head, trigrams, dtype)
    say(
        f"beginning: followers of {len(trigrams.pairs):,} pairs counted, {trigrams.covered:.0%} of the text; loss "
        f"there {first:.3f} by the last token, {last:.3f} by both ({show_duration(time.monotonic() - begun)})"
    )
