"""Cross-attention: the blocks of a decoder that reads what an encoder made of a source, and their cache."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask
from lavra.models.native.layers import Block, LayerCache, make_norm, score_factor
from lavra.models.spec import DecoderSpec


class CrossLayerCache(LayerCache):
    """Keys and values of one block, with those of the source of each row.

    Args:
        keys: Space for the keys of the tokens, see `LayerCache`.
        values: Space for the values of the tokens.
        source_keys: Keys of the source, (rows, kv heads, source length, size).
        source_values: Values of the source, (rows, kv heads, source length, size).
        seen: False on padding of the source, (rows, source length) bool.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        source_keys: torch.Tensor,
        source_values: torch.Tensor,
        seen: torch.Tensor,
    ) -> None:
        super().__init__(keys, values)
        self.source_keys, self.source_values, self.seen = source_keys, source_values, seen

    def select(self, rows: torch.Tensor, length: int) -> None:
        """Keep, copy or reorder rows, see `LayerCache.select`."""
        super().select(rows, length)
        self.source_keys, self.source_values = self.source_keys[rows], self.source_values[rows]
        self.seen = self.seen[rows]

    def join(self, length: int, other: LayerCache, other_length: int, joined_length: int, capacity: int) -> LayerCache:
        """Return the rows of both caches, see `LayerCache.join`; shorter sources are padded on the right."""
        assert isinstance(other, CrossLayerCache)
        tokens = super().join(length, other, other_length, joined_length, capacity)
        longest = max(self.seen.shape[1], other.seen.shape[1])
        missing = [longest - one.seen.shape[1] for one in (self, other)]

        def joined(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
            return torch.cat([F.pad(one, (0, 0, 0, pad)) for one, pad in zip((mine, theirs), missing, strict=True)])

        seen = torch.cat([F.pad(one.seen, (0, pad)) for one, pad in zip((self, other), missing, strict=True)])
        keys = joined(self.source_keys, other.source_keys)
        return CrossLayerCache(tokens.keys, tokens.values, keys, joined(self.source_values, other.source_values), seen)


class CrossAttention(nn.Module):
    """Attention of the tokens of a decoder to the source, without positions.

    Keys and values come from one matrix product.

    Args:
        spec: Specification of the model.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = spec.heads, spec.key_value_heads, spec.size_of_head
        self.dropout, self.factor = spec.dropout, score_factor(spec)
        self.query = nn.Linear(spec.width, self.heads * self.size, bias=spec.attention_bias)
        self.key_value = nn.Linear(spec.width, 2 * self.kv_heads * self.size, bias=spec.attention_bias)
        self.output = nn.Linear(self.heads * self.size, spec.width, bias=spec.output_bias)
        self.query_norm = make_norm(spec, self.size, spec.qk_norm_weight) if spec.qk_norm else nn.Identity()
        self.key_norm = make_norm(spec, self.size, spec.qk_norm_weight) if spec.qk_norm else nn.Identity()

    def project(self, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and the values of a source, (rows, kv heads, source length, size) each.

        Args:
            encoded: Output of the encoder, (rows, source length, width).
        """
        rows, length, _ = encoded.shape
        keys, values = (
            self.key_value(encoded).view(rows, length, 2 * self.kv_heads, self.size).transpose(1, 2).chunk(2, 1)
        )
        return self.key_norm(keys), values

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: Mask) -> torch.Tensor:
        """Return the attention output, (rows, length, width).

        Args:
            x: Input, (rows, length, width).
            keys: Keys of the source, see `project`.
            values: Values of the source, see `project`.
            mask: Mask of the tokens of the source that each token attends to.
        """
        rows, length, _ = x.shape
        queries = self.query_norm(self.query(x).view(rows, length, self.heads, self.size).transpose(1, 2))
        if self.factor != 1.0:
            queries = queries * self.factor
        mixed = attend(queries, keys, values, mask, self.dropout if self.dropout and self.training else 0.0)
        return self.output(mixed.transpose(1, 2).reshape(rows, length, self.heads * self.size))


class CrossBlock(Block):
    """A block of a decoder with an encoder: self-attention, attention to the source, and MLP.

    Args:
        spec: Specification of the model.
        first: Whether it is the first block.
    """

    def __init__(self, spec: DecoderSpec, first: bool = False) -> None:
        super().__init__(spec, first)
        self.cross_norm = make_norm(spec, spec.width, spec.norm_weight)
        self.cross = CrossAttention(spec)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: torch.Tensor,
        table: torch.Tensor | None,
        mask: Mask,
        cache: LayerCache | None = None,
        start: int = 0,
        encoded: torch.Tensor | None = None,
        source_mask: Mask | None = None,
    ) -> torch.Tensor:
        """Return the residual stream after the block, (rows, length, width).

        Args:
            x: Residual stream before the block, (rows, length, width).
            table: Cosines and sines at the positions; None without rotary positions.
            mask: Mask of the keys that each query attends to.
            cache: Keys and values of earlier tokens and of the source; None without a cache.
            start: Number of tokens that the cache holds.
            encoded: Output of the encoder, (rows, source length, width); not needed with a cache.
            source_mask: Mask of the tokens of the source that each token attends to; not needed with a cache.
        """
        if isinstance(cache, CrossLayerCache):
            keys, values = cache.source_keys, cache.source_values
            source_mask = Mask(allowed=cache.seen[:, None, None], causal=False)
        else:
            assert encoded is not None
            assert source_mask is not None
            keys, values = self.cross.project(encoded)
        if self.norm_after:
            x = self.attention_norm(x + self._drop(self.attention(x, table, mask, cache, start)))
            x = self.cross_norm(x + self._drop(self.cross(x, keys, values, source_mask)))
            return self.mlp_norm(x + self._drop(self._fed(x, mask)))
        x = x + self._drop(self.attention(self.attention_norm(x), table, mask, cache, start))
        x = x + self._drop(self.cross(self.cross_norm(x), keys, values, source_mask))
        return x + self._drop(self._fed(self.mlp_norm(x), mask))
