"""What a model from nothing knows before its first step."""

from __future__ import annotations

import time

from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.core.units import show_duration
from lavra.models.bigram_start import can_start_from_bigrams, flops_of_context, start_from_bigrams
from lavra.planning.plan import Plan
from lavra.recipes.assembly import Assembly
from lavra.recipes.config import TrainConfig
from lavra.recipes.material import Material
from lavra.training.precision import TYPES, choose_precision

_SHARE, _UNTIL = 0.25, 1000
"""Share of a run's compute that may go into its first embedding and head, and tokens of a run for each token of the
vocabulary beyond which it has forgotten how it began."""


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
        asked = tokens <= _UNTIL * spec.vocabulary
        affordable = int(_SHARE * tokens * plan.flops_per_token / flops_of_context(spec))
    else:
        affordable = spec.vocabulary
    return min(spec.vocabulary, affordable) if asked else 0


def begin(assembly: Assembly, plan: Plan, data: Material) -> None:
    """Give a trainer that is at its first step the embedding and the head that the plan wants it to begin with.

    Checks come before: they expect fresh weights. A run that goes on from a checkpoint has no need of it.
    """
    if not plan.bigram_contexts:
        return
    begun = time.monotonic()
    bigrams = data.bigrams()
    assert bigrams is not None
    masters = assembly.trainer.masters
    embedding, head = masters.weights["embedding.weight"], masters.weights["output.weight"]
    # fp16 has no room for the smallest gradients
    precision = choose_precision("auto", embedding.device)
    loss = start_from_bigrams(
        embedding.detach(),
        head.detach(),
        bigrams,
        plan.bigram_contexts,
        TYPES["fp32" if precision == "fp16" else precision],
    )
    masters.publish()
    say(
        f"beginning: {len(bigrams.followers):,} pairs of tokens counted, loss {loss:.3f} by them "
        f"({show_duration(time.monotonic() - begun)})"
    )
