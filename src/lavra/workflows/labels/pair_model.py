"""A model that was trained here on pairs of texts, as what says how well a passage answers a query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.generation.classifying import Classification
from lavra.vectors.fingerprints import fingerprint
from lavra.workflows.classify import labeller_at
from lavra.workflows.labels.labeller import Labeller, LinearLabeller, NetworkLabeller
from lavra.workflows.labels.predict import predict_texts

RELEVANT = ("relevant", "1", "true", "yes", "sim", "positive", "entailment")
"""Names of the class of pairs that belong together; the first that a model has is taken."""


class PairModel:
    """A model of pairs, classification or regression, for which a pair is a query and a passage.

    The score of a pair is the number that a regression predicts, or the probability of the class of relevant pairs;
    where there are more than two classes and all are numbers, as grades are, it is the expected number.

    Args:
        location: A run or a model folder.
        device: Device that computes: auto, cpu, cuda or mps.

    Attributes:
        name: The location.
        values: The value of each class, whose expected value is the score; None for a regression.

    Raises:
        InputError: If the model reads no pairs, or none of its classes says that a pair belongs together.
    """

    def __init__(self, location: str, device: str = "auto") -> None:
        self.name = location
        self._labeller: Labeller = labeller_at(location, device)
        if not getattr(self._labeller.reader, "second", ""):
            raise InputError(
                f"{location} reads single texts, and here query and passage are read as a pair",
                "train one on rows with text1, text2 and a label or a score, or give a cross-encoder",
            )
        self.values = _values(location, self._labeller)

    @property
    def fingerprint(self) -> str:
        """A hash of everything on which a score depends besides the pair."""
        labeller = self._labeller
        if isinstance(labeller, NetworkLabeller):
            tensors = labeller.opened.model.state_dict()
        else:
            assert isinstance(labeller, LinearLabeller)
            model = labeller.model
            tensors = {"weights": torch.from_numpy(model.weights), "biases": torch.from_numpy(model.biases)}
        return fingerprint({"facts": labeller.facts}, tensors.items())

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the score of each pair, (pairs,); higher is better.

        Args:
            pairs: Queries with passages.
        """
        return np.array([_score(one, self.values) for one in self._predicted(pairs)], dtype=np.float64)

    def raw_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the score of each pair before it becomes a probability, (pairs,), because that flattens differences.

        It is the logarithm of the odds of the class of relevant pairs; numbers and grades are what `scores` returns.

        Args:
            pairs: Queries with passages.
        """
        return np.array([_raw_score(one, self.values) for one in self._predicted(pairs)], dtype=np.float64)

    def _predicted(self, pairs: Sequence[tuple[str, str]]) -> list[Classification]:
        return predict_texts(self._labeller, list(pairs)) if pairs else []


def _values(location: str, labeller: Labeller) -> dict[str, float] | None:
    """Return the value of each class that counts; None for a regression."""
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


def _score(predicted: Classification, values: Mapping[str, float] | None) -> float:
    if values is None:
        return float(predicted.label)
    return sum(values.get(name, 0.0) * share for name, share in predicted.probabilities.items())


def _raw_score(predicted: Classification, values: Mapping[str, float] | None) -> float:
    if values is None or len(values) > 1:
        return _score(predicted, values)
    (relevant,) = values
    share = predicted.probabilities[relevant]
    others = math.fsum(one for name, one in predicted.probabilities.items() if name != relevant)
    tiny = float(np.finfo(np.float64).tiny)
    return math.log(max(share, tiny)) - math.log(max(others, tiny))


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
