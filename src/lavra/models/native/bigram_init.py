"""Warm start of embedding and head from bigram counts.

While the outputs of the blocks are zero, a decoder with normalised embeddings computes softmax(W rms(e)) from the
embedding e of the last token alone. That is a bigram model, and the best e and W for the whole corpus can be fitted to
a table of bigram counts. A pass over the table costs about as much as a training step and covers every bigram, while
training would need thousands of steps to meet each of them once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from lavra.data.token_store.ngram_counts import Bigrams
from lavra.models.spec import DecoderSpec

PASSES = 16
"""Number of passes over the table. After them the loss has fallen by nine tenths of what it can fall, see the lab
notebook."""

DISCOUNT = 0.75
"""Count that is subtracted from every bigram and spread over all tokens by the number of contexts that they follow
(Kneser-Ney smoothing, 1995). Training reads the counted text again, and a model that knew it by heart would learn to
trust the last token alone."""

_EMBEDDING_LR = 0.3
"""Learning rates of the embedding and of the head, and the decay rates of Adam."""
_HEAD_LR = 0.02
_BETAS = (0.8, 0.95)

_WARM_UP = 3
"""Passes during which the learning rate rises, and share of the passes during which it falls to zero."""
_COOL_DOWN = 0.7

_COMMON = 0.1
"""Share of the mean square of an embedding that is common to all tokens at first."""

_NOISE = 0.25
"""Share of its drawn embedding that a rare token keeps beside the common one, so that no two embeddings are equal."""

_CHUNK_BYTES = 16 << 20
"""Bytes of float32 logits that exist at a time (16 MiB)."""

ELEMENTWISE = 128
"""Cost of the softmax and the gradient of one logit, in multiplications and additions."""


def can_init_from_bigrams(spec: DecoderSpec) -> bool:
    """Return whether a fresh decoder of a shape is a bigram model, so that it can be fitted to bigram counts.

    Args:
        spec: Shape of the decoder.

    Examples:
        >>> can_init_from_bigrams(DecoderSpec()), can_init_from_bigrams(DecoderSpec(tied=True))
        (True, False)
    """
    return (
        spec.architecture == "decoder"
        and spec.initialization == "zero_out"
        and spec.embedding_norm
        and spec.norm == "rmsnorm"
        and spec.final_norm
        and spec.positions != "learned"
        and spec.size_of_embedding == spec.width
        and not spec.tied
    )


def flops_of_context(spec: DecoderSpec) -> float:
    """Return the FLOPs that one row of the table costs in all passes.

    Args:
        spec: Shape of the decoder.
    """
    return 6.0 * PASSES * (spec.width + ELEMENTWISE) * spec.vocabulary


@torch.no_grad()
def init_from_bigrams(
    embedding: torch.Tensor, head: torch.Tensor, bigrams: Bigrams, contexts: int, dtype: torch.dtype = torch.float32
) -> float:
    """Fit the embedding and the head of a fresh model to bigram counts, in place.

    Args:
        embedding: Freshly drawn embedding, (padded vocabulary, width) float32. The rows of frequent tokens end with a
            root mean square of 1.
        head: Head, (padded vocabulary, width) float32, which is zero.
        bigrams: Bigram counts of the training text.
        contexts: Number of first tokens, the most frequent ones, that get embeddings of their own. All others begin
            near a common one.
        dtype: Type of the matrix products.

    Returns:
        The mean loss of a token given the token before it, in nats, on the smoothed counts.
    """
    table = _Table.of(bigrams, contexts, embedding.device)
    width, vocabulary = embedding.shape[1], bigrams.vocabulary
    rows = torch.cat([embedding[table.contexts], embedding.new_zeros(1, width)])
    rows[-1] = rows[:-1].mean(0) if len(rows) > 1 else 1.0
    # The common part of all rows predicts how often each token occurs, so that the rest has to learn differences only.
    rows = rows * (1.0 - _COMMON) ** 0.5 + _COMMON**0.5
    weight = (table.unigram.log() / (width * _COMMON**0.5))[:, None].expand(-1, width).contiguous() + head[:vocabulary]
    learners = TableAdam(rows, _EMBEDDING_LR), TableAdam(weight, _HEAD_LR)
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
    """Return the mean loss of a model before its first training step on the bigrams of a text, in nats per token.

    Args:
        embedding: Embedding, (padded vocabulary, width) float32.
        head: Head, (padded vocabulary, width) float32.
        bigrams: Bigram counts of the text.
        dtype: Type of the matrix products.
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
    """Return the number of contexts whose logits exist at a time.

    Args:
        vocabulary: Number of logits of each context.
    """
    return max(1, _CHUNK_BYTES // (4 * vocabulary))


def normalizer_of(logits: torch.Tensor, likelihood: torch.Tensor) -> torch.Tensor:
    """Return the log-sum-exp of each row, (rows,) float32.

    It is the logit of the likeliest token minus the logarithm of its probability, which needs no further pass over the
    logits.

    Args:
        logits: Logits, (rows, vocabulary).
        likelihood: Softmax of the logits, (rows, vocabulary).

    Examples:
        >>> logits = torch.tensor([[0.0, 1.0]])
        >>> bool(torch.isclose(normalizer_of(logits, logits.softmax(1)), logits.logsumexp(1)))
        True
    """
    most, place = likelihood.max(1, keepdim=True)
    return (logits.gather(1, place).float() - most.float().log()).squeeze(1)


class TableAdam:
    """Adam (Kingma and Ba 2014, arXiv 1412.6980) for one tensor, which it changes in place.

    Args:
        weight: Tensor to learn.
        lr: Learning rate.
    """

    def __init__(self, weight: torch.Tensor, lr: float) -> None:
        self.weight, self.lr, self.steps = weight, lr, 0
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)

    def step(self, gradient: torch.Tensor, factor: float) -> None:
        """Take a step.

        Args:
            gradient: Gradient of the loss for the tensor.
            factor: Factor on the learning rate in this step.
        """
        self.steps += 1
        keep, keep_square = _BETAS
        self.mean.lerp_(gradient, 1.0 - keep)
        self.square.mul_(keep_square).addcmul_(gradient, gradient, value=1.0 - keep_square)
        size = (self.square / (1.0 - keep_square**self.steps)).sqrt_().add_(1e-12)
        self.weight.addcdiv_(self.mean, size, value=-self.lr * factor / (1.0 - keep**self.steps))


@dataclass(frozen=True)
class _Table:
    """Counts on a device, as shares of all bigrams: frequent contexts in order, and all others as the last row.

    Attributes:
        contexts: Ids of the frequent contexts, (contexts,).
        share: Share of the bigrams that begin with each context, (contexts + 1,).
        places: Row of each bigram, (bigrams,), in increasing order.
        followers: Id of the second token of each bigram, (bigrams,).
        likely: Discounted share of each bigram, (bigrams,).
        starts: Place of the first bigram of each row, (contexts + 2,).
        left: Share that was subtracted from each row, (contexts + 1,).
        unigram: Probability of each token where nothing is known, (vocabulary,), over which `left` is spread.
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
        # Kneser-Ney: where nothing is known, a token is as likely as the number of contexts that it follows, and not as
        # the number of times that it occurs.
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
    """Return the mean loss over the table, its gradient for the embeddings before their norm, and that for the head.

    The gradient of a logit is p - q: the model's probability minus the smoothed share of the bigram.
    """
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
        # The (contexts, vocabulary) matrix stays in the type of the products and is changed in place, because reading
        # and writing it takes most of the time.
        error = likelihood.mul_(table.share[first:last, None].to(dtype))
        error.addr_(left.to(dtype), table.unigram.to(dtype), alpha=-1)
        error[places, followers] -= likely.to(dtype)
        slope[first:last] = error @ products
        wide += error.T @ chunk
    along = (slope * features).mean(1, keepdim=True)
    return float(loss), (slope - features * along) * scale, wide
