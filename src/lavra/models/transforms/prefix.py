"""Learned keys and values before every layer's own (P-tuning v2, arXiv 2110.07602; prefix tuning, 2101.00190).

They are put in where attention is computed, so that packed documents, padding, generation with a cache, checkpointed
blocks and quantised bases all work as they do without: every token sees the prefix besides what it sees already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.config.transforms import AdapterConfig
from lavra.core.errors import InputError
from lavra.core.seeds import torch_stream
from lavra.models.contract import Batch, device_of, evaluating
from lavra.models.native.attention_masks import Mask, allowed_pairs
from lavra.models.parameter_names import block_of
from lavra.models.transforms.adapters import saved_modules
from lavra.models.transforms.base import root_of

_SPREAD = 0.02
"""Of the prefix at first: its values hardly change what a layer says, its keys are as likely as any token's."""


@dataclass(frozen=True)
class Prefix:
    """`config.rank` learned positions before the keys and values of every self-attention; the model is frozen.

    Positions of tokens in decoders of `transformers` begin after the prefix, as `peft` and the authors have it.

    Attributes:
        config: how many positions, and what is trained whole beside them.
        seed: of their values at first.
        vocabulary: the embeddings are those of another vocabulary, so that they are trained whole, with the head.
    """

    config: AdapterConfig
    seed: int = 0
    vocabulary: bool = False

    def apply(self, model: nn.Module) -> None:
        """Put the prefix in, and leave only it and the modules that are trained whole trainable.

        Raises:
            InputError: if a module to train whole is not there, or the model's attention cannot be reached.
        """
        root = root_of(model)
        saved = saved_modules(root, self.config.saved, vocabulary=self.vocabulary)
        root.requires_grad_(False)
        generator = torch_stream(self.seed, "adapter", device="cpu")
        for layer, heads, size in _self_attentions(model):
            layer.prefix = PrefixMemory(heads, self.config.rank, size, generator).to(device_of(model))
        for name in saved:
            root.get_submodule(name).requires_grad_(True)
        if getattr(model, "kind", None) == "decoder" and model.position_offset is not None:  # pyright: ignore[reportAttributeAccessIssue]
            model.position_offset += self.config.rank  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]

    def fold(self, model: nn.Module) -> None:
        """Refuse: nothing in the model's own weights computes what a prefix does.

        Raises:
            InputError: always.
        """
        raise InputError(
            "a prefix cannot be worked into the model's weights",
            "export it as an adapter (--format peft), or use the run itself",
        )


class PrefixMemory(nn.Module):
    """The learned keys and values of one layer.

    Args:
        heads: of keys and values.
        length: positions.
        size: of a head.
        generator: from which they are drawn.

    Attributes:
        keys: (heads, length, size).
        values: (heads, length, size).
    """

    def __init__(self, heads: int, length: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        shape, device = (heads, length, size), generator.device
        self.keys = nn.Parameter(torch.randn(shape, generator=generator, device=device) * _SPREAD)
        self.values = nn.Parameter(torch.randn(shape, generator=generator, device=device) * _SPREAD)

    def before(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (rows, heads, length + keys, size) keys and values with the prefix before them."""
        rows = (keys.shape[0], -1, -1, -1)
        return (
            torch.cat((self.keys.to(keys.dtype).expand(rows), keys), 2),
            torch.cat((self.values.to(values.dtype).expand(rows), values), 2),
        )

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask
    ) -> tuple[torch.Tensor, torch.Tensor, Mask]:
        """Return keys, values and mask of our decoder's attention with the prefix before them."""
        length = self.keys.shape[1]
        allowed = F.pad(allowed_pairs(mask, queries, keys), (length, 0), value=True)
        bias = None if mask.bias is None else F.pad(mask.bias, (length, 0))
        return *self.before(keys, values), Mask(allowed, bias)


def _self_attentions(model: Any) -> list[tuple[Any, int, int]]:
    """Return the modules that compute self-attention, with the heads of their keys and the size of a head.

    Raises:
        InputError: if a model computes attention in a way of its own, where no prefix can be put in.
    """
    from lavra.models.native.decoder import Decoder

    if isinstance(model, Decoder):
        return [(block.attention, block.attention.kv_heads, block.attention.size) for block in model.blocks]  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]
    found: dict[int, tuple[Any, int, int]] = {}

    def note(module: Any, queries: torch.Tensor, keys: torch.Tensor) -> None:
        if keys.shape[2] == queries.shape[2]:  # the two sides have other lengths below, so it is not cross-attention
            found[id(module)] = module, keys.shape[1], keys.shape[3]

    _install()
    _observers.append(note)
    try:
        with evaluating(model), torch.no_grad():
            model.features(_probe(model))
    finally:
        _observers.remove(note)
    blocks = {block_of(f"{name}.") for name, module in model.named_modules() if id(module) in found} - {None}
    expected = {block_of(name) for name, _ in model.named_parameters()} - {None}
    if blocks != expected:
        raise InputError(
            f"the attention of {type(root_of(model)).__name__} cannot be given a prefix",
            "take another adapter, e.g. --adapter.kind lora",
        )
    return list(found.values())


def _probe(model: Any) -> Batch:
    ids = torch.zeros(1, 3, dtype=torch.int64, device=device_of(model))
    extra = {"encoder_inputs": ids.new_zeros(1, 5)} if model.kind == "encoder-decoder" else {}
    return Batch(ids, ids, extra=extra)


_observers: list[Callable[[Any, torch.Tensor, torch.Tensor], None]] = []


def _install() -> None:
    """Let the attention that all models of `transformers` share look for a prefix in the module that calls it."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("sdpa", _prefixed(sdpa_attention_forward))


def _prefixed(attend: Callable[..., Any]) -> Callable[..., Any]:
    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        is_causal: bool | None = None,
        position_bias: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        for observe in _observers:
            observe(module, query, key)
        if position_bias is not None:
            options["position_bias"] = position_bias
        prefix = getattr(module, "prefix", None)
        if not isinstance(prefix, PrefixMemory):
            return attend(module, query, key, value, attention_mask, is_causal=is_causal, **options)
        length = prefix.keys.shape[1]
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if attention_mask is None and causal and query.shape[2] > 1:
            attention_mask = allowed_pairs(Mask(), query, key)
        if attention_mask is not None:
            seen = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = F.pad(attention_mask, (length, 0), value=seen)
        if position_bias is not None:
            options["position_bias"] = F.pad(position_bias, (length, 0))
        key, value = prefix.before(key, value)
        return attend(module, query, key, value, attention_mask, is_causal=False, **options)

    return attention
