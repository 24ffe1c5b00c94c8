"""The linear baseline of a labelled task: TF-IDF features with a logistic or a ridge regression, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.disk.files import read_json, write_json
from lavra.evaluation.labels.predictions import Predictions
from lavra.models.linear.files import is_linear, load_linear, save_linear
from lavra.models.linear.model import LinearModel
from lavra.tasks.label_predictions import LabelTargets, groups_of, ids_of, weights_of
from lavra.tasks.labelled_dataset import LabelledDataset

LINEAR = "linear"
"""Name of the folder of the linear baseline in a run, and of the model in `--model`."""

TASK = "task.json"
"""Name of the file with the task and its facts beside a linear model."""

STRENGTH = "strength"
"""The fact that fixes the inverse penalty of a linear model, where it is known from elsewhere; it is chosen without."""


def is_available() -> bool:
    """Return whether the library that fits linear models is installed."""
    return find_spec("sklearn") is not None


def fit_baseline(
    task: LabelTargets, facts: Mapping[str, Any], dataset: LabelledDataset, seconds: float | None, seed: int
) -> LinearModel:
    """Fit the linear model to the training rows of a data set.

    Args:
        task: The task.
        facts: What the task knows of the data.
        dataset: The data set.
        seconds: Time for the choice of its penalty; None for no limit.
        seed: Seed of its inner folds.
    """
    from lavra.models.linear.fitting import fit_linear

    rows = list(dataset.labelled())
    return fit_linear(
        texts_of(rows),
        task.targets(facts, rows),
        facts["classes"],
        task.kind,
        weights=weights_of(rows),
        class_weights="balanced" if facts["head"]["class_weights"] == "balanced" and task.kind == "classes" else None,
        groups=groups_of(rows),
        strength=facts.get(STRENGTH),
        seconds=seconds,
        seed=seed,
    )


def texts_of(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the texts of rows as linear models take them: a text each, or a pair."""
    return [row["texts"][0] if len(row["texts"]) == 1 else tuple(row["texts"]) for row in rows]


def linear_predictions(
    model: LinearModel, task: LabelTargets, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Predictions:
    """Return the table of what a linear model predicts for rows.

    Args:
        model: The model.
        task: The task.
        facts: What the task knows of the data.
        rows: The columns of the rows, with their texts.
    """
    numbers = model.predict_proba(texts_of(rows))
    targets = task.targets(facts, rows)
    return Predictions(ids_of(rows), targets, numbers, facts["classes"], task.kind, weights=weights_of(rows))


def with_temperature(facts: Mapping[str, Any], numbers: np.ndarray) -> np.ndarray:
    """Return probabilities of classes, (rows, classes), at the temperature of the facts; as they are without one."""
    temperature = facts.get("temperature", 1.0)
    if temperature == 1.0:
        return numbers
    powers = np.maximum(numbers, 1e-12) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def baseline_predictions(
    run: Path, task: LabelTargets, facts: Mapping[str, Any], dataset: LabelledDataset
) -> Predictions | None:
    """Return what the linear baseline of a run predicts for the validation rows; None for a run without one.

    Args:
        run: The folder of the run.
        task: The task.
        facts: What the task knows of the data.
        dataset: The data set.

    Raises:
        CorruptFile: If a file of the baseline is damaged.
    """
    found = read_baseline(run / LINEAR)
    return None if found is None else linear_predictions(found[0], task, facts, list(dataset.labelled(validation=True)))


def save_baseline(folder: Path, model: LinearModel, task: str, facts: Mapping[str, Any]) -> None:
    """Write a linear model with its task into a folder.

    Args:
        folder: The folder, which is made where it is missing.
        model: The model.
        task: The name of the task.
        facts: What the task knows of the data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TASK, {"task": task, "facts": dict(facts)})
    save_linear(folder, model)


def read_baseline(folder: Path) -> tuple[LinearModel, str, dict[str, Any]] | None:
    """Return the linear model in a folder, the name of its task and its facts; None where there is none.

    Raises:
        CorruptFile: If a file is damaged.
    """
    if not is_linear(folder):
        return None
    record: Any = read_json(folder / TASK)
    return load_linear(folder), record["task"], record["facts"]
