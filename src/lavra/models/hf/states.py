"""The memory of recurrent models of `transformers`, which is a state of fixed size instead of keys and values.

A state cannot be padded, joined with another, or taken back by some tokens. So the rows of one cache have equal lengths
and grow together; they can be copied, reordered and dropped. Where the cache of `transformers` does not serve a model,
which is measured, the whole text is read again for each token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_KEYS_AND_VALUES = ("full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers that keep one key and one value for each token, as `transformers` names them."""

_ARGUMENTS = ("past_key_values", "cache_params")
"""Names under which models of `transformers` take their cache."""

_CANNOT = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model raises when it cannot use the cache."""


class StateCache:
    """What a recurrent model keeps of the tokens that it has read.

    Attributes:
        inner: Cache of `transformers`; None where the model reads everything again for each token.
        capacity: Largest number of tokens that fit.
        ids: Ids of the tokens that were read, (rows, length).
    """

    def __init__(self, inner: Any, capacity: int, ids: torch.Tensor) -> None:
        self.inner, self.capacity, self.ids = inner, capacity, ids

    @property
    def length(self) -> int:
        """Number of tokens read so far; it is the same for all rows."""
        return self.ids.shape[1]

    def select(self, rows: torch.Tensor) -> None:
        """Keep, copy or reorder rows, as beams, samples and finished rows need it.

        Args:
            rows: Old number of each new row, (new rows,) int64.
        """
        self.ids = self.ids[rows]
        if self.inner is not None:
            self.inner.reorder_cache(rows)


def keeps_state(inner: Any, takes: frozenset[str]) -> bool:
    """Return whether a decoder keeps something else than a key and a value for each token.

    Args:
        inner: Model of `transformers`.
        takes: Names of the arguments of its `forward`.
    """
    kinds = getattr(inner.config.get_text_config(decoder=True), "layer_types", None) or ()
    odd = set(kinds) - set(_KEYS_AND_VALUES)
    return bool(odd) or "past_key_values" not in takes or bool(getattr(inner, "_is_stateful", False))


Read = Callable[[torch.Tensor, dict[str, Any]], torch.Tensor]
"""Function that returns the features of ids, (rows, new, width), given the arguments that name the cache."""


def cache_argument(inner: Any, takes: frozenset[str], read: Read) -> str | None:
    """Return the argument by which a model takes a cache of `transformers` and goes on from it.

    It is measured on a few tokens, because models differ in how they keep their state: reading a part, copying and
    reordering the rows, and reading the rest one by one must give the features of reading all of it.

    Args:
        inner: Model of `transformers`.
        takes: Names of the arguments of its `forward`.
        read: Function that runs the model.

    Returns:
        None where the model can use no such cache.
    """
    name = next((name for name in _ARGUMENTS if name in takes), None)
    if name is None:
        return None
    embedding = inner.get_input_embeddings().weight
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 3, 9, 1, 1, 4]], device=embedding.device) % embedding.shape[0]
    rows = torch.tensor([1, 0, 1], device=embedding.device)
    with torch.no_grad():
        whole = read(ids, {})
        try:
            cache = new_inner_cache(inner)
            parts = [read(ids[:, :3], {name: cache, "use_cache": True})[rows]]
            cache.reorder_cache(rows)
            parts += [read(ids[rows, place : place + 1], {name: cache, "use_cache": True}) for place in (3, 4, 5)]
        except _CANNOT:
            return None
        stepped = torch.cat(parts, 1)
    largest = float(whole.abs().max())
    same = stepped.shape == whole[rows].shape and torch.allclose(stepped, whole[rows], rtol=1e-3, atol=1e-3 * largest)
    return name if same else None


def new_inner_cache(inner: Any) -> Any:
    """Return an empty cache of `transformers` with the kinds of layers of a model.

    Args:
        inner: Model of `transformers`.
    """
    from transformers import DynamicCache

    return DynamicCache(config=inner.config)
