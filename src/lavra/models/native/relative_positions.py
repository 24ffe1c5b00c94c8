"""The relative position bias of T5: a learned number for each head and each bucket of distances."""

from __future__ import annotations

import math

import torch
from torch import nn

from lavra.models.spec import DecoderSpec


def bucket_of(distance: torch.Tensor, buckets: int, longest: int, *, causal: bool) -> torch.Tensor:
    """Return the bucket of each distance (Raffel et al. 2020, arXiv 1910.10683, section 2.1, and its code).

    Half of the buckets are for single distances, and the others grow by a constant factor up to `longest`, beyond which
    all distances share the last one. Without a causal mask, each side has half of the buckets.

    Args:
        distance: Position of the query less that of the key, of any shape.
        buckets: Number of buckets.
        longest: Distance from which on the last bucket is used.
        causal: Whether keys after the query are hidden; they then share the bucket of the query itself.

    Examples:
        >>> bucket_of(torch.tensor([-1, 0, 1, 2, 500]), 32, 128, causal=True).tolist()
        [0, 0, 1, 2, 31]
        >>> bucket_of(torch.tensor([-1, 0, 1, 500]), 32, 128, causal=False).tolist()
        [17, 0, 1, 15]
    """
    if causal:
        side = torch.zeros_like(distance)
        distance = distance.clamp(min=0)
    else:
        buckets //= 2
        side, distance = (distance < 0).long() * buckets, distance.abs()
    single = buckets // 2
    grown = torch.log(distance.float().clamp(min=1) / single) / math.log(longest / single) * (buckets - single)
    far = (single + grown.long()).clamp(max=buckets - 1)
    return side + torch.where(distance < single, distance, far)


class RelativePositions(nn.Module):
    """The bias that all blocks of a stack add to their attention scores.

    Args:
        spec: Specification of the model.
        causal: Whether the stack is a decoder's.

    Attributes:
        embedding: Bias of each bucket and head, (buckets, heads).
    """

    def __init__(self, spec: DecoderSpec, causal: bool) -> None:
        super().__init__()
        self.longest, self.causal = spec.relative_distance, causal
        self.embedding = nn.Embedding(spec.relative_buckets, spec.heads)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return the bias, (rows or 1, heads, queries, keys).

        Args:
            queries: Position of each query, (rows or 1, queries).
            keys: Position of each key, (rows or 1, keys).
        """
        distance = queries[:, :, None] - keys[:, None, :]
        buckets = bucket_of(distance, self.embedding.num_embeddings, self.longest, causal=self.causal)
        return self.embedding(buckets).permute(0, 3, 1, 2)
