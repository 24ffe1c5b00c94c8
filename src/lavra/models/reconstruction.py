"""A head that makes the vector of a text, with a small decoder that writes the text again from this vector alone."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from lavra.models.heads import HEADS, EmbeddingHead
from lavra.models.pooling import Pooling

_SIZE_OF_HEAD = 64
"""Width of an attention head of the decoder."""


class ReconstructingHead(EmbeddingHead):
    """An `EmbeddingHead` with a decoder of one block, whose inputs and outputs are the word embeddings of the model.

    The decoder reads the words before and the vector, and predicts the next word. The vector reaches each block by
    attention to it alone; attention to one place is a linear layer of it that is added everywhere, which is what is
    computed. The decoder is only for learning: the vectors are those of the `EmbeddingHead`.

    Args:
        width: Size of the features, and of the word embeddings.
        pooling: How the features of a document become one vector.
        normalise: Whether vectors have the length 1.
        dimensions: None: the vector has the size of the word embeddings.

    Examples:
        >>> head = ReconstructingHead(8)
        >>> head.reconstruct(torch.ones(2, 8), torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    kind = "reconstructing"

    def __init__(self, width: int, pooling: Pooling = "mean", normalise: bool = True, dimensions: None = None) -> None:
        super().__init__(width, pooling, normalise, dimensions)
        self.block = _Block(width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: small random matrices, gains of one, and biases of zero."""
        super().initialize(generator)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)

    def reconstruct(self, vectors: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return features whose products with the word embeddings are the logits of the words, (texts, length, width).

        Args:
            vectors: The vector of each text, (texts, width).
            embedded: Word embedding of the word before each place, zeros at the first place, (texts, length, width).
        """
        # Of a vector of length 1, so that each coordinate is about as large as those of normalised features.
        vectors = F.normalize(vectors, dim=-1) * math.sqrt(self.width)
        given = self.before(embedded) + _positions(embedded)
        return self.after(self.block(given, vectors.to(embedded.dtype)[:, None]))


class _Block(nn.Module):
    """One block of a decoder: attention to the words before, attention to one vector, and a feed-forward layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(max(1, width // _SIZE_OF_HEAD), 0, -1) if width % heads == 0)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries_keys_values, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.read = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, given: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        rows, length, width = given.shape
        parts = self.queries_keys_values(self.norms[0](given)).view(rows, length, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        given = given + self.mixed(read.transpose(1, 2).reshape(rows, length, width)) + self.read(vector)
        return given + self.narrow(F.gelu(self.wide(self.norms[1](given))))


def _positions(embedded: torch.Tensor) -> torch.Tensor:
    """Return sines and cosines of the positions (Vaswani et al. 2017), (length, width)."""
    length, width = embedded.shape[1:]
    places = torch.arange(length, device=embedded.device, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, device=embedded.device) * (-math.log(10_000.0) / width))
    waves = torch.stack([(places * rates).sin(), (places * rates).cos()], -1).flatten(1)[:, :width]
    return waves.to(embedded.dtype)


HEADS[ReconstructingHead.kind] = ReconstructingHead
