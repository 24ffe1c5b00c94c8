"""Linear ensembles of runs: the weighted mean of their predictions, with weights fitted to out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.calibration import fit_calibration
from lavra.evaluation.labels.ensembles import combine, fit_weights
from lavra.evaluation.labels.joining import aligned, mean_over_seeds
from lavra.evaluation.labels.metrics import METRICS, scores
from lavra.evaluation.labels.nested import Gain, Setting, cross_fitted, nested_gain
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.generation.classifying import Classification
from lavra.workflows.classify import classify
from lavra.workflows.labels.out_of_fold import OUT_OF_FOLD
from lavra.workflows.run import Run

Member = Run | Path | str | Predictions
"""A member of an ensemble: a cross-validated run or its folder, or a table of out-of-fold predictions or its file,
which has a weight but no model."""

_HOLDS = 0.5  # probability from which on a label holds


@dataclass(frozen=True)
class Ensemble:
    """A weighted mean of models.

    Attributes:
        members: Names of the members: their folders or files.
        weights: Weight of each member, (members,), at least 0, with the sum 1.
        metric: Name of the metric of `score` and `gain`.
        score: The metric on rows that did not choose the weights, with a 95 % interval.
        gain: By how much it is better than the best member, by the same rule; None for a single member.
        classes: Names of the classes, labels or values.
        kind: What is predicted, see `lavra.evaluation.labels.predictions.Kind`.
        runs: Folder of the run of each member; None for a table without a model.
    """

    members: tuple[str, ...]
    weights: NDArray[np.float64]
    metric: str
    score: Estimate
    gain: Gain | None
    classes: tuple[str, ...]
    kind: str
    runs: tuple[Path | None, ...]

    def predict(self, texts: Sequence[Any]) -> list[Classification]:
        """Predict the labels of texts by the weighted mean of the members; those with a weight of 0 are not asked.

        Args:
            texts: Texts, or pairs of them, as `lavra.classify` takes them.

        Raises:
            InputError: If a member with a weight has no model, or a text cannot be read.
        """
        total = np.zeros((len(texts), len(self.classes)))
        named: list[str] = []
        for member, weight, run in zip(self.members, self.weights.tolist(), self.runs, strict=True):
            if weight <= 0:
                continue
            if run is None:
                raise InputError(
                    f"{member} is a table of predictions, and has no model to predict with",
                    "make the ensemble of runs, or give texts that are in the table to its own model",
                )
            found = classify(str(run), texts)
            named = [one.text for one in found]
            total += weight * np.array([[one.probabilities[name] for name in self.classes] for one in found])
        return [
            Classification(text, self._answer(row), self._shares(row)) for text, row in zip(named, total, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the weights, the score and the gain as plain values."""
        weights = dict(zip(self.members, self.weights.tolist(), strict=True))
        gain = {} if self.gain is None else {"gain": self.gain.to_json()}
        return {"weights": weights, "metric": self.metric, "score": self.score.to_json(), **gain}

    def _shares(self, row: NDArray[np.float64]) -> dict[str, float]:
        return {name: float(share) for name, share in zip(self.classes, row, strict=True)}

    def _answer(self, row: NDArray[np.float64]) -> Any:
        if self.kind == "values":
            return float(row[0])
        if self.kind == "labels":
            return [name for name, share in zip(self.classes, row, strict=True) if share >= _HOLDS]
        return self.classes[int(row.argmax())]


def ensemble(members: Sequence[Member], *, metric: str | None = None, seed: int = 0) -> Ensemble:
    """Return the weighted mean of cross-validated runs that has the smallest loss out of fold.

    The weights are fitted to the out-of-fold predictions of the runs, which must be of the same rows, each by its id;
    the folds may differ. The models of several seeds count as one member, their mean. What the ensemble reaches is
    measured on rows that did not choose the weights: each part by weights that were fitted to the other.

    Args:
        members: Cross-validated runs (`lavra train --folds`), or tables of out-of-fold predictions.
        metric: Name of the metric to report; None for the accuracy of classes, and its like for other kinds.
        seed: Seed of the division into parts, and of the intervals.

    Raises:
        InputError: If there is no member, a run is not cross-validated, or the rows or classes differ.

    Examples:
        >>> import lavra
        >>> both = lavra.ensemble(["runs/minilm", "runs/e5"])           # doctest: +SKIP
        >>> both.weights, both.score                                    # doctest: +SKIP
        (array([0.38, 0.62]), Estimate(value=0.914, low=0.899, high=0.929))
        >>> both.predict(["A fine film."])[0].label                     # doctest: +SKIP
        'good'
    """
    if not members:
        raise InputError("an ensemble has at least one member", "give cross-validated runs: lavra train DATA --folds 5")
    names = tuple(_name(member, number) for number, member in enumerate(members))
    tables = aligned([mean_over_seeds(_table(member)) for member in members], names)
    runs = tuple(_run(member) for member in members)
    calibrated = [run is not None and "temperature" in _settings(run) for run in runs]

    def fit(given: Sequence[Predictions]) -> Setting:
        """Fit temperatures, where the models have them, and weights."""
        cooled = [
            fit_calibration(table).apply if has else _as_it_is for table, has in zip(given, calibrated, strict=True)
        ]
        weights = fit_weights([apply(table) for apply, table in zip(cooled, given, strict=True)])

        def setting(others: Sequence[Predictions]) -> tuple[Predictions, NDArray[Any]]:
            mean = combine([apply(table) for apply, table in zip(cooled, others, strict=True)], weights)
            return mean, mean.decisions()

        return setting

    metric = metric or METRICS[tables[0].kind][0]
    mean, decisions = cross_fitted(tables, fit, seed=seed)
    whole = [
        fit_calibration(table).apply(table) if has else table for table, has in zip(tables, calibrated, strict=True)
    ]
    return Ensemble(
        names,
        fit_weights(whole),
        metric,
        scores(mean, decisions, names=(metric,), seed=seed).metrics[metric],
        nested_gain(tables, fit, metric, seed=seed) if len(tables) > 1 else None,
        tuple(tables[0].classes),
        tables[0].kind,
        runs,
    )


def _as_it_is(table: Predictions) -> Predictions:
    return table


def _path(member: Member) -> Path | None:
    if isinstance(member, Predictions):
        return None
    return member.path if isinstance(member, Run) else Path(member)


def _name(member: Member, number: int) -> str:
    path = _path(member)
    return f"table {number + 1}" if path is None else str(path)


def _run(member: Member) -> Path | None:
    path = _path(member)
    return path if path is not None and path.is_dir() else None


def _table(member: Member) -> Predictions:
    if isinstance(member, Predictions):
        return member
    path = _path(member)
    assert path is not None
    file = path / OUT_OF_FOLD if path.is_dir() else path
    if not file.exists():
        raise InputError(f"{path} holds no out-of-fold predictions", "train it with folds: lavra train DATA --folds 5")
    return read_predictions(file)


def _settings(run: Path) -> dict[str, Any]:
    return Run(run).plan.get("facts") or {}
