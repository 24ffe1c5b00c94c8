"""Filters of next-token logits. Each maps (rows, vocabulary) to the same shape; a neutral value is the identity.

A token is ruled out by the score -inf. Every filter leaves at least one token of those that it was given.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

RULED_OUT = float("-inf")

SHORTLIST = 512
"""Tokens that `keep_top_p` sorts at first; a well-trained model's nucleus seldom holds more."""


def penalize_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative scores of tokens that occurred (CTRL, arXiv 1909.05858, section 4.1).

    Args:
        logits: (rows, vocabulary).
        seen: (rows, vocabulary) bool or counts, non-zero for tokens of the prompt and of the text.
        penalty: 1 is off; above 1 discourages repetition.
    """
    if penalty == 1.0:
        return logits
    return torch.where(seen.bool(), torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalize_frequency(logits: torch.Tensor, counts: torch.Tensor, penalty: float) -> torch.Tensor:
    """Subtract `penalty` for each time that a token occurs in the new text; `counts` is (rows, vocabulary)."""
    return logits if penalty == 0.0 else logits - penalty * counts.to(logits.dtype)


def forbid_repeated_ngrams(logits: torch.Tensor, history: torch.Tensor, size: int) -> torch.Tensor:
    """Rule out tokens that would complete a run of `size` tokens that the history holds already.

    Args:
        logits: (rows, vocabulary).
        history: (rows, length) ids aligned at the right; -1 on the left of shorter rows.
        size: length of the runs; 0 is off, 1 lets no token come twice.

    A row whose every token would be ruled out is left as it was.
    """
    length = history.shape[1]
    if size == 0 or length < size:
        return logits
    runs = history.unfold(1, size, 1)
    beginning = history[:, length - size + 1 :]
    repeated = (runs[..., :-1] == beginning[:, None]).all(-1) & (runs >= 0).all(-1)
    row, run = repeated.nonzero(as_tuple=True)
    filtered = logits.clone()
    filtered[row, runs[row, run, -1]] = RULED_OUT
    stuck = (filtered == RULED_OUT).all(-1, keepdim=True)
    return torch.where(stuck, logits, filtered)


def scale(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide by the temperature; 1 is off."""
    return logits if temperature == 1.0 else logits / temperature


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the k likeliest tokens, and those that tie with the k-th; 0 is off."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, -1).values[..., -1:]
    return logits.masked_fill(logits < smallest, RULED_OUT)


def keep_top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the fewest likeliest tokens whose probabilities sum to p or more (nucleus, arXiv 1904.09751); 1 is off.

    Of equally likely tokens the one with the smaller id comes first. Only a shortlist is sorted, and a longer one where
    it holds less than p; that is much quicker than sorting a large vocabulary.
    """
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
    """Keep tokens whose probability is at least p times that of the likeliest (arXiv 2407.01082); 0 is off."""
    if p == 0.0:
        return logits
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), RULED_OUT)


def keep_typical(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the fewest tokens of share p whose surprise is nearest to the entropy (arXiv 2202.00666); 1 is off."""
    if p >= 1.0:
        return logits
    log = logits.log_softmax(-1)
    probabilities = log.exp()
    entropy = -(probabilities * log.masked_fill(probabilities == 0, 0)).sum(-1, keepdim=True)
    order = torch.argsort((entropy + log).abs(), dim=-1, stable=True)
    dropped = _before(probabilities.gather(-1, order)) >= p
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), RULED_OUT)


def _before(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the sum of the probabilities to the left of each."""
    return pad(probabilities.cumsum(-1)[..., :-1], (1, 0))


def mask_padding(logits: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
    """Rule out the rows of a padded vocabulary, which stand for no token."""
    if vocabulary_size >= logits.shape[-1]:
        return logits
    return torch.cat((logits[..., :vocabulary_size], torch.full_like(logits[..., vocabulary_size:], RULED_OUT)), -1)
