"""Filters of next-token logits, known as logits processors. Each maps (rows, vocabulary) logits to the same shape.

A token is ruled out by the logit -inf. Every filter leaves at least one token, and at its neutral value it returns the
logits unchanged.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

RULED_OUT = float("-inf")
"""Logit of a token that cannot be chosen: its probability is zero."""

SHORTLIST = 512
"""Number of tokens that `keep_top_p` sorts at first. The nucleus of a well-trained model seldom holds more."""


def penalize_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return logits that discourage tokens that occurred already (CTRL, arXiv 1909.05858, section 4.1).

    Positive logits of these tokens are divided by the penalty and negative ones are multiplied by it.

    Args:
        logits: Next-token logits, (rows, vocabulary).
        seen: Non-zero for each token that occurs in the prompt or the new text, (rows, vocabulary), bool or counts.
        penalty: Factor above 0. Values above 1 discourage repetition; 1 is neutral.

    Examples:
        >>> penalize_repetition(torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[1, 1, 0]]), penalty=2.0).tolist()
        [[1.0, -4.0, 2.0]]
    """
    if penalty == 1.0:
        return logits
    return torch.where(seen.bool(), torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_frequency(logits: torch.Tensor, counts: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return logits from which the penalty is subtracted once for each time that a token occurs in the new text.

    Args:
        logits: Next-token logits, (rows, vocabulary).
        counts: Occurrences of each token in the new text, (rows, vocabulary).
        penalty: Amount to subtract for each occurrence. Values above 0 discourage repetition; 0 is neutral.

    Examples:
        >>> penalize_frequency(torch.zeros(1, 3), torch.tensor([[0, 1, 2]]), penalty=0.5).tolist()
        [[0.0, -0.5, -1.0]]
    """
    return logits if penalty == 0.0 else logits - penalty * counts.to(logits.dtype)


def forbid_repeated_ngrams(logits: torch.Tensor, history: torch.Tensor, size: int) -> torch.Tensor:
    """Return logits that rule out every token that would repeat an n-gram of the history.

    A row in which every token would be ruled out is left unchanged.

    Args:
        logits: Next-token logits, (rows, vocabulary).
        history: Ids of the prompt and the new text, (rows, length), aligned at the right with -1 on the left of
            shorter rows.
        size: Length of the n-grams in tokens. With 1 no token occurs twice; 0 is neutral.

    Examples:
        After 1 2 1, the token 2 would repeat the bigram 1 2:

        >>> forbid_repeated_ngrams(torch.zeros(1, 4), torch.tensor([[1, 2, 1]]), size=2).tolist()
        [[0.0, 0.0, -inf, 0.0]]
    """
    length = history.shape[1]
    if size == 0 or length < size:
        return logits
    runs = history.unfold(1, size, 1)
    decoder_start_ids = history[:, length - size + 1 :]
    repeated = (runs[..., :-1] == decoder_start_ids[:, None]).all(-1) & (runs >= 0).all(-1)
    row, run = repeated.nonzero(as_tuple=True)
    filtered = logits.clone()
    filtered[row, runs[row, run, -1]] = RULED_OUT
    stuck = (filtered == RULED_OUT).all(-1, keepdim=True)
    return torch.where(stuck, logits, filtered)


def scale(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the logits divided by the temperature.

    Args:
        logits: Next-token logits, (rows, vocabulary).
        temperature: Number above 0. Below 1 the distribution is sharper and above 1 flatter; 1 is neutral.

    Examples:
        >>> scale(torch.tensor([[1.0, 2.0]]), temperature=0.5).tolist()
        [[2.0, 4.0]]
    """
    return logits if temperature == 1.0 else logits / temperature


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Return logits that keep the k likeliest tokens, and any that tie with the k-th (top-k sampling).

    Args:
        logits: Next-token logits, (rows, vocabulary).
        k: Number of tokens to keep; 0 is neutral.

    Examples:
        >>> keep_top_k(torch.tensor([[1.0, 3.0, 2.0]]), k=2).tolist()
        [[-inf, 3.0, 2.0]]
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, -1).values[..., -1:]
    return logits.masked_fill(logits < smallest, RULED_OUT)


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Return logits that keep the nucleus: the fewest likeliest tokens with a total probability of at least p.

    This is top-p or nucleus sampling (Holtzman et al. 2019, arXiv 1904.09751). Of equally likely tokens the one with
    the smaller id comes first.

    Args:
        logits: Next-token logits, (rows, vocabulary).
        p: Probability that the kept tokens must reach, above 0 and at most 1; 1 is neutral.

    Examples:
        >>> keep_top_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), p=0.7).exp() > 0
        tensor([[ True,  True, False]])
    """
    # Sorting a large vocabulary is slow, so only a shortlist is sorted, and a longer one where it holds less than p.
    if p >= 1.0:
        return logits
    normaliser = logits.logsumexp(-1, keepdim=True)
    size, vocabulary = min(SHORTLIST, logits.shape[-1]), logits.shape[-1]
    likeliest = logits.topk(size, -1).values
    while size < vocabulary and ((likeliest - normaliser).exp().sum(-1) < p).any():
        size = min(8 * size, vocabulary)
        likeliest = logits.topk(size, -1).values
    count = (_before((likeliest - normaliser).exp()) < p).sum(-1, keepdim=True)
    smallest = likeliest.gather(-1, count - 1)
    larger, equal = logits > smallest, logits == smallest
    room = count - larger.sum(-1, keepdim=True)
    return logits.masked_fill(~(larger | (equal & (equal.cumsum(-1) <= room))), RULED_OUT)


def keep_min_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Return logits that keep the tokens with at least p times the probability of the likeliest token.

    This is min-p sampling (Nguyen et al. 2024, arXiv 2407.01082).

    Args:
        logits: Next-token logits, (rows, vocabulary).
        p: Share of the largest probability, from 0 to 1; 0 is neutral.

    Examples:
        >>> keep_min_p(torch.tensor([[0.5, 0.25, 0.25]]).log(), p=0.6).exp() > 0
        tensor([[ True, False, False]])
    """
    if p == 0.0:
        return logits
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), RULED_OUT)


def keep_typical(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Return logits that keep the tokens whose surprise is nearest to the entropy of the distribution.

    This is locally typical sampling (Meister et al. 2022, arXiv 2202.00666). The surprise of a token is its negative
    log-probability; the fewest tokens with a total probability of at least p are kept.

    Args:
        logits: Next-token logits, (rows, vocabulary).
        p: Probability that the kept tokens must reach, above 0 and at most 1; 1 is neutral.

    Examples:
        The entropy is 0.90 nats. The second token, with a surprise of 1.20 nats, is nearer to it than the first, with
        0.51 nats:

        >>> keep_typical(torch.tensor([[0.6, 0.3, 0.1]]).log(), p=0.2).exp() > 0
        tensor([[False,  True, False]])
    """
    if p >= 1.0:
        return logits
    log = logits.log_softmax(-1)
    probabilities = log.exp()
    entropy = -(probabilities * log.masked_fill(probabilities == 0, 0)).sum(-1, keepdim=True)
    order = torch.argsort((entropy + log).abs(), dim=-1, stable=True)
    dropped = _before(probabilities.gather(-1, order)) >= p
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), RULED_OUT)


def _before(probabilities: torch.Tensor) -> torch.Tensor:
    """Return, for each place, the sum of the probabilities on its left."""
    return pad(probabilities.cumsum(-1)[..., :-1], (1, 0))


def mask_padding(logits: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
    """Return logits that rule out the ids of a padded vocabulary that stand for no token.

    Args:
        logits: Next-token logits, (rows, padded vocabulary).
        vocabulary_size: Number of tokens. The ids from this one on are padding.

    Examples:
        >>> mask_padding(torch.zeros(1, 4), vocabulary_size=3).tolist()
        [[0.0, 0.0, 0.0, -inf]]
    """
    if vocabulary_size >= logits.shape[-1]:
        return logits
    return torch.cat((logits[..., :vocabulary_size], torch.full_like(logits[..., vocabulary_size:], RULED_OUT)), -1)
