"""The check for leaks of labels: a pipeline must learn nothing from labels that were shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavra.checks.base import CheckResult
from lavra.evaluation.labels.permuted import LIMIT, Pipeline, permuted_label_test
from lavra.evaluation.labels.predictions import Predictions


def check_permuted_labels(
    rows: Sequence[Any], table: Predictions, pipeline: Pipeline, *, metric: str | None = None, seed: int = 0
) -> CheckResult:
    """Shuffle the labels once within the folds, run the whole pipeline, and compare its score on a fold with chance.

    Args:
        rows: Texts or rows, in the order of the table.
        table: Targets and folds of the rows; the predictions in it are not looked at.
        pipeline: The whole pipeline, with everything that reads labels.
        metric: Name of the metric; None for the accuracy of classes, and its like for other kinds.
        seed: Seed of the shuffles.

    Raises:
        InputError: If no row has a fold, or the pipeline returns no predictions.
    """
    found = permuted_label_test(rows, table, pipeline, metric=metric, seed=seed)
    chance = f"{found.chance.value:.3f} [{found.chance.low:.3f}, {found.chance.high:.3f}]"
    return CheckResult(
        "permuted_labels",
        "fail" if found.leaks else "ok",
        f"{found.metric} {found.score:.3f} on shuffled labels; chance gives {chance}, the majority "
        f"{found.majority.value:.3f} (p = {found.p_value:.3g}, alarm at {LIMIT:g})",
        "a score that chance gives too: nothing can be learned from shuffled labels",
        "something that reads labels sees the rows on which it is measured: fit every stage inside each fold only "
        "(selection, thresholds, pseudo-labels, early stopping), and keep copies of a row in its fold"
        if found.leaks
        else "",
    )
