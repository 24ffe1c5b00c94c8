"""The decoding loop, one token at a time for every row: greedy decoding, sampling, and contrastive search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation.reader import Reader
from lavra.generation.rows import Continuation
from lavra.generation.scores import Scores, draw, reshape
from lavra.models.protocols import CachedModel

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.generation.constraints import Constraint


class Decoding:
    """Rows that are decoded together, greedily or by sampling.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        rows: Continuations to decode. Finished ones leave the attribute `rows`, and others join with `admit`.
        options: Options of generation.
        constraint: Constraint on the texts; None allows any text.
    """

    def __init__(
        self,
        model: CachedModel,
        tokenizer: Tokenizer,
        rows: Sequence[Continuation],
        options: GenerateOptions,
        constraint: Constraint | None = None,
    ) -> None:
        self.rows = [row for row in rows if row.reason is None]
        self._model, self._options = model, options
        self._ends = frozenset(tokenizer.end_ids)
        self._reader = Reader(model)
        self._scores = Scores(tokenizer, options, constraint)

    def admit(self, rows: Sequence[Continuation]) -> None:
        """Add rows, which are decoded together with those that are not finished.

        Args:
            rows: Continuations to decode; finished ones are ignored.
        """
        self.rows += [row for row in rows if row.reason is None]

    @torch.no_grad()
    def advance(self) -> list[str]:
        """Make one token for every row, remove the finished rows, and return the text that became certain in each."""
        tokens = self._choose().tolist()
        pieces = [
            row.take(token, self._ends, self._options.max_new_tokens)
            for row, token in zip(self.rows, tokens, strict=True)
        ]
        growing = [number for number, row in enumerate(self.rows) if row.reason is None]
        if len(growing) < len(self.rows):
            self.rows = [self.rows[number] for number in growing]
            self._keep(growing)
        return pieces

    @property
    def _left(self) -> int:
        """Largest number of tokens by which a row may still grow."""
        return max(self._options.max_new_tokens - row.made for row in self.rows)

    def _choose(self) -> torch.Tensor:
        """Return the id of the next token of each row, (rows,): the likeliest one, or one drawn at random."""
        logits = self._model.head(self._reader.next_features(self.rows, self._left))
        if self._options.greedy:
            return self._scores.greedy(logits, self.rows)
        logits = reshape(self._scores.apply(logits, self.rows), self._options)
        draws = torch.tensor([row.draws[row.made] for row in self.rows], dtype=logits.dtype, device=logits.device)
        return draw(logits, draws)

    def _keep(self, rows: list[int]) -> None:
        self._reader.select(rows)


class ContrastiveDecoding(Decoding):
    """Rows that are decoded together by contrastive search (Su et al. 2022, arXiv 2202.06417, equation 5).

    Of the `top_k` likeliest tokens, the one with the largest value of
    `(1 - alpha) * probability - alpha * (largest cosine similarity of its hidden state to those of all tokens before)`
    is taken. The hidden states are those after the last norm, of the tokens that the model still sees, and the
    probabilities are those after the penalties. The arguments are those of `Decoding`.

    Raises:
        InputError: If the context of the model is shorter than two tokens.
    """

    def __init__(
        self,
        model: CachedModel,
        tokenizer: Tokenizer,
        rows: Sequence[Continuation],
        options: GenerateOptions,
        constraint: Constraint | None = None,
    ) -> None:
        super().__init__(model, tokenizer, rows, options, constraint)
        self._alpha = options.contrastive or 0.0
        self._last: torch.Tensor | None = None  # (rows, width) features of the last tokens; None: read all anew
        self._directions = torch.empty(0)  # (rows, length, width) features of the tokens seen, scaled to length one
        self._real = torch.empty(0, dtype=torch.bool)  # (rows, length): no padding
        if model.context < 2:
            raise InputError("contrastive search needs a context of two tokens or more", "use another strategy")

    def admit(self, rows: Sequence[Continuation]) -> None:
        """Add rows. All rows are read again at the next step, because the cache does not hold the last tokens.

        Args:
            rows: Continuations to decode; finished ones are ignored.
        """
        super().admit(rows)
        self._last = None

    def _choose(self) -> torch.Tensor:
        last = self._begin() if self._last is None or self._reader.full else self._last
        scores = self._scores.apply(self._model.head(last), self.rows)
        count = min(self._options.top_k, scores.shape[-1])
        probabilities, candidates = scores.softmax(-1).topk(count, -1)
        # Every candidate of every row is read as a row of its own, so that one step gives the hidden states of all of
        # them; the cache then keeps only the rows of the candidates that are taken.
        rows = torch.arange(len(self.rows), device=scores.device)
        self._reader.select(rows.repeat_interleave(count))
        features = self._reader.append(candidates.flatten()[:, None])[:, -1].unflatten(0, (-1, count))
        directions = torch.nn.functional.normalize(features.double(), dim=-1)
        similarity = directions @ self._directions.transpose(1, 2)
        similarity = similarity.masked_fill(~self._real[:, None], float("-inf")).amax(-1)
        merit = (1 - self._alpha) * probabilities - self._alpha * similarity
        best = merit.masked_fill(probabilities == 0, float("-inf")).argmax(-1)
        self._reader.select(rows * count + best)
        self._last = features[rows, best]
        self._directions = torch.cat((self._directions, directions[rows, best][:, None]), 1)
        self._real = torch.nn.functional.pad(self._real, (0, 1), value=True)
        return candidates[rows, best]

    def _begin(self) -> torch.Tensor:
        """Read the windows of all rows, and return the features of their last tokens, (rows, width)."""
        features = self._reader.read(self.rows, self._left + 1)
        lengths = torch.tensor([len(row.window) for row in self.rows], device=features.device)
        self._real = torch.arange(features.shape[1], device=features.device) >= features.shape[1] - lengths[:, None]
        self._directions = torch.nn.functional.normalize(features.double(), dim=-1)
        if self._reader.full:
            return self._shorten()
        return features[:, -1]

    def _shorten(self) -> torch.Tensor:
        """Shorten windows that fill the context to their last half, because the cache needs room for a candidate."""
        for row in self.rows:
            if len(row.window) == self._model.context:
                row.begin = len(row.ids) - max(1, self._model.context // 2)
        return self._begin()

    def _keep(self, rows: list[int]) -> None:
        super()._keep(rows)
        kept = torch.tensor(rows, dtype=torch.long, device=self._directions.device)
        self._directions, self._real = self._directions[kept], self._real[kept]
        self._last = None if self._last is None else self._last[kept]
