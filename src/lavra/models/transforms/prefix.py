"""Prefix tuning: learned keys and values before those of every block (arXiv 2101.00190; P-tuning v2, 2110.07602).

They are added where attention is computed, and every token attends to the prefix besides what it attends to anyway.
Packed documents, padding, generation with a cache, gradient checkpointing and quantised bases therefore work unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.config.transforms import AdapterConfig
from lavra.core.errors import InputError
from lavra.core.seeds import torch_stream
from lavra.models.hf.attention import NAME, register_attention
from lavra.models.native.attention_masks import Mask, allowed_pairs
from lavra.models.parameter_names import block_of
from lavra.models.protocols import Batch, device_of, eval_mode
from lavra.models.transforms.adapters import find_modules_to_save
from lavra.models.transforms.base import root_of

_SPREAD = 0.02
"""Standard deviation of the initial prefix. So small, its values hardly change the output of attention, and its keys
get about as much attention as those of any token."""


@dataclass(frozen=True)
class Prefix:
    """Puts `config.rank` learned positions before the keys and values of every self-attention of a frozen model.

    Positions of tokens in decoders of `transformers` begin after the prefix, as in `peft` and in the authors' code.

    Attributes:
        config: Number of positions, and the modules that are trained whole beside them.
        seed: Seed of the initial prefix.
        vocabulary: Whether the model has another vocabulary than its base, so that embedding and head are trained
            whole.
    """

    config: AdapterConfig
    seed: int = 0
    vocabulary: bool = False

    def apply(self, model: nn.Module) -> None:
        """Add the prefix, and freeze everything but it and the modules that are trained whole.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If a module to train whole does not exist, or the attention of the model cannot be reached.
        """
        root = root_of(model)
        saved = find_modules_to_save(root, self.config.modules_to_save, vocabulary=self.vocabulary)
        root.requires_grad_(False)
        generator = torch_stream(self.seed, "adapter", device="cpu")
        for layer, heads, size in _self_attentions(model):
            layer.prefix = PrefixMemory(heads, self.config.rank, size, generator).to(device_of(model))
        for name in saved:
            root.get_submodule(name).requires_grad_(True)
        if getattr(model, "kind", None) == "decoder" and getattr(model, "position_offset", None) is not None:
            model.position_offset += self.config.rank  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]

    def merge(self, model: nn.Module) -> None:
        """Raise an error, because no weights of the model itself compute the same as a prefix.

        Args:
            model: Model that `apply` changed.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "a prefix cannot be worked into the model's weights",
            "export it as an adapter (--format peft), or use the run itself",
        )


class PrefixMemory(nn.Module):
    """The learned keys and values of one block.

    Args:
        heads: Number of heads of keys and values.
        length: Number of positions.
        size: Size of a head.
        generator: Random generator that draws the initial keys and values.

    Attributes:
        keys: Learned keys, (heads, length, size).
        values: Learned values, (heads, length, size).
    """

    def __init__(self, heads: int, length: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        shape, device = (heads, length, size), generator.device
        self.keys = nn.Parameter(torch.randn(shape, generator=generator, device=device) * _SPREAD)
        self.values = nn.Parameter(torch.randn(shape, generator=generator, device=device) * _SPREAD)

    def before(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values with the prefix before them, (rows, heads, length + keys, size) each.

        Args:
            keys: Keys of the tokens, (rows, heads, keys, size).
            values: Values of the tokens, (rows, heads, keys, size).
        """
        rows = (keys.shape[0], -1, -1, -1)
        return (
            torch.cat((self.keys.to(keys.dtype).expand(rows), keys), 2),
            torch.cat((self.values.to(values.dtype).expand(rows), values), 2),
        )

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask
    ) -> tuple[torch.Tensor, torch.Tensor, Mask]:
        """Return keys, values and mask of our decoder's attention with the prefix before them.

        Args:
            queries: Queries, (rows, query heads, queries, size).
            keys: Keys of the tokens, (rows, heads, keys, size).
            values: Values of the tokens, (rows, heads, keys, size).
            mask: Mask of the keys that each query attends to.
        """
        length = self.keys.shape[1]
        allowed = F.pad(allowed_pairs(mask, queries, keys), (length, 0), value=True)
        bias = None if mask.bias is None else F.pad(mask.bias, (length, 0))
        return *self.before(keys, values), Mask(allowed, bias, causal=mask.causal)


def _self_attentions(model: Any) -> list[tuple[Any, int, int]]:
    """Return the modules that compute self-attention, with their number of key heads and the size of a head.

    The modules of a model of `transformers` are found by running it once on a few tokens.

    Raises:
        InputError: If a model computes attention in a way of its own, to which no prefix can be added.
    """
    from lavra.models.native.decoder import Decoder

    if isinstance(model, Decoder):
        own: list[Any] = [*model.blocks, *getattr(getattr(model, "encoder", None), "blocks", ())]
        return [(block.attention, block.attention.kv_heads, block.attention.size) for block in own]
    found: dict[int, tuple[Any, int, int]] = {}

    def note(module: Any, queries: torch.Tensor, keys: torch.Tensor) -> None:
        if keys.shape[2] == queries.shape[2]:  # `_probe` gives both sides different lengths, so this is self-attention
            found[id(module)] = module, keys.shape[1], keys.shape[3]

    _install()
    _observers.append(note)
    try:
        with eval_mode(model), torch.no_grad():
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
    return Batch(ids, ids, model_inputs=extra)


_observers: list[Callable[[Any, torch.Tensor, torch.Tensor], None]] = []


@cache
def _install() -> None:
    """Make the attention function that models of `transformers` share use the prefix of the module that calls it."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    register_attention()  # what is registered there stays below
    AttentionInterface.register(NAME, _prefixed(ALL_ATTENTION_FUNCTIONS[NAME]))


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
