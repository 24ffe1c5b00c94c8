"""Floating-point operations of a decoder, counted from its specification."""

from __future__ import annotations

from lavra.models.spec import GATED, DecoderSpec


def matrix_parameters(spec: DecoderSpec) -> int:
    """Return the parameters that take part in matrix products: the blocks' matrices, the head, and what leads to it."""
    head, kv = spec.size_of_head, spec.key_value_heads
    attention = spec.width * head * (spec.heads + 2 * kv) + spec.heads * head * spec.width
    mlp = spec.width * spec.hidden_width * (3 if spec.activation in GATED else 2)
    embedding = spec.size_of_embedding
    projections = 2 * spec.width * embedding if embedding != spec.width else 0
    return spec.depth * (attention + mlp) + projections + embedding * spec.padded_vocabulary


def training_flops_per_token(spec: DecoderSpec, length: int | None = None) -> float:
    """Return FLOPs per token of a forward and backward pass: 6 per matrix parameter, and attention's products.

    Attention counts all length x length scores, as PaLM's appendix B does (arXiv 2204.02311), although a causal kernel
    may skip half of them.

    Args:
        spec: the decoder.
        length: of the window; the specification's context by default.
    """
    length = spec.context if length is None else length
    attention = 12.0 * spec.depth * spec.heads * spec.size_of_head * length
    return 6.0 * matrix_parameters(spec) + attention
