"""The blocks of a decoder as plain functions for one new token per row, which is the step that generation repeats.

For one token per row a small model spends more time on calling modules than on computing. Here each block is one
function whose weights are looked up once. It computes the same as the `forward` of the block.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.progress import log
from lavra.models.native.agreement import Reference, can_be_compared
from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask
from lavra.models.native.layers import Attention, Block, FeedForward, LayerCache, rotate

Step = Callable[[torch.Tensor, "torch.Tensor | None", Mask, LayerCache, int], torch.Tensor]
"""Function of the residual stream (rows, 1, width), the rotary table, the mask, the cache of the block and the number
of tokens stored in it, which returns the residual stream after the block."""

_FULLEST = 4
"""Largest ratio of a cache's capacity to the tokens stored at which products with the whole cache are still faster."""

_SLACK = 8.0
"""Factor on the difference that is always allowed where there is no copy in fp32 with which to measure it."""

_Map = Callable[[torch.Tensor], torch.Tensor]
"""Function of one tensor, such as a linear layer or a norm."""


class StepProof:
    """Remembers whether the fast steps of a model are right; they are compared with the blocks at the first token."""

    def __init__(self) -> None:
        self._proved: dict[tuple[object, ...], bool] = {}

    def trusts(
        self,
        step: Step,
        block: nn.Module,
        x: torch.Tensor,
        table: torch.Tensor | None,
        mask: Mask,
        layer: LayerCache,
        start: int,
    ) -> bool:
        """Return whether the step of a block computes the same as the block, compared once for each type and mask.

        Both compute the same token and write the same into the cache. The distance of the block from a copy of it in
        fp32 decides how far the step may be.

        Args:
            step: Fast step of the block.
            block: Block itself.
            x: Residual stream of the token, (rows, 1, width).
            table: Cosines and sines at its position; None without rotary positions.
            mask: Mask of the keys that it attends to.
            layer: Cache of the block.
            start: Number of tokens that the cache holds.
        """
        if step is block or not can_be_compared(x):
            return True
        kind = x.dtype, x.device, mask.allowed is None, mask.bias is None
        if kind not in self._proved:
            wrong = _wrong_step(step, block, x, table, mask, layer, start)
            self._proved[kind] = wrong is None
            if wrong is not None:
                log(f"generation: the fast step of a block is wrong here ({wrong}); blocks are called instead")
        return self._proved[kind]


def _wrong_step(
    step: Step, block: nn.Module, x: torch.Tensor, table: torch.Tensor | None, mask: Mask, layer: LayerCache, start: int
) -> str | None:
    name = "what a block returns"
    with torch.no_grad():
        plain = {name: block(x, table, mask, layer, start)}
        try:
            wide = copy.deepcopy(block).float()
            read = LayerCache(layer.keys.float(), layer.values.float())
            exact = {name: wide(x.float(), None if table is None else table.float(), mask, read, start)}
        except (RuntimeError, TypeError, AttributeError):  # weights of low precision have no such copy
            exact = plain
        slack = _SLACK if exact is plain else 1.0
        return Reference(exact, plain, x.dtype, slack=slack).disagreement({name: step(x, table, mask, layer, start)})


def decode_steps(blocks: nn.ModuleList) -> list[Step]:
    """Return the fast step of each block, or the block itself where it is of another class.

    The steps hold the weights, so they are valid only until a module of the blocks is replaced.

    Args:
        blocks: Blocks of a decoder.
    """
    return [_block_step(block) if type(block) is Block and _is_plain(block) else block for block in blocks]  # pyright: ignore[reportArgumentType]


def _is_plain(block: Block) -> bool:
    """Return whether a block has nothing but norms, attention and MLP, as most models have."""
    attention = block.attention
    more = block.attention_post, block.mlp_post, attention.head_gain, attention.value_mix, block.mlp.norm
    return all(part is None for part in more) and not attention.cap and block.residual_scale == 1.0


def _block_step(block: Block) -> Step:
    plain = type(block.attention) is Attention and block.attention.prefix is None and not block.attention.norm_whole
    attention = _attention_step(block.attention) if plain else block.attention
    mlp = _mlp_step(block.mlp) if type(block.mlp) is FeedForward else block.mlp
    attention_norm, mlp_norm = _norm(block.attention_norm), _norm(block.mlp_norm)

    def after(x: torch.Tensor, table: Any, mask: Mask, layer: LayerCache, start: int) -> torch.Tensor:
        x = attention_norm(x + attention(x, table, mask, layer, start))
        return mlp_norm(x + mlp(x))

    def parallel(x: torch.Tensor, table: Any, mask: Mask, layer: LayerCache, start: int) -> torch.Tensor:
        return x + attention(attention_norm(x), table, mask, layer, start) + mlp(mlp_norm(x))

    def sequential(x: torch.Tensor, table: Any, mask: Mask, layer: LayerCache, start: int) -> torch.Tensor:
        x = x + attention(attention_norm(x), table, mask, layer, start)
        return x + mlp(mlp_norm(x))

    return after if block.norm_after else parallel if block.parallel else sequential


def _mlp_step(mlp: FeedForward) -> _Map:
    up, down = _linear(mlp.up), _linear(mlp.down)
    if mlp.activation in ("gelu", "gelu_tanh"):
        approximate = "tanh" if mlp.activation == "gelu_tanh" else "none"
        return lambda x: down(F.gelu(up(x), approximate=approximate))
    if mlp.activation == "relu2":
        return lambda x: down(F.relu(up(x)).square())
    return mlp


def _attention_step(attention: Attention) -> Step:
    heads, kv_heads, size = attention.heads, attention.kv_heads, attention.size
    shares, factor = (heads, kv_heads, kv_heads), attention.factor
    project, output = _linear(attention.qkv), _linear(attention.output)
    plain = isinstance(attention.query_norm, nn.Identity)
    query_norm, key_norm = _norm(attention.query_norm), _norm(attention.key_norm)

    def step(x: torch.Tensor, table: torch.Tensor | None, mask: Mask, layer: LayerCache, start: int) -> torch.Tensor:
        rows = x.shape[0]
        # With one token per row, (rows, heads, 1, size) is only a view: heads and tokens need not be transposed.
        projected = project(x).view(rows, heads + 2 * kv_heads, 1, size)
        queries, keys, values = torch.split_with_sizes(projected, shares, 1)
        if not plain:
            queries, keys = query_norm(queries), key_norm(keys)
        if table is not None:
            queries, keys = rotate(queries, table), rotate(keys, table)
        if factor != 1.0:
            queries = queries * factor
        layer.keys.narrow(2, start, 1).copy_(keys)
        layer.values.narrow(2, start, 1).copy_(values)
        if mask.bias is None and _products_are_faster(layer, start + 1):
            return output(_attend_stored(queries, layer, start + 1, mask.allowed).view(rows, 1, heads * size))
        keys, values = layer.keys.narrow(2, 0, start + 1), layer.values.narrow(2, 0, start + 1)
        return output(attend(queries, keys, values, mask).reshape(rows, 1, heads * size))

    return step


def _products_are_faster(layer: LayerCache, seen: int) -> bool:
    """Return whether two matrix products with the whole cache take less time than PyTorch's attention kernel.

    On a CPU they do in bf16; in fp32 they take the same time.
    """
    keys = layer.keys
    return keys.device.type == "cpu" and keys.dtype == torch.bfloat16 and keys.shape[2] <= _FULLEST * seen


def _attend_stored(queries: torch.Tensor, layer: LayerCache, seen: int, allowed: torch.Tensor | None) -> torch.Tensor:
    """Return the attention output of one query per head, (rows * kv heads, group, size).

    The products take the whole cache, and what is not written yet is masked. With a part of the cache they would copy
    every key and value at every step. Query heads that share keys are the rows of one product.
    """
    rows, kv_heads, capacity, size = layer.keys.shape
    wanted, stored = queries.reshape(rows * kv_heads, -1, size), layer.keys.view(-1, capacity, size)
    scores = torch.baddbmm(wanted.new_zeros(1, 1, 1), wanted, stored.transpose(1, 2), beta=0, alpha=size**-0.5)
    if seen < capacity:
        scores.narrow(2, seen, capacity - seen).fill_(float("-inf"))
    if allowed is not None:
        scores.view(rows, kv_heads, -1, capacity).narrow(3, 0, seen).masked_fill_(~allowed, float("-inf"))
    return torch.bmm(scores.softmax(-1), layer.values.view(-1, capacity, size))


def _linear(module: nn.Module) -> _Map:
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return module
    weight, bias = module.weight, module.bias
    return lambda x: F.linear(x, weight, bias)


def _norm(module: nn.Module) -> _Map:
    if type(module) is nn.LayerNorm:
        shape, weight, bias, epsilon = module.normalized_shape, module.weight, module.bias, module.eps
        return lambda x: torch.layer_norm(x, shape, weight, bias, epsilon, False)
    if type(module) is nn.RMSNorm:
        widths, gain, small = list(module.normalized_shape), module.weight, module.eps
        return lambda x: torch.rms_norm(x, widths, gain, small)
    return module
