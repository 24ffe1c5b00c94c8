"""Ranking the first results of a search anew, by a model that reads the query and a passage together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lavra.search.experiment.sentence_models import open_sentence_model, pair_scores
from lavra.search.ranking import Ranking

if TYPE_CHECKING:
    import torch


class Reranker(Protocol):
    """Scores passages for a query.

    Attributes:
        name: The model, in words.
    """

    name: str

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return the score of each passage; higher is better, and only the order matters."""
        ...


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers.

    Args:
        folder: The folder of the model; nothing is downloaded.
        device: Device that holds the model and computes.

    Attributes:
        name: The folder.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.name = str(folder)
        self._model = open_sentence_model(folder, "cross-encoder", device)

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return what the cross-encoder gives to each pair of query and passage."""
        return pair_scores(self._model, [(query, passage) for passage in passages])


def reranked(ranking: Ranking, scores: Sequence[float]) -> Ranking:
    """Put the first results in the order of their new scores; the others stay behind them in their order.

    Args:
        ranking: The results of a search.
        scores: The new score of each of the first results; equal ones keep their order.

    Returns:
        The results with their new scores; those of the others are below all of them, one less for each.

    Examples:
        >>> found = reranked(Ranking(np.array([7, 8, 9]), np.zeros(3, dtype=np.float32)), [0.1, 0.9])
        >>> found.numbers.tolist(), [round(float(score), 1) for score in found.scores]
        ([8, 7, 9], [0.9, 0.1, -0.9])
    """
    new = np.array(scores, dtype=np.float32)
    order = np.argsort(-new, kind="stable")
    rest = ranking.numbers[len(new) :]
    below = (new.min() if len(new) else np.float32(0)) - np.arange(1, len(rest) + 1, dtype=np.float32)
    return Ranking(np.concatenate([ranking.numbers[order], rest]), np.concatenate([new[order], below]))
