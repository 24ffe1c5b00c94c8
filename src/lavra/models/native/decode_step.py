"""One token through the blocks, with as little as possible between the products: what generation does all the time.

For one new token a row a small model spends more time on calling modules than on computing. Here each block is one
function of tensors that are looked up once; it computes what the block's `forward` computes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.progress import say
from lavra.models.native.agreement import Reference, can_be_compared
from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask
from lavra.models.native.layers import Attention, Block, FeedForward, LayerCache, rotate

Step = Callable[[torch.Tensor, "torch.Tensor | None", Mask, LayerCache, int], torch.Tensor]
"""(rows, 1, width) residual stream, rotary table, mask, cache filled up to a length → the next residual stream."""

_FULLEST = 4
"""Times what is stored that a cache may hold for products with the whole of it to be worth while."""

_SLACK = 8.0
"""Times the smallest allowed difference where there is no copy in fp32 to measure by."""

_Map = Callable[[torch.Tensor], torch.Tensor]


class StepProof:
    """Remembers whether the steps of a model's blocks may be trusted; they are proved at their first token."""

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
        """Say whether a block's step computes what the block does, compared once for each kind of numbers.

        Both are asked about the same token; what they write into the cache is the same. How far the block itself is
        from a copy of it in fp32 sets the measure.
        """
        if step is block or not can_be_compared(x):
            return True
        kind = x.dtype, x.device, mask.allowed is None, mask.bias is None
        if kind not in self._proved:
            wrong = _wrong_step(step, block, x, table, mask, layer, start)
            self._proved[kind] = wrong is None
            if wrong is not None:
                say(f"generation: the fast step of a block is wrong here ({wrong}); blocks are called instead")
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


def steps_of(blocks: nn.ModuleList) -> list[Step]:
    """Return each block's step, or the block itself where it is none of ours; until a module is replaced by another."""
    return [_block_step(block) if type(block) is Block else block for block in blocks]  # pyright: ignore[reportArgumentType]


def _block_step(block: Block) -> Step:
    plain = type(block.attention) is Attention and block.attention.prefix is None
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
    shares = (heads, kv_heads, kv_heads)
    project, output = _linear(attention.qkv), _linear(attention.output)
    plain = isinstance(attention.query_norm, nn.Identity)
    query_norm, key_norm = _norm(attention.query_norm), _norm(attention.key_norm)

    def step(x: torch.Tensor, table: torch.Tensor | None, mask: Mask, layer: LayerCache, start: int) -> torch.Tensor:
        rows = x.shape[0]
        # With one token a row, heads and tokens need not change places.
        projected = project(x).view(rows, heads + 2 * kv_heads, 1, size)
        queries, keys, values = torch.split_with_sizes(projected, shares, 1)
        if not plain:
            queries, keys = query_norm(queries), key_norm(keys)
        if table is not None:
            queries, keys = rotate(queries, table), rotate(keys, table)
        layer.keys.narrow(2, start, 1).copy_(keys)
        layer.values.narrow(2, start, 1).copy_(values)
        if mask.bias is None and _products_are_faster(layer, start + 1):
            return output(_attend_stored(queries, layer, start + 1, mask.allowed).view(rows, 1, heads * size))
        keys, values = layer.keys.narrow(2, 0, start + 1), layer.values.narrow(2, 0, start + 1)
        return output(attend(queries, keys, values, mask).reshape(rows, 1, heads * size))

    return step


def _products_are_faster(layer: LayerCache, seen: int) -> bool:
    """Whether two products with all that a cache can hold take less time than the library's kernel does.

    In bf16 they do; in fp32 they take the same.
    """
    keys = layer.keys
    return keys.device.type == "cpu" and keys.dtype == torch.bfloat16 and keys.shape[2] <= _FULLEST * seen


def _attend_stored(queries: torch.Tensor, layer: LayerCache, seen: int, allowed: torch.Tensor | None) -> torch.Tensor:
    """Return (rows * kv heads, group, size): what one query of each head takes from the values stored.

    The products take the cache whole, with what is not written yet masked: of a part of it they would copy every key
    and value at every step. Heads that share keys are the rows of one product.
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
