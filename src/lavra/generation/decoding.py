"""The decoding loop: rows of different lengths share one cache, and leave it when they are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from numpy.typing import NDArray

from lavra.generation import filters
from lavra.generation.options import GenerateOptions
from lavra.generation.text import TextAssembler
from lavra.models.inference import device_of

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer


class CachedModel(Protocol):
    """What generation asks of a model; `lavra.models.decoder.Decoder` answers it."""

    @property
    def context(self) -> int:
        """Longest window in tokens."""
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits for features of shape (…, width)."""
        ...

    def new_cache(self, rows: int, length: int) -> Any:
        """Return an empty cache; it has `length` (tokens stored), `capacity` and `select(rows)`."""
        ...

    def step(self, ids: torch.Tensor, cache: Any, real: torch.Tensor | None = None) -> torch.Tensor:
        """Append (rows, new) ids to the cache, padding on the left not `real`; return (rows, new, width) features."""
        ...


@dataclass(slots=True)
class Continuation:
    """One row while it grows.

    Attributes:
        ids: the beginning mark (an end-of-document token), the prompt and the new tokens.
        prompt_length: how many of `ids` were given, the mark included.
        draws: one uniform random number for each token that may be made.
        assembler: turns its new tokens into text.
        begin: first of `ids` that the model still sees; moves on when the context is full.
        pieces: the new text so far.
        reason: why it ended; None while it grows.
    """

    ids: list[int]
    prompt_length: int
    draws: NDArray[Any]
    assembler: TextAssembler
    begin: int = 0
    pieces: list[str] = field(default_factory=list)
    reason: Literal["end", "stop", "length"] | None = None

    @classmethod
    def start(
        cls, tokenizer: Tokenizer, ids: Sequence[int], draws: NDArray[Any], options: GenerateOptions
    ) -> Continuation:
        """Begin a row that continues `ids`."""
        row = cls(list(ids), len(ids), draws, TextAssembler(tokenizer, ids[1:], options.stop))
        row.reason = None if options.max_new_tokens else "length"
        return row

    @property
    def new(self) -> list[int]:
        """The new tokens."""
        return self.ids[self.prompt_length :]

    @property
    def made(self) -> int:
        """Number of new tokens."""
        return len(self.ids) - self.prompt_length

    @property
    def window(self) -> list[int]:
        """What the model sees of the row."""
        return self.ids[self.begin :]

    def take(self, token: int, end_of_document: int, longest: int) -> str:
        """Append a token, note whether it ends the row, and return the text that is certain now."""
        if token == end_of_document:
            self.reason = "end"
            piece = self.assembler.finish()
        else:
            self.ids.append(token)
            piece = self.assembler.add(token)
            if self.made == longest:
                self.reason = "length"
                piece += self.assembler.finish()
        if self.assembler.stopped:
            self.reason = "stop"
        self.pieces.append(piece)
        return piece


class Decoding:
    """Rows that are decoded together, one token at a time.

    Args:
        model: with a cache.
        tokenizer: the model's own.
        rows: what to continue; finished rows leave `rows`.
        options: how.
    """

    def __init__(
        self, model: CachedModel, tokenizer: Tokenizer, rows: Sequence[Continuation], options: GenerateOptions
    ) -> None:
        self.rows = [row for row in rows if row.reason is None]
        self._model, self._options = model, options
        self._vocabulary, self._end = tokenizer.vocabulary_size, tokenizer.end_of_document
        self._device = device_of(model)
        self._cache: Any = None

    @torch.no_grad()
    def advance(self) -> list[str]:
        """Make one token for every row; return the new text of each, and let finished rows go."""
        tokens = self._choose(self._next_logits()).tolist()
        pieces = [
            row.take(token, self._end, self._options.max_new_tokens)
            for row, token in zip(self.rows, tokens, strict=True)
        ]
        growing = [number for number, row in enumerate(self.rows) if row.reason is None]
        if len(growing) < len(self.rows):
            self.rows = [self.rows[number] for number in growing]
            self._cache.select(torch.tensor(growing, dtype=torch.long, device=self._device))
        return pieces

    def _next_logits(self) -> torch.Tensor:
        """Return (rows, vocabulary) logits of the next token of each row."""
        for row in self.rows:
            if len(row.ids) - row.begin > self._model.context:
                row.begin = len(row.ids) - max(1, self._model.context // 2)
                self._cache = None
        if self._cache is None or self._cache.length == self._cache.capacity:
            return self._read()
        last = torch.tensor([row.ids[-1:] for row in self.rows], device=self._device)
        return self._model.head(self._model.step(last, self._cache)[:, -1])

    def _read(self) -> torch.Tensor:
        """Read all windows into a new cache, padded on the left, equal ones (samples of one prompt) only once."""
        windows = [tuple(row.window) for row in self.rows]
        place = {window: number for number, window in enumerate(dict.fromkeys(windows))}
        longest = max(map(len, windows))
        left = max(self._options.max_new_tokens - row.made for row in self.rows)
        ids = _aligned_right(list(place), longest, self._device)
        self._cache = self._model.new_cache(len(place), min(self._model.context, longest + left))
        features = self._model.step(ids.clamp(min=0), self._cache, ids >= 0)[:, -1]
        if len(place) == len(windows):
            return self._model.head(features)
        rows = torch.tensor([place[window] for window in windows], device=self._device)
        self._cache.select(rows)
        return self._model.head(features)[rows]

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Return (rows,) ids, drawn from the filtered distribution or its likeliest."""
        options = self._options
        logits = filters.mask_padding(logits.to(_exact(logits.device)), self._vocabulary)
        logits = self._discourage(logits)
        if options.greedy:
            return logits.argmax(-1)
        logits = filters.scale(logits, options.temperature)
        logits = filters.keep_top_k(logits, options.top_k)
        logits = filters.keep_top_p(logits, options.top_p)
        logits = filters.keep_min_p(logits, options.min_p)
        logits = filters.keep_typical(logits, options.typical_p)
        draws = torch.tensor([row.draws[row.made] for row in self.rows], dtype=logits.dtype, device=logits.device)
        return draw(logits, draws)

    def _discourage(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply what depends on the tokens so far. The beginning mark is no part of them: a document may end."""
        options = self._options
        early = [row.made < options.min_new_tokens for row in self.rows]
        if any(early):
            logits = logits.clone()
            logits[torch.tensor(early, device=logits.device), self._end] = filters.RULED_OUT
        if options.repetition_penalty != 1.0 or options.no_repeat_ngram:
            past = [row.ids[1:] for row in self.rows]
            history = _aligned_right(past, max(map(len, past)), logits.device)
            if options.repetition_penalty != 1.0:
                seen = _counts(history, logits.shape[-1])
                logits = filters.penalize_repetition(logits, seen, options.repetition_penalty)
            logits = filters.forbid_repeated_ngrams(logits, history, options.no_repeat_ngram)
        if options.frequency_penalty:
            made = [row.new for row in self.rows]
            counts = _counts(_aligned_right(made, max(map(len, made)), logits.device), logits.shape[-1])
            logits = filters.penalize_frequency(logits, counts, options.frequency_penalty)
        return logits


def draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Return (rows,) ids: the first whose cumulative probability exceeds `uniform` (rows,), which is in [0, 1).

    Inverting the distribution function takes one random number per token, so that a row's draws do not depend on the
    rows beside it. A token of probability zero is never drawn.
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    total = cumulative[:, -1]
    below = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, below[:, None], right=True)[:, 0]


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _aligned_right(rows: Sequence[Sequence[int]], length: int, device: torch.device) -> torch.Tensor:
    """Return (rows, length) ids with -1 on the left of shorter rows."""
    return torch.tensor([[-1] * (length - len(row)) + list(row) for row in rows], dtype=torch.long, device=device)


def _counts(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return (rows, vocabulary) how often each id occurs in (rows, length) ids; -1 counts for nothing."""
    counts = torch.zeros(ids.shape[0], vocabulary + 1, dtype=torch.long, device=ids.device)
    return counts.scatter_add_(1, ids.where(ids >= 0, vocabulary), torch.ones_like(ids))[:, :-1]
