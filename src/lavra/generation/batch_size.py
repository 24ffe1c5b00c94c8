"""How many continuations are decoded together: as many as keep the device busy and as its memory holds."""

from __future__ import annotations

from typing import Any

import torch

from lavra.models.protocols import device_of

MOST_ROWS = 1024
"""Largest number of continuations that are decoded together on a GPU; more gain little speed there."""

_MEMORY_SHARE = 0.4
"""Share of the free memory that caches may take: they are copied when rows leave and others take their places."""

_LOGIT_COPIES = 4
"""Copies of the logits of a token in fp32 that exist while the next token is drawn."""


def rows_at_once(model: Any, length: int, usual: int) -> int:
    """Return the number of continuations to decode together.

    One token for each row is little work for a GPU, so that twice the rows hardly take longer there until some hundreds
    of them. A CPU is busy with the usual number.

    Args:
        model: Model with a key-value cache.
        length: Largest number of tokens of a row, the prompt included.
        usual: The number on other devices than CUDA.
    """
    device = device_of(model)
    if device.type != "cuda":
        return usual
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    row = length * cache_bytes_per_token(model) + 4 * _LOGIT_COPIES * model.vocabulary
    return max(1, min(MOST_ROWS, int(_MEMORY_SHARE * free / row)))


def cache_bytes_per_token(model: Any) -> int:
    """Return the bytes of keys and values that a model keeps for each token of a row.

    Args:
        model: A decoder of our own, or a wrapped model of `transformers`, whose configuration tells the size.
    """
    spec = getattr(model, "spec", None)
    width = next(model.parameters()).element_size()
    if spec is not None:
        return 2 * spec.depth * spec.key_value_heads * spec.size_of_head * width
    config = model.inner.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", 16)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return 2 * getattr(config, "num_hidden_layers", 24) * shared * size * width
