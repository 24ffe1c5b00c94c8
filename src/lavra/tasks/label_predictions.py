"""What a model with a head says of labelled texts, as the table of predictions on which everything is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from lavra.core.errors import InputError
from lavra.core.progress import Progress
from lavra.core.seeds import row_streams
from lavra.evaluation.labels.metrics import METRICS, Scores
from lavra.evaluation.labels.predictions import Kind, Predictions
from lavra.models.heads import head_of
from lavra.tasks.base import Trained


class LabelTargets(Protocol):
    """What says what is known of rows: a task with one label for each text.

    Attributes:
        kind: What the predictions are.
    """

    kind: ClassVar[Kind]

    def targets(self, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return what is known of each row, (rows, outputs), as `Predictions` takes it."""
        ...


_ROWS_AT_ONCE = 16
"""Rows of tokens that are predicted at once."""


def outputs_of(trained: Trained) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number of each validation text in its store, and the outputs of the head for it, (outputs,) in float32.

    Args:
        trained: The model and its data.
    """
    objective, found = trained.objective, trained.dataset.validation_set(trained.plan)
    source, rows = found.source, found.rows
    with Progress("predicting", rows, "rows") as progress, torch.no_grad():
        for first in range(0, rows, _ROWS_AT_ONCE):
            taken = source.rows(first, min(_ROWS_AT_ONCE, rows - first))
            batch = objective.encode(taken, row_streams(0, "validation", first=first), 1.0).to(trained.device)
            outputs = head_of(trained.model)(trained.model.features(batch), batch).float().cpu()
            yield from zip(batch.documents, outputs, strict=True)
            progress.update(first + len(taken))


def predictions_of(
    trained: Trained,
    rows: Sequence[Mapping[str, Any]],
    targets: np.ndarray,
    classes: Sequence[str],
    kind: Kind,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
) -> Predictions:
    """Return the table of predictions for the validation texts, in the order of the store.

    Args:
        trained: The model and its data.
        rows: The columns of each validation text.
        targets: What is known of each text, see `Predictions`.
        classes: Names of the outputs.
        kind: What the predictions are.
        probabilities: What makes predictions of the outputs of the head.
    """
    outputs = np.zeros((len(rows), len(classes)))
    for number, values in outputs_of(trained):
        outputs[number] = probabilities(values.double()).numpy()
    return Predictions(ids_of(rows), targets, outputs, classes, kind, weights=weights_of(rows))


@contextmanager
def placed(row: Mapping[str, Any]) -> Iterator[None]:
    """Name the place of a row in an error that its label raises in the block.

    Args:
        row: The columns of the row, with its `place` where that is known.
    """
    try:
        yield
    except InputError as error:
        place = row.get("place")
        if place is None or error.message.startswith(str(place)):
            raise
        raise InputError(f"{place}: {error.message}", error.remedy) from error


def weights_of(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the weight of each row, (rows,): its column `weight`, else 1."""
    return np.array([1.0 if row.get("weight") is None else float(row["weight"]) for row in rows])


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[Any] | None:
    """Return what each row belongs to, its column `group`, of which None is nothing; None where no row has any."""
    groups = [row.get("group") for row in rows]
    return groups if any(one is not None for one in groups) else None


def ids_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the ids of rows: those of their column `id` where all have one of their own, else their numbers.

    Examples:
        >>> ids_of([{"id": "a"}, {"id": "b"}]), ids_of([{"id": "a"}, {"id": "a"}])
        (['a', 'b'], ['0', '1'])
    """
    names = [str(row["id"]) for row in rows if row.get("id") is not None]
    return names if len(set(names)) == len(rows) else [str(number) for number in range(len(rows))]


def scores_table(columns: Mapping[str, Scores], kind: Kind, rows: int, what: str) -> str:
    """Return the metrics of a model, and of baselines on the same rows, as lines of plain text.

    Args:
        columns: The scores by the name of the model or baseline; the first is the model.
        kind: What was predicted, which decides the metrics.
        rows: Number of rows that were measured.
        what: What was measured, for the heading.

    Returns:
        A table with a line for each metric, and the intervals of the model.
    """
    width = max(len(name) for name in METRICS[kind])
    first = next(iter(columns))
    others = [name for name in columns if name != first]
    heading = " ".join([f"{'':<{width}}", f"{first:>7}", f"{'95 % interval':>16}", *(f"{name:>10}" for name in others)])
    lines = [f"measured on {rows:,} {what}", "", heading.rstrip()]
    for name in METRICS[kind]:
        estimate = columns[first].metrics.get(name)
        if estimate is None:
            continue
        low, high = estimate.low, estimate.high
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        cells = [f"{columns[other].metrics[name].value:>10.3f}" for other in others]
        lines.append(
            " ".join([f"{name.replace('_', ' '):<{width}}", f"{estimate.value:>7.3f}", f"{interval:>16}", *cells])
        )
    return "\n".join(lines)
