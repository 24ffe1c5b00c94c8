"""Fresh weights of the models of our own: which matrix begins how large, and what begins at zero or one."""

from __future__ import annotations

import torch
from torch import nn

from lavra.models.native.layers import score_factor
from lavra.models.native.ngrams import GAIN
from lavra.models.spec import DecoderSpec


def initialize(model: nn.Module, spec: DecoderSpec, generator: torch.Generator) -> None:
    """Draw fresh weights by the initialization of the specification, in a fixed order.

    Args:
        model: Model of that specification, changed in place.
        spec: Specification of the model.
        generator: Random generator on the device of the weights.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name.startswith("bigram_embedding"):
            nn.init.zeros_(parameter)
        elif name.endswith("value_mix"):
            nn.init.constant_(parameter, 0.5)
        elif name.startswith("ngram_copy"):
            nn.init.constant_(parameter, GAIN)
        elif parameter.dim() < 2:
            nn.init.ones_(parameter)
        elif spec.initialization == "gpt2":
            # Radford et al. 2019 (GPT-2), section 2.3: outputs of the branches are scaled by 1/sqrt(branches).
            branch = name.endswith(("attention.output.weight", "cross.output.weight", "mlp.down.weight"))
            small = 0.02 / (2 * spec.depth) ** 0.5 if branch else _small_embedding(spec, name)
            nn.init.normal_(parameter, std=small, generator=generator)
        elif name.endswith(("output.weight", "down.weight")) and not (spec.tied and name.startswith("output")):
            nn.init.zeros_(parameter)
        elif "embedding" in name:
            # A tied embedding is also the head, which begins small. Position embeddings begin with the size of the
            # token embeddings to which they are added.
            small = spec.tied or not spec.embedding_norm
            nn.init.normal_(parameter, std=_small_embedding(spec, name) if small else 1.0, generator=generator)
        else:
            nn.init.normal_(parameter, std=spec.width**-0.5, generator=generator)
    _shrink_queries(model, spec)
    if spec.deepnorm:
        _shrink_for_deepnorm(model, spec)


def _small_embedding(spec: DecoderSpec, name: str) -> float:
    """Return the standard deviation of a matrix that begins small: 0.02, and more for an embedding that is also a
    head whose input is scaled down, so that logits begin as large as without that factor."""
    scaled = spec.tied and name == "embedding.weight"
    return 0.02 / spec.output_scale if scaled else 0.02


def _shrink_queries(model: nn.Module, spec: DecoderSpec) -> None:
    """Make the queries of a model whose scores are scaled otherwise begin as small as those of one that scales them
    by 1 / √head width."""
    factor, rows = score_factor(spec), spec.heads * spec.size_of_head
    if factor == 1.0 or spec.initialization != "zero_out":
        return
    for name, parameter in model.named_parameters():
        if name.endswith((".qkv.weight", ".cross.query.weight")):
            parameter.data[:rows] /= factor


def _shrink_for_deepnorm(model: nn.Module, spec: DecoderSpec) -> None:
    """Make values and the matrices of outputs and MLP begin smaller, by (8 · depth)^-¼ (arXiv 2203.00555)."""
    smaller = (8.0 * spec.depth) ** -0.25
    keys = (spec.heads + spec.key_value_heads) * spec.size_of_head
    for name, parameter in model.named_parameters():
        if name.endswith(".qkv.weight"):
            parameter.data[keys:] *= smaller
        elif name.endswith(("attention.output.weight", "mlp.up.weight", "mlp.down.weight")):
            parameter.data *= smaller
