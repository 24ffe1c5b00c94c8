"""The pieces of a block: norms, rotary tables, the MLP, the key-value cache and attention."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask
from lavra.models.spec import GATED, DecoderSpec


def make_norm(spec: DecoderSpec, width: int, weight: bool) -> nn.Module:
    """Return the norm of the specification over the last dimension of size `width`."""
    if spec.norm == "layernorm":
        return nn.LayerNorm(width, eps=spec.norm_epsilon, elementwise_affine=weight)
    return nn.RMSNorm(width, eps=spec.norm_epsilon, elementwise_affine=weight)


def rotary_table(spec: DecoderSpec) -> torch.Tensor:
    """Return the (context, rotary width) float32 angles' cosines and sines, halves side by side (RoFormer §3.2.2).

    The half-split layout of Llama and GPT-NeoX: channel i is rotated with channel i + rotary_width / 2.
    """
    width = spec.rotary_width
    frequencies = 1.0 / spec.rope_base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if spec.rope_scaling != 1.0:
        frequencies = _slower(frequencies, spec.rope_scaling, spec.rope_scaling_context)
    angles = torch.arange(spec.context, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), -1)


def _slower(frequencies: torch.Tensor, factor: float, context: int) -> torch.Tensor:
    """Return frequencies for windows `factor` times as long as those of the first training, of `context` tokens.

    Without `context`, all are divided (Chen et al. 2023, arXiv 2306.15595). With it, waves that come round at least
    four times in it stay, those that do not come round once are divided, and between the two the frequencies are
    blended (Llama 3.1, arXiv 2407.21783, and its released code).
    """
    if not context:
        return frequencies / factor
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - 1.0) / (4.0 - 1.0)).clamp(0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / factor


def rotate(heads: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Rotate the first channels of `heads` (rows, heads, length, size) by `table` (rows, 1, length, width)."""
    cosine, sine = table.chunk(2, -1)
    width = table.shape[-1]
    rotated, rest = heads[..., :width], heads[..., width:]
    first, second = rotated.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), -1)


class LayerCache:
    """Keys and values of one layer: (rows, heads, capacity, size) each, filled from the left."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values

    def append(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values at `start` and return all that are stored up to their end."""
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: torch.Tensor, length: int) -> None:
        """Row i becomes what row `rows[i]` was; only the first `length` tokens are stored and copied."""
        self.keys, self.values = _selected(self.keys, rows, length), _selected(self.values, rows, length)

    def join(self, length: int, other: LayerCache, other_length: int, joined_length: int, capacity: int) -> LayerCache:
        """Return the rows of both, their last `joined_length` tokens moved to end together."""
        first, second = (self.keys, self.values), (other.keys, other.values)
        keys, values = (
            _joined(mine, length, theirs, other_length, joined_length, capacity)
            for mine, theirs in zip(first, second, strict=True)
        )
        return LayerCache(keys, values)


def _selected(stored: torch.Tensor, rows: torch.Tensor, length: int) -> torch.Tensor:
    selected = stored.new_zeros(len(rows), *stored.shape[1:])
    selected[:, :, :length] = stored[:, :, :length].index_select(0, rows)
    return selected


def _joined(
    first: torch.Tensor, first_length: int, second: torch.Tensor, second_length: int, length: int, capacity: int
) -> torch.Tensor:
    heads, size = first.shape[1], first.shape[3]
    joined = first.new_zeros(len(first) + len(second), heads, capacity, size)
    for begin, stored, stored_length in ((0, first, first_length), (len(first), second, second_length)):
        kept = min(length, stored_length)
        joined[begin : begin + len(stored), :, length - kept : length] = stored[
            :, :, stored_length - kept : stored_length
        ]
    return joined


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values; query, key and value come from one product."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = spec.heads, spec.key_value_heads, spec.size_of_head
        self.rope = spec.positions == "rope"
        self.dropout = spec.dropout
        self.prefix: nn.Module | None = (
            None  # learned keys and values before the tokens': see `lavra.models.transforms.prefix`
        )
        self.qkv = nn.Linear(spec.width, (self.heads + 2 * self.kv_heads) * self.size, bias=spec.attention_bias)
        self.output = nn.Linear(self.heads * self.size, spec.width, bias=spec.output_bias)
        self.query_norm = make_norm(spec, self.size, spec.qk_norm_weight) if spec.qk_norm else nn.Identity()
        self.key_norm = make_norm(spec, self.size, spec.qk_norm_weight) if spec.qk_norm else nn.Identity()

    def forward(
        self, x: torch.Tensor, table: torch.Tensor | None, mask: Mask, cache: LayerCache | None = None, start: int = 0
    ) -> torch.Tensor:
        """Attend within (rows, length, width) `x`, or from `x` to `cache` filled up to `start`."""
        rows, length, _ = x.shape
        queries, keys, values = (
            self.qkv(x)
            .view(rows, length, self.heads + 2 * self.kv_heads, self.size)
            .transpose(1, 2)
            .split((self.heads, self.kv_heads, self.kv_heads), 1)
        )
        queries, keys = self.query_norm(queries), self.key_norm(keys)
        if table is not None:
            queries, keys = rotate(queries, table), rotate(keys, table)
        if cache is not None:
            keys, values = cache.append(start, keys, values)
        if self.prefix is not None:
            keys, values, mask = self.prefix(queries, keys, values, mask)
        # Without dropout the mode is not even read, so that a compiled block serves training and validation alike.
        mixed = attend(queries, keys, values, mask, self.dropout if self.dropout and self.training else 0.0)
        return self.output(mixed.transpose(1, 2).reshape(rows, length, self.heads * self.size))


class FeedForward(nn.Module):
    """The MLP of a block; gated activations take both halves from one product (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.activation = spec.activation
        hidden = spec.hidden_width
        self.up = nn.Linear(spec.width, hidden * (2 if spec.activation in GATED else 1), bias=spec.mlp_bias)
        self.down = nn.Linear(hidden, spec.width, bias=spec.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, width) to (…, width)."""
        hidden = self.up(x)
        if self.activation in GATED:
            gate, value = hidden.chunk(2, -1)
            return self.down((F.silu(gate) if self.activation == "swiglu" else F.gelu(gate)) * value)
        if self.activation == "relu2":
            return self.down(F.relu(hidden).square())
        if self.activation == "relu":
            return self.down(F.relu(hidden))
        return self.down(F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none"))


class Block(nn.Module):
    """One transformer block: norms before its branches, in sequence or in parallel, or after each sum."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.parallel, self.dropout = spec.parallel, spec.dropout
        self.norm_after = spec.norm_placement == "after"
        self.attention_norm = make_norm(spec, spec.width, spec.norm_weight)
        self.attention = Attention(spec)
        self.mlp_norm = make_norm(spec, spec.width, spec.norm_weight)
        self.mlp = FeedForward(spec)

    def forward(
        self, x: torch.Tensor, table: torch.Tensor | None, mask: Mask, cache: LayerCache | None = None, start: int = 0
    ) -> torch.Tensor:
        """Map the residual stream (rows, length, width) to the next one."""
        if self.norm_after:
            x = self.attention_norm(x + self._drop(self.attention(x, table, mask, cache, start)))
            return self.mlp_norm(x + self._drop(self.mlp(x)))
        attended = self._drop(self.attention(self.attention_norm(x), table, mask, cache, start))
        if self.parallel:
            return x + attended + self._drop(self.mlp(self.mlp_norm(x)))
        x = x + attended
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
