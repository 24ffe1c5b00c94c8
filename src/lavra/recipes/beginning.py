"""What a model from nothing knows before its first step."""

from __future__ import annotations

import time

from lavra.core.progress import say
from lavra.core.units import show_duration
from lavra.models.bigram_start import start_from_bigrams
from lavra.planning.plan import Plan
from lavra.recipes.assembly import Assembly
from lavra.recipes.material import Material
from lavra.training.precision import TYPES, choose_precision


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
