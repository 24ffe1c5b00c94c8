"""A model that was trained here on pairs of texts, as what ranks search results anew."""

from __future__ import annotations

from collections.abc import Sequence

from lavra.core.errors import InputError
from lavra.core.progress import quiet
from lavra.generation.classifying import Classification
from lavra.workflows.classify import labeller_at
from lavra.workflows.labels.labeller import Labeller
from lavra.workflows.labels.predict import predict_texts

RELEVANT = ("relevant", "1", "true", "yes", "sim", "positive", "entailment")
"""Names of the class of pairs that belong together, the first that a model has is taken."""


class PairReranker:
    """A model of pairs, classification or regression: the pair is the query and the passage.

    The score is the number that a regression predicts, or the probability of the class of relevant pairs; where all
    classes are numbers, as grades are, it is the expected number.

    Args:
        location: A run or a model folder.
        device: Device that computes: auto, cpu, cuda or mps.

    Attributes:
        name: The location.

    Raises:
        InputError: If the model reads no pairs, or none of its classes says that a pair belongs together.
    """

    def __init__(self, location: str, device: str = "auto") -> None:
        self.name = location
        self._labeller: Labeller = labeller_at(location, device)
        if not getattr(self._labeller.reader, "second", ""):
            raise InputError(
                f"{location} reads single texts, and a reranker reads pairs",
                "train one on rows with text1, text2 and a label or a score, or give a cross-encoder",
            )
        self._weights = _weights(location, self._labeller)
        self._told = False

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return the score of each passage for the query."""
        with quiet(self._told):  # what did not fit is said of the first query, and not of each of some thousand
            found = predict_texts(self._labeller, [(query, passage) for passage in passages])
        self._told = True
        return [_score(one, self._weights) for one in found]


def _weights(location: str, labeller: Labeller) -> dict[str, float] | None:
    """Return the value of each class; None for a regression, whose number counts."""
    if getattr(labeller.task, "kind", "") == "values":
        return None
    classes = [str(name) for name in labeller.facts["classes"]]
    chosen = next((name for wanted in RELEVANT for name in classes if name.lower() == wanted), None)
    numbers = [_number(name) for name in classes]
    if len(classes) > 2 and None not in numbers:
        return {name: float(number or 0) for name, number in zip(classes, numbers, strict=True)}
    if chosen is None:
        raise InputError(
            f"none of the classes of {location} says that a pair belongs together ({', '.join(classes)})",
            f"call that class {RELEVANT[0]} in the training rows, or train on a score",
        )
    return {chosen: 1.0}


def _score(predicted: Classification, weights: dict[str, float] | None) -> float:
    if weights is None:
        return float(predicted.label)
    return sum(weights.get(name, 0.0) * share for name, share in predicted.probabilities.items())


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
