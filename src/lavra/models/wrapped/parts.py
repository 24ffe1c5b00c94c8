"""Which parts of a `transformers` model play which role in predicting tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_POOLER = "pooler"
"""The name that encoders of `transformers` give to the layer that sums up a text for a classifier."""


def target_embedding(inner: PreTrainedModel) -> Any:
    """Return the embedding of the tokens that a model predicts: the decoder's, where it has an encoder besides."""
    side: Any = inner.get_decoder() if getattr(inner.config, "is_encoder_decoder", False) else inner
    return side.get_input_embeddings()


def meant_tied(inner: PreTrainedModel) -> bool:
    """Say whether the head is meant to be the embedding: it is, or the configuration says so and they do not differ.

    The configuration of an encoder-decoder that was put together of two models is that of its decoder.
    """
    head: Any = inner.get_output_embeddings()
    embedding = target_embedding(inner)
    config: Any = inner.config
    said = any(getattr(part, "tie_word_embeddings", False) for part in (config, getattr(config, "decoder", None)))
    same = head.weight.shape == embedding.weight.shape and torch.equal(head.weight, embedding.weight)
    return head.weight is embedding.weight or (said and same)


def freeze_unused(inner: PreTrainedModel) -> frozenset[str]:
    """Freeze the poolers of a model, from which nothing goes on to its head, and return their parameters' names.

    They stay where they are, since `transformers` looks for them in the files of a model that has them.
    """
    poolers = [(name, module) for name, module in inner.named_modules() if name.rpartition(".")[2] == _POOLER]
    for _, module in poolers:
        module.requires_grad_(False)
    return frozenset(f"{name}.{own}" for name, module in poolers for own, _ in module.named_parameters())
