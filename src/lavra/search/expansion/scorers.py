"""Scores of generated queries by their relevance to the chunk, by which the index keeps the best (Doc2Query--)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from lavra.generation.scoring import Score, score
from lavra.search.expansion.prompts import QueryPrompt
from lavra.search.expansion.query_generator import fingerprint_of, weights_fingerprint
from lavra.search.experiment.sentence_models import open_sentence_model, pair_scores
from lavra.vectors.protocols import TextEncoder

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.protocols import CachedModel


class QueryScorer(Protocol):
    """The protocol of scorers: how well a query fits a chunk. Higher is better, and only the order matters."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that a score depends on besides chunk and query."""
        ...

    def score(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score queries against their chunks.

        Args:
            chunks: The chunks.
            queries: The queries of each chunk.

        Returns:
            The score of each query of each chunk.
        """
        ...


class LikelihoodScorer:
    """Scores a query by its mean log-probability per token after the chunk, in nats, under the query generator.

    Args:
        model: The query generator, which must support a key-value cache.
        tokenizer: The tokenizer of the model.
        prompt: The prompt with which the model was trained.
    """

    def __init__(self, model: CachedModel, tokenizer: Tokenizer, prompt: QueryPrompt) -> None:
        self._model, self._tokenizer, self._prompt = model, tokenizer, prompt
        self.fingerprint = fingerprint_of(
            "likelihood", weights_fingerprint(model), tokenizer.fingerprint, prompt.before, prompt.after
        )

    def score(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the mean log-probability of each query; an empty query gets the lowest float."""
        rest = iter(one.value("token") for one in self._scores(chunks, queries))
        return [[next(rest) if query else _LOWEST for query in some] for some in queries]

    def loss(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> float:
        """Return the mean negative log-probability in nats of the tokens of all queries.

        Args:
            chunks: The chunks.
            queries: The queries of each chunk.
        """
        scores = self._scores(chunks, queries)
        return -sum(one.log_probability for one in scores) / max(1, sum(one.tokens for one in scores))

    def _scores(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> list[Score]:
        prompts = [self._prompt.fill(chunk) for chunk in chunks]
        options = [[self._prompt.joined([query]) for query in some if query] for some in queries]
        with torch.no_grad():
            found = score(self._model, self._tokenizer, prompts, options, long_prompt="window")
        return [one for scores in found for one in scores]


class CrossEncoderScorer:
    """Scores a query by a cross-encoder of sentence-transformers, which reads query and chunk together.

    This is the scorer of Doc2Query-- (Gospodinov et al., ECIR 2023), with models such as ELECTRA.

    Args:
        folder: The folder of the model; nothing is downloaded.
        device: Device that holds the model and computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._model: Any = open_sentence_model(folder, "cross-encoder", device)
        self.fingerprint = fingerprint_of("cross-encoder", weights_fingerprint(self._model.model))

    def score(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the score that the cross-encoder gives to each query with its chunk."""
        pairs = [(query, chunk) for chunk, some in zip(chunks, queries, strict=True) for query in some]
        return _dealt(pair_scores(self._model, pairs), queries)


class EmbeddingScorer:
    """Scores a query by the similarity of its vector and that of the chunk.

    Args:
        encoder: Makes the vectors.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.fingerprint = fingerprint_of("bi-encoder", encoder.fingerprint)

    def score(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the similarity of each query and its chunk: the cosine, for an encoder of vectors of length 1."""
        flat = [query for some in queries for query in some]
        owners = np.repeat(np.arange(len(chunks)), [len(some) for some in queries])
        if not flat:
            return [[] for _ in chunks]
        passages = self._encoder.encode(chunks, kind="passage")[owners]
        values = (self._encoder.encode(flat, kind="query") * passages).sum(1)
        return _dealt(values.tolist(), queries)


_LOWEST = float(np.finfo(np.float32).min)
"""The score of an empty query: the lowest float32, below every other score."""


def _dealt(values: list[float], queries: Sequence[Sequence[str]]) -> list[list[float]]:
    rest = iter(values)
    return [[next(rest) for _ in some] for some in queries]
