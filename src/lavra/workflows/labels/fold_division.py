"""How labelled rows are divided: into folds, or once into training and validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.examples.label_split import validation_rows
from lavra.data.folds import ALWAYS_TRAINING, Folds, make_folds
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.text.near_duplicates import near_duplicates
from lavra.workflows.labels.table_rows import TableRows


def divided_once(config: TrainConfig, rows: TableRows) -> Folds:
    """Return the division of rows into fold 0, which is validated, and rows that are always trained on.

    Args:
        config: The request, whose files of validation data are taken where there are any, else a share of the rows.
        rows: The rows.
    """
    inside = np.array(rows.validation)
    if not inside.any():
        chosen = validation_rows(rows.rows, config.text.validation_share)
        inside = np.isin(np.arange(len(rows.fields)), sorted(chosen))
    if inside.all():
        raise InputError("all rows with a label are validation data", "give training rows too")
    return Folds(np.where(inside, 0, ALWAYS_TRAINING), 1, np.arange(len(inside)))


def divided(config: TrainConfig, task: LabelledTextTask, facts: Mapping[str, Any], rows: TableRows) -> Folds:
    """Return the folds of rows: those of their column `fold`, by time, or stratified.

    Args:
        config: The request, with `folds`.
        task: The task.
        facts: What the task knows of the rows.
        rows: The rows.

    Raises:
        InputError: If the rows cannot be divided as asked.
    """
    assert config.folds is not None
    labels, texts, times = rows.labels, rows.texts, rows.times
    given = [row.get("fold") for row in labels]
    if times is None and any(one is not None for one in given):
        return _given_folds(given, config.folds, texts)
    targets, groups = task.targets(facts, labels), [row.get("group") for row in labels]
    strata: Any = targets
    if task.kind == "values":
        strata = targets[:, 0]
    elif task.kind != "labels":
        strata = [facts["classes"][place] for place in targets.argmax(axis=1).tolist()]
    return make_folds(
        strata,
        config.folds,
        values=task.kind == "values",
        texts=texts,
        groups=groups if any(group is not None for group in groups) else None,
        times=times,
        seed=config.seed,
    )


def _given_folds(given: Sequence[Any], count: int, texts: Sequence[str]) -> Folds:
    """Return the folds of the column `fold`; rows without one are trained on in every fold."""
    names = sorted({str(one) for one in given if one is not None}, key=lambda name: (len(name), name))
    if len(names) != count:
        raise InputError(
            f"the column 'fold' holds {counted(len(names), 'fold')}, and --folds says {count}",
            f"give --folds {len(names)}, or rename the column",
        )
    place = {name: number for number, name in enumerate(names)}
    fold = np.array([ALWAYS_TRAINING if one is None else place[str(one)] for one in given], dtype=np.int64)
    split = {row for pair in near_duplicates(texts) for row in _apart(pair.first, pair.second, fold)}
    notes = ["the folds are those of the column 'fold'"]
    if split:
        notes.append(
            f"{counted(len(split), 'row')} are nearly the same as a row of another fold: the measured quality may be "
            "too good"
        )
    return Folds(fold, count, np.arange(len(fold)), notes=tuple(notes))


def _apart(first: int, second: int, fold: NDArray[np.int64]) -> tuple[int, ...]:
    return () if fold[first] == fold[second] else (first, second)
