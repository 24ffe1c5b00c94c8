"""Packed documents inside a model of `transformers`: the attention masks that it makes, and its positions.

Every attention mask of `transformers` 5 comes from one registry (`AttentionMaskInterface`), whatever the model: causal,
sliding-window, bidirectional or cross-attention. While a `Packing` is active, each such mask is narrowed to pairs of
tokens of one document, and nothing else about it changes. Models that make masks or positions by themselves are reached
by hooks, which exist only during one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.models.hf.attention import register_attention


@dataclass(frozen=True)
class Packing:
    """The documents in the rows of one call of an encoder or a decoder.

    Attributes:
        document_ids: Number of the document of each token, (rows, length), -1 on padding. None means that every row is
            one document.
        positions: Position of each token, (rows, length), for modules that can be given positions in no other way.
        read: Number of the document of each token of the encoder, (rows, source length), for the cross-attention of a
            decoder.
    """

    document_ids: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    read: torch.Tensor | None = None


_current: ContextVar[Packing | None] = ContextVar("packing", default=None)


def _narrowed(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a maker of masks in which tokens attend only to their own document while a packing is active."""
    from transformers.masking_utils import and_masks, bidirectional_mask_function

    def make_mask(*arguments: Any, mask_function: Callable[..., Any], **options: Any) -> Any:
        packing = _current.get()
        if packing is None or packing.document_ids is None:
            return make(*arguments, mask_function=mask_function, **options)
        crossed = packing.read is not None and mask_function is bidirectional_mask_function
        queries = packing.document_ids
        keys = packing.read if crossed and packing.read is not None else queries
        options |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}

        def same(row: Any, head: Any, query: Any, key: Any) -> Any:
            visible = queries[row, query] == keys[row, key]
            # Padding has no document on the encoder's side. It attends to everything there, because a softmax over an
            # empty row of a mask would be NaN.
            return visible | (queries[row, query] < 0) if crossed else visible

        return make(*arguments, mask_function=and_masks(mask_function, same), **options)

    return make_mask


@cache
def _narrow_masks() -> None:
    """Register our makers of masks, once, and not before they are needed, because the import takes long."""
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

    register_attention()
    AttentionMaskInterface.register("sdpa", _narrowed(sdpa_mask))
    AttentionMaskInterface.register("eager", _narrowed(eager_mask))


@contextmanager
def packed(inner: nn.Module, packing: Packing) -> Iterator[None]:
    """Apply a packing to everything that a model computes during the block.

    Args:
        inner: Model of `transformers`, or its encoder.
        packing: Documents in the rows.
    """
    _narrow_masks()
    token = _current.set(packing)
    try:
        with ExitStack() as stack:
            if packing.positions is not None:
                for module in position_tables(inner):
                    stack.enter_context(_hooked(module.register_forward_hook(_placed(packing.positions))))
            if packing.document_ids is not None:
                for module in self_masking_encoders(inner):
                    hook = _masked(packing.document_ids)
                    stack.enter_context(_hooked(module.register_forward_pre_hook(hook, with_kwargs=True)))
            yield
    finally:
        _current.reset(token)


def position_tables(inner: nn.Module) -> list[nn.Embedding]:
    """Return the tables of absolute positions for which the `forward` of a model takes no positions.

    BART and Marian have such tables, and BERT-like models where they are the halves of an encoder-decoder.

    Args:
        inner: Model of `transformers`.
    """
    return [
        module
        for name, module in inner.named_modules()
        if name.rpartition(".")[2] in ("embed_positions", "position_embeddings")
        and isinstance(module, nn.Embedding)
        and type(module).__name__ not in _ROTARY
    ]


_ROTARY = ("RoFormerSinusoidalPositionalEmbedding",)
"""Classes of tables that hold angles of rotations, which count distances and no places."""


def places(table: nn.Embedding) -> int:
    """Return the number of positions that a table of absolute positions has for text.

    Args:
        table: Table of positions.

    Examples:
        >>> places(nn.Embedding(514, 4, padding_idx=1))
        512
    """
    return table.num_embeddings - _first_place(table)


def _first_place(table: nn.Embedding) -> int:
    """Return the row of the first position; in the tables of RoBERTa that is the row after the one of padding."""
    return int(getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1))  # pyright: ignore[reportArgumentType]


def self_masking_encoders(inner: nn.Module) -> list[nn.Module]:
    """Return the encoders that make their mask by themselves from the one they are given, as DeBERTa does.

    Args:
        inner: Model of `transformers`.
    """
    return [module for module in inner.modules() if hasattr(module, "get_attention_mask") and hasattr(module, "layer")]


def _placed(positions: torch.Tensor) -> Callable[..., torch.Tensor]:
    def look_up(module: nn.Embedding, _arguments: Any, _output: Any) -> torch.Tensor:
        return F.embedding(positions + _first_place(module), module.weight)

    return look_up


def _masked(document_ids: torch.Tensor) -> Callable[..., Any]:
    def give(_module: nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
        pairs = (document_ids[:, :, None] == document_ids[:, None, :]).long()
        if "attention_mask" in named:
            return arguments, {**named, "attention_mask": pairs}
        hidden, _, *rest = arguments
        return (hidden, pairs, *rest), named

    return give


@contextmanager
def _hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
