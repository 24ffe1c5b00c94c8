"""A first embedding and head from counts: before its first step a decoder knows which token follows which.

While the outputs of the blocks are zero, a decoder whose embeddings are normed computes softmax(W rms(e)) of the last
token's embedding e alone: a model of pairs of tokens, whose best e and W for the whole corpus can be found from a table
of counts. A pass over the table costs what a step of training costs and sees every pair, where thousands of steps would
be needed to meet each of them once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lavra.data.token_store.ngram_counts import Bigrams
from lavra.models.spec import DecoderSpec

PASSES = 16
"""Over the table: the loss has fallen by nine tenths of what it can fall (see the lab notebook)."""

DISCOUNT = 0.75
"""Taken off every count and given to all tokens by the number of contexts that they follow (Kneser and Ney 1995): what
was counted is read again in training, and a model that knew it by heart would learn to trust the last token alone."""

_EMBEDDING_RATE, _HEAD_RATE, _BETAS = 0.3, 0.02, (0.8, 0.95)
_WARM_UP, _COOL_DOWN = 3, 0.7
_COMMON = 0.1
_NOISE = 0.25
"""Of its drawn embedding that a rare token keeps beside the common one, so that no two are alike."""
_CHUNK_BYTES = 16 << 20
ELEMENTWISE = 128
"""What softmax and gradient of a logit cost, in multiplications and additions."""


def can_start_from_bigrams(spec: DecoderSpec) -> bool:
    """Say whether a fresh decoder of this shape is a model of pairs of tokens, as described above."""
    return (
        spec.initialization == "zero_out"
        and spec.embedding_norm
        and spec.norm == "rmsnorm"
        and spec.final_norm
        and spec.positions != "learned"
        and spec.size_of_embedding == spec.width
        and not spec.tied
    )


def flops_of_context(spec: DecoderSpec) -> float:
    """Return what one row of the table costs in all passes, in FLOPs."""
    return 6.0 * PASSES * (spec.width + ELEMENTWISE) * spec.vocabulary


@torch.no_grad()
def start_from_bigrams(
    embedding: torch.Tensor, head: torch.Tensor, bigrams: Bigrams, contexts: int, dtype: torch.dtype = torch.float32
) -> float:
    """Fit a fresh model's embedding and head to counts, in place.

    Args:
        embedding: (padded vocabulary, width) float32, freshly drawn; rows end with a root mean square of 1.
        head: (padded vocabulary, width) float32, zero.
        bigrams: of the training text.
        contexts: the most frequent ones, which get embeddings of their own; all others begin near a common one.
        dtype: of the products.

    Returns:
        The mean nats of a token given the one before, smoothed as above.
    """
    table = _Table.of(bigrams, contexts, embedding.device)
    width, vocabulary = embedding.shape[1], bigrams.vocabulary
    rows = torch.cat([embedding[table.contexts], embedding.new_zeros(1, width)])
    rows[-1] = rows[:-1].mean(0) if len(rows) > 1 else 1.0
    # What is common to all rows tells how often each token occurs: the rest has to learn differences only.
    rows = rows * (1.0 - _COMMON) ** 0.5 + _COMMON**0.5
    weight = (table.unigram.log() / (width * _COMMON**0.5))[:, None].expand(-1, width).contiguous() + head[:vocabulary]
    learners = TableAdam(rows, _EMBEDDING_RATE), TableAdam(weight, _HEAD_RATE)
    loss = 0.0
    for number in range(PASSES):
        loss, *gradients = _gradients(rows, weight, table, dtype)
        factor = min(1.0, (number + 1) / _WARM_UP) * min(1.0, (PASSES - number) / (_COOL_DOWN * PASSES))
        for learner, gradient in zip(learners, gradients, strict=True):
            learner.step(gradient, factor)
    fitted = F.rms_norm(rows, (width,))
    embedding.mul_(_NOISE).add_(fitted[-1])
    embedding[table.contexts] = fitted[:-1]
    head[:vocabulary] = weight
    return loss


@torch.no_grad()
def loss_by_bigrams(
    embedding: torch.Tensor, head: torch.Tensor, bigrams: Bigrams, dtype: torch.dtype = torch.float32
) -> float:
    """Return the mean nats that a model as described above, before its first step, pays for the pairs of a text.

    Args:
        embedding: (padded vocabulary, width) float32.
        head: (padded vocabulary, width) float32.
        bigrams: of the text.
        dtype: of the products.
    """
    contexts = torch.from_numpy(bigrams.contexts).to(embedding.device)
    products, nats = head[: bigrams.vocabulary].to(dtype), 0.0
    length = rows_at_a_time(bigrams.vocabulary)
    for first in range(0, len(contexts), length):
        last = min(first + length, len(contexts))
        pairs = slice(int(bigrams.starts[first]), int(bigrams.starts[last]))
        features = F.rms_norm(embedding[contexts[first:last]], (embedding.shape[1],)).to(dtype)
        likelihood = (features @ products.T).float().log_softmax(1)
        places = np.repeat(np.arange(last - first), np.diff(bigrams.starts[first : last + 1]))
        asked = likelihood[torch.from_numpy(places), torch.from_numpy(bigrams.followers[pairs])]
        nats -= float(asked.cpu().double() @ torch.from_numpy(bigrams.times[pairs]).double())
    return nats / float(bigrams.times.sum(dtype=np.float64))


def rows_at_a_time(vocabulary: int) -> int:
    """Return how many contexts' logits are held at a time."""
    return max(1, _CHUNK_BYTES // (4 * vocabulary))


def normalizer_of(logits: torch.Tensor, likelihood: torch.Tensor) -> torch.Tensor:
    """Return the (rows,) float32 logarithm of each row's sum of exponentials, by its likeliest token alone.

    Args:
        logits: (rows, vocabulary).
        likelihood: their softmax.
    """
    most, place = likelihood.max(1, keepdim=True)
    return (logits.gather(1, place).float() - most.float().log()).squeeze(1)


class TableAdam:
    """Adam (Kingma and Ba, arXiv 1412.6980) for one tensor, which it changes in place."""

    def __init__(self, weight: torch.Tensor, rate: float) -> None:
        self.weight, self.rate, self.steps = weight, rate, 0
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)

    def step(self, gradient: torch.Tensor, factor: float) -> None:
        """Go a step at `factor` times the rate."""
        self.steps += 1
        keep, keep_square = _BETAS
        self.mean.lerp_(gradient, 1.0 - keep)
        self.square.mul_(keep_square).addcmul_(gradient, gradient, value=1.0 - keep_square)
        size = (self.square / (1.0 - keep_square**self.steps)).sqrt_().add_(1e-12)
        self.weight.addcdiv_(self.mean, size, value=-self.rate * factor / (1.0 - keep**self.steps))


@dataclass(frozen=True)
class _Table:
    """Counts on a device, as shares of all: the frequent contexts in order, and all others together as the last row.

    Attributes:
        contexts: (contexts,) ids of the frequent ones.
        share: (contexts + 1,) of the tokens that follow each.
        places, followers, likely: (pairs,) row, id and discounted share of each pair, by row.
        starts: (contexts + 2,) first pair of each row.
        left: (contexts + 1,) share that was taken off, and is spread as `unigram` (vocabulary,) says.
    """

    contexts: torch.Tensor
    share: torch.Tensor
    places: torch.Tensor
    followers: torch.Tensor
    likely: torch.Tensor
    starts: np.ndarray
    left: torch.Tensor
    unigram: torch.Tensor

    @classmethod
    def of(cls, bigrams: Bigrams, contexts: int, device: torch.device) -> _Table:
        contexts = min(contexts, len(bigrams.contexts))
        end = int(bigrams.starts[contexts])
        merged = np.bincount(bigrams.followers[end:], bigrams.times[end:], bigrams.vocabulary)
        (known,) = merged.nonzero()
        starts = np.append(bigrams.starts[: contexts + 1], end + len(known))
        times = np.concatenate([bigrams.times[:end], merged[known]]).astype(np.float64)
        places = np.repeat(np.arange(contexts + 1), np.diff(starts))
        likely = np.maximum(times - DISCOUNT, 0.0)
        share = np.bincount(places, times, contexts + 1)
        left = share - np.bincount(places, likely, contexts + 1)
        # What a token is worth where nothing is known is how many contexts it follows, not how often.
        spread = np.bincount(bigrams.followers, minlength=bigrams.vocabulary) + 0.05

        def tensor(array: np.ndarray, total: float = 1.0) -> torch.Tensor:
            return torch.from_numpy((array / total).astype(np.float32)).to(device)

        total = float(times.sum())
        return cls(
            torch.from_numpy(bigrams.contexts[:contexts]).to(device),
            tensor(share, total),
            torch.from_numpy(places).to(device),
            torch.from_numpy(np.concatenate([bigrams.followers[:end], known])).to(device),
            tensor(likely, total),
            starts,
            tensor(left, total),
            tensor(spread, float(spread.sum())),
        )


def _gradients(
    rows: torch.Tensor, weight: torch.Tensor, table: _Table, dtype: torch.dtype
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the mean loss over the table and its gradients for embeddings (before their norm) and head."""
    scale = rows.square().mean(1, keepdim=True).clamp_min(1e-12).rsqrt()
    features = rows * scale
    products, wide = weight.to(dtype), torch.zeros_like(weight)
    slope = torch.empty_like(rows)
    loss = torch.zeros((), device=rows.device)
    unigram = weight.T @ table.unigram
    length = rows_at_a_time(len(weight))
    for first in range(0, len(rows), length):
        last = min(first + length, len(rows))
        pairs = slice(int(table.starts[first]), int(table.starts[last]))
        places, followers, likely = table.places[pairs] - first, table.followers[pairs], table.likely[pairs]
        chunk, left = features[first:last].to(dtype), table.left[first:last]
        logits = chunk @ products.T
        likelihood = logits.softmax(1)
        normalizer = normalizer_of(logits, likelihood)
        loss -= (logits[places, followers].float() - normalizer[places]) @ likely
        loss -= left @ (features[first:last] @ unigram - normalizer)
        # All in the type of the products: what is wide is read and written as seldom and as small as can be.
        error = likelihood.mul_(table.share[first:last, None].to(dtype))
        error.addr_(left.to(dtype), table.unigram.to(dtype), alpha=-1)
        error[places, followers] -= likely.to(dtype)
        slope[first:last] = error @ products
        wide += error.T @ chunk
    along = (slope * features).mean(1, keepdim=True)
    return float(loss), (slope - features * along) * scale, wide
