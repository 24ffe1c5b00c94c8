"""What of a training step is compiled, in words: for the log before the first step, and for the notes of a plan."""

from __future__ import annotations

from lavra.core.units import counted
from lavra.models.spec import DecoderSpec
from lavra.training.plan import Plan

_WITH_COMPILED_LOSS = ("causal", "fim")
"""Objectives whose loss is compiled, because every position has a target."""


def compiled_parts(plan: Plan, asked: str = "auto") -> str:
    """Return what of a training step is compiled, and what is not; empty where nothing is and nobody asked for it.

    Args:
        plan: The plan of the run.
        asked: What the request says of compiling: auto, yes or no.
    """
    if plan.model is None:
        return (
            "nothing is compiled: of a model of transformers no blocks are known to compile" if asked == "yes" else ""
        )
    if not plan.compile:
        return ""
    parts = _blocks(plan.model)
    if plan.facts.get("generator_share"):
        parts.append("those of the generator")
    if plan.objective in _WITH_COMPILED_LOSS:
        return f"compiled: {', '.join(parts)}, and the loss"
    return f"compiled: {', '.join(parts)}; the loss of {plan.objective} is not"


def _blocks(spec: DecoderSpec) -> list[str]:
    """Return the stacks of blocks, with what is special about them."""
    apart = "without their experts, each of which gets another number of tokens in every step" if spec.experts else ""
    windows = "with their windows" if spec.window else ""
    inside = "".join(f" {one}" for one in (windows, apart) if one)
    if spec.architecture == "encoder-decoder":
        read = f"the {counted(spec.blocks_of_encoder, 'block')} of the encoder"
        return [read + inside, f"the {spec.depth} of the decoder with their attention to the source{inside}"]
    return [f"the {counted(spec.depth, 'block')}{inside}"]
