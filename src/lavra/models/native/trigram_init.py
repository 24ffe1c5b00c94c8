"""A first table of pairs from counts: what `lavra.models.native.bigram_init` does for single tokens, for two in a row.

While the outputs of the blocks are zero, a decoder with a table of pairs computes softmax(W rms(e + t)) of the last
token's embedding e and the row t of the last two tokens. The embedding and the head know already which token follows
which; here each row learns by how much it is otherwise after both tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lavra.data.token_store.ngram_counts import Trigrams
from lavra.models.native.bigram_init import DISCOUNT, ELEMENTWISE, TableAdam, normalizer_of, rows_at_a_time
from lavra.models.native.ngrams import pair_rows
from lavra.models.spec import DecoderSpec

PASSES = 8
"""Over the counts: twice as many bring hardly more (see the lab notebook)."""

_RATE = 0.2


def flops_of_pair(spec: DecoderSpec) -> float:
    """Return what one pair costs in all passes, in FLOPs."""
    return 4.0 * PASSES * (spec.width + ELEMENTWISE) * spec.vocabulary


@torch.no_grad()
def start_from_trigrams(
    table: torch.Tensor,
    embedding: torch.Tensor,
    head: torch.Tensor,
    trigrams: Trigrams,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, float]:
    """Fit a fresh model's table of pairs to counts, in place.

    Args:
        table: (rows, width) float32, zero; see `lavra.models.native.ngrams`.
        embedding: (padded vocabulary, width) float32, as `start_from_bigrams` left it.
        head: (padded vocabulary, width) float32, likewise.
        trigrams: of the training text.
        dtype: of the products.

    Returns:
        The mean nats of a token after these pairs, with what was counted discounted in favour of what the last token
        alone tells: before the first pass, and before the last.
    """
    products = head[: trigrams.vocabulary].to(dtype)
    counts = _Counts.of(trigrams, len(table), embedding, products)
    learner = TableAdam(table, _RATE)
    first = loss = 0.0
    for number in range(PASSES):
        loss, gradient = _gradient(table, embedding, products, counts)
        first = first if number else loss
        learner.step(gradient, (PASSES - number) / PASSES)
    return first, loss


@dataclass(frozen=True)
class _Counts:
    """Counts on a device.

    Attributes:
        tokens: (pairs,) ids of the second tokens.
        rows: (pairs,) of the table.
        share: (pairs,) of all that was counted.
        wanted: (pairs, width) float32 mean of the head's rows over what follows a pair. It is all that a loss and its
            gradient need of the counts, whatever the table holds: with q for what follows, and logits W f, the loss is
            log Σ exp W f - f · Σ q W, and its gradient for f is Σ (p - q) W.
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    share: torch.Tensor
    wanted: torch.Tensor

    @classmethod
    def of(cls, trigrams: Trigrams, rows: int, embedding: torch.Tensor, products: torch.Tensor) -> _Counts:
        """Discount the counts; what is taken off goes to what follows the second token alone, by embedding and head."""
        device, pairs = embedding.device, len(trigrams.pairs)
        places = np.repeat(np.arange(pairs), np.diff(trigrams.starts))
        total = np.bincount(places, trigrams.times, pairs)
        likely = np.maximum(trigrams.times - DISCOUNT, 0.0) / total[places]
        left = 1.0 - np.bincount(places, likely, pairs)

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.astype(np.float32)).to(device)

        before, tokens = (torch.from_numpy(trigrams.pairs[:, place]).to(device) for place in (0, 1))
        followers, starts = (torch.from_numpy(array).to(device) for array in (trigrams.followers, trigrams.starts[:-1]))
        known = F.embedding_bag(followers, products.float(), starts, mode="sum", per_sample_weights=tensor(likely))
        single, index = tokens.unique(return_inverse=True)
        return cls(
            tokens,
            pair_rows(before, tokens, rows),
            tensor(total / total.sum()),
            known + tensor(left)[:, None] * _expected(embedding[single], products)[index],
        )


def _expected(rows: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return the (…, width) float32 mean of the head's rows over what is foretold by rows of the embedding."""
    features = F.rms_norm(rows, rows.shape[1:]).to(products.dtype)
    parts = features.split(rows_at_a_time(len(products)))
    return torch.cat([((part @ products.T).softmax(1) @ products).float() for part in parts])


def _gradient(
    table: torch.Tensor, embedding: torch.Tensor, products: torch.Tensor, counts: _Counts
) -> tuple[float, torch.Tensor]:
    """Return the mean loss over the counts, and its (rows, width) gradient for the table."""
    gradient, loss = torch.zeros_like(table), torch.zeros((), device=table.device)
    length = rows_at_a_time(len(products))
    for first in range(0, len(counts.tokens), length):
        chunk = slice(first, first + length)
        rows, share, wanted = counts.rows[chunk], counts.share[chunk, None], counts.wanted[chunk]
        x = embedding[counts.tokens[chunk]] + table[rows]
        scale = x.square().mean(1, keepdim=True).clamp_min(1e-12).rsqrt()
        features = x * scale
        logits = features.to(products.dtype) @ products.T
        likelihood = logits.softmax(1)
        slope = (likelihood @ products).float() - wanted
        loss += (normalizer_of(logits, likelihood) - (features * wanted).sum(1)) @ counts.share[chunk]
        along = (slope * features).mean(1, keepdim=True)
        gradient.index_add_(0, rows, (slope - features * along) * scale * share)
    return float(loss), gradient
