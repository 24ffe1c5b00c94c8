"""Next-token scores as every decoding strategy sees them: after the constraint and the penalties of the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavra.config.generation import GenerateOptions
from lavra.generation import filters
from lavra.generation.rows import Row, aligned_right

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.generation.constraints import Constraint


class Scores:
    """Rules out and penalises tokens in every row.

    Args:
        tokenizer: Tokenizer of the model.
        options: Options of generation, which hold the penalties.
        constraint: Constraint on the texts; None allows any text.
    """

    def __init__(self, tokenizer: Tokenizer, options: GenerateOptions, constraint: Constraint | None = None) -> None:
        self._options, self._constraint = options, constraint
        self._vocabulary, self._end = tokenizer.vocabulary_size, tokenizer.end_of_document
        self._ends = list(tokenizer.end_ids)

    def greedy(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Return the id of the likeliest token of each row, (rows,).

        Where nothing but the end may be ruled out, the conversion of all logits to float64 is spared.

        Args:
            logits: Next-token logits of the model, (rows, padded vocabulary).
            rows: Rows that the logits belong to.
        """
        options = self._options
        if (
            self._constraint is not None
            or options.repetition_penalty != 1.0
            or options.no_repeat_ngram
            or options.frequency_penalty
        ):
            return _argmax(self.apply(logits, rows))
        return _argmax(self._delay_end(logits[:, : self._vocabulary], rows))

    def apply(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Return the scores of all tokens after the constraint and the penalties, (rows, vocabulary) float64.

        A token that is ruled out has -inf. A row in which no token is allowed may only end. The beginning-of-text token
        is not penalised, because in many vocabularies it also ends documents, and the text must be able to end.

        Args:
            logits: Next-token logits of the model, (rows, padded vocabulary).
            rows: Rows that the logits belong to.
        """
        return self.discourage(self.restrict(logits, rows), rows)

    def restrict(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Return logits that rule out padding of the vocabulary and the tokens that the constraint forbids.

        Args:
            logits: Next-token logits of the model, (rows, padded vocabulary).
            rows: Rows that the logits belong to.
        """
        logits = filters.mask_padding(logits.to(_exact(logits.device)), self._vocabulary)
        if self._constraint is None:
            return logits
        allowed = np.stack([self._constraint.allowed(tuple(row.new)) for row in rows])
        allowed[~allowed.any(1), self._end] = True
        columns = torch.from_numpy(allowed).to(logits.device)
        restricted = torch.full_like(logits, filters.RULED_OUT)
        restricted[:, : columns.shape[1]] = logits[:, : columns.shape[1]].masked_fill(~columns, filters.RULED_OUT)
        return restricted

    def discourage(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Return logits after the penalties that depend on the tokens so far: early end, repetition and frequency.

        Args:
            logits: Next-token logits or log-probabilities, (rows, vocabulary).
            rows: Rows that the logits belong to.
        """
        options = self._options
        logits = self._delay_end(logits, rows)
        if options.repetition_penalty != 1.0 or options.no_repeat_ngram:
            history = self._ids([row.text_ids for row in rows], logits.device)
            if options.repetition_penalty != 1.0:
                seen = _counts(history, logits.shape[-1])
                logits = filters.penalize_repetition(logits, seen, options.repetition_penalty)
            logits = filters.forbid_repeated_ngrams(logits, history, options.no_repeat_ngram)
        if options.frequency_penalty:
            counts = _counts(self._ids([row.new for row in rows], logits.device), logits.shape[-1])
            logits = filters.penalize_frequency(logits, counts, options.frequency_penalty)
        return logits

    def _delay_end(self, logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """Rule out the end of rows shorter than `min_new_tokens`, unless the constraint allows nothing else."""
        early = [row.made < self._options.min_new_tokens for row in rows]
        if not any(early):
            return logits
        delayed = logits.clone()
        rows_early = torch.tensor(early, device=logits.device).nonzero()
        delayed[rows_early, torch.tensor(self._ends, device=logits.device)] = filters.RULED_OUT
        if self._constraint is None:
            return delayed
        stuck = (delayed == filters.RULED_OUT).all(-1, keepdim=True)
        return torch.where(stuck, logits, delayed)

    def _ids(self, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
        return torch.tensor(aligned_right(rows), dtype=torch.long, device=device)


def reshape(logits: torch.Tensor, options: GenerateOptions) -> torch.Tensor:
    """Return scores after temperature, top-k, top-p, min-p and typical-p, in this order.

    Args:
        logits: Next-token scores, (rows, vocabulary).
        options: Options of generation.

    Examples:
        >>> reshape(torch.tensor([[1.0, 2.0]]), GenerateOptions(temperature=0.5, top_k=1, top_p=1.0)).tolist()
        [[-inf, 4.0]]
    """
    logits = filters.scale(logits, options.temperature)
    logits = filters.keep_top_k(logits, options.top_k)
    logits = filters.keep_top_p(logits, options.top_p)
    logits = filters.keep_min_p(logits, options.min_p)
    return filters.keep_typical(logits, options.typical_p)


def draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return the id drawn for each row, (rows,): the first whose cumulative probability exceeds the random number.

    This is inverse transform sampling. It takes one random number per token, so that the draws of a row do not depend
    on the other rows. A token of probability zero is never drawn.

    Args:
        logits: Next-token scores, (rows, vocabulary).
        uniform: A random number from 0 up to 1 for each row, (rows,).

    Examples:
        >>> draw(torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([0.6])).tolist()
        [1]
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[:, -1]
    below = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below[:, None], right=True)[:, 0]


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """Return the place of the largest logit of each row, (rows,); on a CPU by NumPy, which is twenty times as fast."""
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    exact = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return torch.from_numpy(exact.detach().numpy().argmax(-1))


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _counts(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the count of each id in each row, (rows, vocabulary), from (rows, length) ids; -1 is not counted."""
    counts = torch.zeros(ids.shape[0], vocabulary + 1, dtype=torch.long, device=ids.device)
    return counts.scatter_add_(1, ids.where(ids >= 0, vocabulary), torch.ones_like(ids))[:, :-1]
