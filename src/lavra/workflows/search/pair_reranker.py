"""A model that was trained here on pairs of texts, as what ranks search results anew."""

from __future__ import annotations

from collections.abc import Sequence

from lavra.core.progress import quiet
from lavra.workflows.labels.pair_model import PairModel


class PairReranker:
    """Ranks by a model of pairs of texts, see `PairModel`.

    Args:
        location: A run or a model folder.
        device: Device that computes: auto, cpu, cuda or mps.

    Attributes:
        name: The location.
        model: The model.

    Raises:
        InputError: If the model reads no pairs, or none of its classes says that a pair belongs together.
    """

    def __init__(self, location: str, device: str = "auto") -> None:
        self.name, self.model = location, PairModel(location, device)
        self._told = False

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return the score of each passage for the query."""
        with quiet(self._told):  # what did not fit is said of the first query, and not of each of some thousand
            found = self.model.scores([(query, passage) for passage in passages])
        self._told = True
        return found.tolist()
