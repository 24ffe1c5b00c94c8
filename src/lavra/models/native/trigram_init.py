"""Warm start of the bigram embeddings from trigram counts, after `lavra.models.native.bigram_init`.

While the outputs of the blocks are zero, a decoder with bigram embeddings computes softmax(W rms(e + t)) from the
embedding e of the last token and the row t of the last two tokens. The embedding and the head are fitted to bigrams
already. Here each row learns how the next token differs once both tokens are known.
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
"""Number of passes over the counts. Twice as many gain hardly anything, see the lab notebook."""

_LR = 0.2
"""Learning rate of the table."""


def flops_of_pair(spec: DecoderSpec) -> float:
    """Return the FLOPs that one bigram costs in all passes.

    Args:
        spec: Shape of the decoder.
    """
    return 4.0 * PASSES * (spec.width + ELEMENTWISE) * spec.vocabulary


@torch.no_grad()
def init_from_trigrams(
    table: torch.Tensor,
    embedding: torch.Tensor,
    head: torch.Tensor,
    trigrams: Trigrams,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, float]:
    """Fit the bigram embeddings of a fresh model to trigram counts, in place.

    Args:
        table: Table of bigram embeddings, (rows, width) float32, which is zero; see `lavra.models.native.ngrams`.
        embedding: Embedding, (padded vocabulary, width) float32, as `init_from_bigrams` left it.
        head: Head, (padded vocabulary, width) float32, as `init_from_bigrams` left it.
        trigrams: Trigram counts of the training text.
        dtype: Type of the matrix products.

    Returns:
        The mean loss in nats of a token after the counted bigrams, before the first pass and before the last one. The
        counts are discounted, and the rest goes to the prediction from the last token alone.
    """
    products = head[: trigrams.vocabulary].to(dtype)
    counts = _Counts.of(trigrams, len(table), embedding, products)
    learner = TableAdam(table, _LR)
    first = loss = 0.0
    for number in range(PASSES):
        loss, gradient = _gradient(table, embedding, products, counts)
        first = first if number else loss
        learner.step(gradient, (PASSES - number) / PASSES)
    return first, loss


@dataclass(frozen=True)
class _Counts:
    """Trigram counts on a device, by bigram.

    Attributes:
        tokens: Id of the second token of each bigram, (bigrams,).
        rows: Row of each bigram in the table, (bigrams,).
        share: Share of the trigrams that begin with each bigram, (bigrams,).
        wanted: Mean of the head's rows over the tokens that follow each bigram, (bigrams, width) float32. The loss and
            its gradient need nothing else of the counts, whatever the table holds: with the probabilities q of the
            tokens that follow and the logits W f, the loss is log Σ exp(W f) - f · Σ q W, and its gradient for the
            features f is Σ (p - q) W.
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    share: torch.Tensor
    wanted: torch.Tensor

    @classmethod
    def of(cls, trigrams: Trigrams, rows: int, embedding: torch.Tensor, products: torch.Tensor) -> _Counts:
        """Return the counts, discounted in favour of the model's prediction from the second token alone (backing off).

        Args:
            trigrams: Trigram counts.
            rows: Number of rows of the table.
            embedding: Embedding, (padded vocabulary, width).
            products: Head in the type of the products, (vocabulary, width).
        """
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
    """Return the mean of the head's rows over the tokens that each embedding predicts, (rows, width) float32."""
    features = F.rms_norm(rows, rows.shape[1:]).to(products.dtype)
    parts = features.split(rows_at_a_time(len(products)))
    return torch.cat([((part @ products.T).softmax(1) @ products).float() for part in parts])


def _gradient(
    table: torch.Tensor, embedding: torch.Tensor, products: torch.Tensor, counts: _Counts
) -> tuple[float, torch.Tensor]:
    """Return the mean loss over the counts in nats, and its gradient for the table, (rows, width)."""
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
