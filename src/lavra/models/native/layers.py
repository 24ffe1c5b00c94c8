"""The parts of a transformer block: norms, rotary position embeddings, attention, the key-value cache and the MLP."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from lavra.config.choices import Activation
from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask
from lavra.models.spec import GATED, DecoderSpec


def make_norm(spec: DecoderSpec, width: int, weight: bool) -> nn.Module:
    """Return a norm of the kind that the specification names, over the last dimension.

    Args:
        spec: Specification of the decoder.
        width: Size of the last dimension.
        weight: Whether the norm learns a gain and, as a layer norm, a bias.
    """
    if spec.norm == "layernorm":
        return nn.LayerNorm(width, eps=spec.norm_epsilon, elementwise_affine=weight, bias=spec.norm_bias)
    return nn.RMSNorm(width, eps=spec.norm_epsilon, elementwise_affine=weight)


def rotary_table(spec: DecoderSpec, base: float = 0.0) -> torch.Tensor:
    """Return the table of rotary position embeddings (RoFormer, Su et al. 2021, section 3.2.2).

    The layout is that of Llama and GPT-NeoX, in which channel i is rotated with channel i + rotary_width / 2.

    Args:
        spec: Specification of the decoder.
        base: Base of the frequencies of the blocks with a window, which are not slowed: those never see far. 0 means
            the base of the specification.

    Returns:
        The cosines of the angles at each position, followed by their sines, (context, rotary width) float32.
    """
    width = spec.rotary_width
    frequencies = 1.0 / (base or spec.rope_base) ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    if spec.rope_scaling != 1.0 and not base:
        frequencies = _slower(frequencies, spec.rope_scaling, spec.rope_scaling_context)
    angles = torch.arange(spec.context, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), -1)


def _slower(frequencies: torch.Tensor, factor: float, context: int) -> torch.Tensor:
    """Return rotary frequencies for sequences `factor` times as long as those of the original training.

    With a `context` of 0, all frequencies are divided by the factor (position interpolation, Chen et al. 2023,
    arXiv 2306.15595). Otherwise a wave that turns at least four times within the original context is kept, one that
    does not turn once is slowed, and those in between are blended (Llama 3.1, arXiv 2407.21783, and its code).
    """
    if not context:
        return frequencies / factor
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - 1.0) / (4.0 - 1.0)).clamp(0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / factor


def rotate(heads: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return queries or keys with their first channels rotated by their positions.

    Args:
        heads: Queries or keys, (rows, heads, length, size).
        table: Cosines and sines at the positions, (rows or 1, 1, length, rotary width). Channels after the rotary width
            are not rotated.
    """
    cosine, sine = table.chunk(2, -1)
    width = table.shape[-1]
    rotated, rest = heads[..., :width], heads[..., width:]
    first, second = rotated.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), -1)


def score_factor(spec: DecoderSpec) -> float:
    """Return the factor on queries that makes scores of 1 / √head width those that the specification asks for.

    Args:
        spec: Specification of the model.
    """
    return spec.attention_scale * spec.size_of_head**0.5 if spec.attention_scale else 1.0


class LayerCache:
    """Keys and values of one block, filled from the left.

    Args:
        keys: Space for the keys, (rows, kv heads, capacity, size).
        values: Space for the values, (rows, kv heads, capacity, size).
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values

    def append(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values, and return all keys and all values up to their end.

        Args:
            start: Number of tokens stored before.
            keys: New keys, (rows, kv heads, new, size).
            values: New values, (rows, kv heads, new, size).
        """
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: torch.Tensor, length: int) -> None:
        """Keep, copy or reorder rows.

        Args:
            rows: Old number of each new row, (new rows,) int64.
            length: Number of tokens stored; only these are copied.
        """
        self.keys, self.values = _selected(self.keys, rows, length), _selected(self.values, rows, length)

    def join(self, length: int, other: LayerCache, other_length: int, joined_length: int, capacity: int) -> LayerCache:
        """Return the rows of both caches, moved so that all end at the same place.

        Args:
            length: Number of tokens stored in this cache.
            other: Keys and values of the same block for other rows.
            other_length: Number of tokens stored in the other cache.
            joined_length: Number of tokens at the end of each row that are kept.
            capacity: Largest number of tokens of the new cache.
        """
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
    """Multi-head attention, with grouped keys and values where they have fewer heads (Ainslie et al. 2023).

    Queries, keys and values come from one matrix product.

    Args:
        spec: Specification of the decoder.
        first: Whether it belongs to the first block, whose values are those that others may mix theirs with.
    """

    def __init__(self, spec: DecoderSpec, first: bool = False) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = spec.heads, spec.key_value_heads, spec.size_of_head
        mixes = spec.value_residual and not first
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if mixes else None
        self.rope = spec.positions == "rope"
        self.dropout, self.factor, self.cap = spec.dropout, score_factor(spec), spec.attention_cap
        self.prefix: nn.Module | None = (
            None  # learned keys and values before the tokens': see `lavra.models.transforms.prefix`
        )
        self.qkv = nn.Linear(spec.width, (self.heads + 2 * self.kv_heads) * self.size, bias=spec.attention_bias)
        self.output = nn.Linear(self.heads * self.size, spec.width, bias=spec.output_bias)
        self.head_gain = nn.Parameter(torch.ones(self.heads)) if spec.normformer else None
        self.norm_whole = spec.qk_norm_whole
        widths = [self.size * (count if self.norm_whole else 1) for count in (self.heads, self.kv_heads)]
        self.query_norm, self.key_norm = (
            make_norm(spec, width, spec.qk_norm_weight) if spec.qk_norm else nn.Identity() for width in widths
        )

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values before norms and positions, (rows, heads, length, size) each.

        Args:
            x: Input, (rows, length, width).
        """
        rows, length, _ = x.shape
        heads = self.qkv(x).view(rows, length, self.heads + 2 * self.kv_heads, self.size).transpose(1, 2)
        queries, keys, values = heads.split((self.heads, self.kv_heads, self.kv_heads), 1)
        return queries, keys, values

    def forward(
        self,
        x: torch.Tensor,
        table: torch.Tensor | None,
        mask: Mask,
        cache: LayerCache | None = None,
        start: int = 0,
        first_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the attention output, (rows, length, width).

        Args:
            x: Input, (rows, length, width).
            table: Cosines and sines at the positions, see `rotate`; None without rotary positions.
            mask: Mask of the keys that each query attends to.
            cache: Keys and values of earlier tokens, which are attended to and extended; None without a cache.
            start: Number of tokens that the cache holds.
            first_values: Values of the first block, (rows, kv heads, length, size), to mix with; None mixes nothing.
        """
        rows, length, _ = x.shape
        queries, keys, values = self.project(x)
        if self.value_mix is not None and first_values is not None:
            values = self.value_mix[0] * values + self.value_mix[1] * first_values
        if self.norm_whole:
            queries, keys = _normed_whole(self.query_norm, queries), _normed_whole(self.key_norm, keys)
        else:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        if table is not None:
            queries, keys = rotate(queries, table), rotate(keys, table)
        if self.factor != 1.0:
            queries = queries * self.factor
        if cache is not None:
            keys, values = cache.append(start, keys, values)
        if self.prefix is not None:
            keys, values, mask = self.prefix(queries, keys, values, mask)
        # Without dropout the mode is not even read, so that a compiled block serves training and validation alike.
        dropout = self.dropout if self.dropout and self.training else 0.0
        mixed = attend(queries, keys, values, mask, dropout, self.cap)
        if self.head_gain is not None:
            mixed = mixed * self.head_gain[:, None, None]
        return self.output(mixed.transpose(1, 2).reshape(rows, length, self.heads * self.size))


def _normed_whole(norm: nn.Module, heads: torch.Tensor) -> torch.Tensor:
    """Return queries or keys, (rows, heads, length, size), normalised over all heads of a token together."""
    tokens = heads.transpose(1, 2)
    return norm(tokens.flatten(2)).view(tokens.shape).transpose(1, 2)


class FeedForward(nn.Module):
    """The MLP of a block, gated where the activation is (Shazeer 2020, arXiv 2002.05202).

    Gate and value come from one matrix product.

    Args:
        spec: Specification of the decoder.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.activation: Activation = spec.activation
        hidden = spec.hidden_width
        self.up = nn.Linear(spec.width, hidden * (2 if spec.activation in GATED else 1), bias=spec.mlp_bias)
        self.down = nn.Linear(hidden, spec.width, bias=spec.mlp_bias)
        self.norm = make_norm(spec, hidden, spec.norm_weight) if spec.normformer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the MLP, (…, width).

        Args:
            x: Input, (…, width).
        """
        hidden = self.up(x)
        if self.activation in GATED:
            gate, value = hidden.chunk(2, -1)
            hidden = activated(gate, self.activation) * value
        else:
            hidden = activated(hidden, self.activation)
        return self.down(hidden if self.norm is None else self.norm(hidden))


def mlp_of(spec: DecoderSpec) -> nn.Module:
    """Return the MLP of a block, or the mixture of experts in its place.

    Args:
        spec: Specification of the model.
    """
    if not spec.experts:
        return FeedForward(spec)
    from lavra.models.native.experts import Experts  # what keeps it from being compiled loads the compiler

    return Experts(spec, FeedForward)


class HeadTransform(nn.Module):
    """What stands before the head of an encoder for predicting tokens: a linear layer, an activation and a norm (BERT).

    The activation is that of the MLP, without its gate.

    Args:
        spec: Specification of the encoder.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.activation: Activation = spec.activation
        width = spec.size_of_embedding if spec.factorized else spec.width
        self.linear = nn.Linear(spec.width, width, bias=spec.mlp_bias)
        self.norm = make_norm(spec, width, spec.norm_weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input of the head, (…, width), or (…, width of the embedding) where that is factorised.

        Args:
            x: Hidden states after the final norm, (…, width).
        """
        return self.norm(activated(self.linear(x), self.activation))


def activated(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Return an activation function of each number; of a gated one, that of its gate.

    Args:
        x: Any tensor.
        activation: Name of the activation.
    """
    if activation == "relu2":
        return F.relu(x).square()
    if activation == "relu":
        return F.relu(x)
    if activation == "swiglu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation in ("gelu_tanh", "geglu_tanh") else "none")


class Block(nn.Module):
    """One transformer block: attention and MLP, in sequence or in parallel, with norms before them, after each sum, or
    before and after them.

    Args:
        spec: Specification of the decoder.
        first: Whether it is the first block, which may have no norm before its attention.
    """

    def __init__(self, spec: DecoderSpec, first: bool = False) -> None:
        super().__init__()
        self.parallel, self.dropout = spec.parallel, spec.dropout
        self.norm_after, self.residual_scale = spec.norm_placement == "after", spec.residual_scale
        normed = spec.first_norm or not first
        self.attention_norm = make_norm(spec, spec.width, spec.norm_weight) if normed else nn.Identity()
        self.attention = Attention(spec, first)
        self.mlp_norm = make_norm(spec, spec.width, spec.norm_weight)
        self.mlp = mlp_of(spec)
        both = spec.norm_placement == "both"
        posted = both or spec.normformer
        self.attention_post = make_norm(spec, spec.width, spec.norm_weight) if posted else None
        self.mlp_post = make_norm(spec, spec.width, spec.norm_weight) if both else None

    def forward(
        self,
        x: torch.Tensor,
        table: torch.Tensor | None,
        mask: Mask,
        cache: LayerCache | None = None,
        start: int = 0,
        first_values: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the residual stream after the block, (rows, length, width).

        Args:
            x: Residual stream before the block, (rows, length, width).
            table: Cosines and sines at the positions, see `rotate`; None without rotary positions.
            mask: Mask of the keys that each query attends to.
            cache: Keys and values of earlier tokens, which are attended to and extended; None without a cache.
            start: Number of tokens that the cache holds.
            first_values: Values of the first block, see `Attention.forward`.
        """
        if self.norm_after:
            x = self.attention_norm(
                self._scaled(x) + self._drop(self.attention(x, table, mask, cache, start, first_values))
            )
            return self.mlp_norm(self._scaled(x) + self._drop(self._fed(x, mask)))
        attended = self.attention(self.attention_norm(x), table, mask, cache, start, first_values)
        attended = self._drop(attended if self.attention_post is None else self.attention_post(attended))
        if self.parallel:
            return x + attended + self._drop(self._fed(self.mlp_norm(x), mask))
        x = x + attended
        found = self._fed(self.mlp_norm(x), mask)
        return x + self._drop(found if self.mlp_post is None else self.mlp_post(found))

    def _fed(self, x: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Return the output of the MLP; experts are told which positions are tokens."""
        return self.mlp(x) if mask.tokens is None else self.mlp(x, mask.tokens)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.residual_scale == 1.0 else x * self.residual_scale

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
