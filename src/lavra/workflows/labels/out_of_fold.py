"""What out-of-fold predictions give: the quality of a model, its temperature, its thresholds, and doubtful labels.

Whatever is fitted to the table is measured on rows that did not choose it: each fold with a setting that was fitted to
other folds. A setting that does not help there is not taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import write_atomically
from lavra.core.disk.json_lines import one_line
from lavra.core.units import counted
from lavra.evaluation.labels.baselines import majority_out_of_fold
from lavra.evaluation.labels.calibration import fit_calibration
from lavra.evaluation.labels.joining import mean_over_seeds
from lavra.evaluation.labels.label_errors import LabelErrors, label_errors, one_label
from lavra.evaluation.labels.metrics import scores
from lavra.evaluation.labels.nested import Fit, Gain, calibrating, cross_fitted, nested_gain, thresholding
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.thresholds import fit_thresholds
from lavra.tasks.base import Measured
from lavra.tasks.label_predictions import scores_table

OUT_OF_FOLD = "out_of_fold.parquet"
"""Name of the table of out-of-fold predictions in the folder of a cross-validated run."""
BESIDE_MODELS = ("linear", "network", "teacher", "student")
"""Names of models that may stand beside the delivered one: the linear one, the network, and without or with
pseudo-labels."""
LABEL_ERRORS = "label_errors.jsonl"
"""Name of the file of rows whose label is doubtful in the folder of a cross-validated run."""

_FEWEST = 20
"""Rows with a label below which nothing is fitted to out-of-fold predictions."""


@dataclass(frozen=True)
class OutOfFold:
    """What follows from a table of out-of-fold predictions.

    Attributes:
        measured: The quality of a model, with intervals, beside the majority of the other folds. Probabilities and
            decisions are those with the settings, each row by a setting that was fitted to other folds.
        settings: The facts that the final model gets: `temperature` of classes, `thresholds` of labels; none where they
            do not help on rows that did not choose them.
    """

    measured: Measured
    settings: Mapping[str, Any] = field(default_factory=dict)


def beside_file(name: str) -> str:
    """Return the name of the table of a model that stands beside the delivered one, of `BESIDE_MODELS`."""
    return f"out_of_fold_{name}.parquet"


@dataclass(frozen=True)
class Settled:
    """Predictions with what is fitted to them: a temperature, or thresholds.

    Attributes:
        shown: The predictions, each with a setting that was fitted to other folds.
        decisions: What is decided, in the form of `Predictions.decisions`; None for what the predictions say.
        settings: The facts that the final model gets, see `OutOfFold`.
        gains: What each setting brings, as plain values.
        lines: The same in words, for the settings that are taken.
    """

    shown: Predictions
    decisions: NDArray[Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    gains: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def settled(table: Predictions, *, seed: int = 0) -> Settled:
    """Fit what may be fitted to out-of-fold predictions; it is taken where it helps on rows that did not choose it.

    Args:
        table: The predictions of all folds and seeds, as the models gave them.
        seed: Seed of the division for what is fitted.
    """
    if int(table.known.sum()) < _FEWEST:
        return Settled(table)
    if table.kind == "classes":
        gain = _gain(table, calibrating, "log_loss", seed)
        temperature, used = fit_calibration(table).temperature, gain.comparison.gain > 0
        gains = {"calibration": {"temperature": temperature, "used": used, **gain.to_json()}}
        if not used:
            return Settled(table, gains=gains)
        shown = cross_fitted([table], calibrating, seed=seed)[0]
        line = f"temperature {temperature:.2f}: {_told(gain)}"
        return Settled(shown, None, {"temperature": temperature}, gains, (line,))
    if table.kind == "labels":
        gain = _gain(table, thresholding(), "macro_f1", seed)
        thresholds, used = fit_thresholds(table), gain.comparison.gain > 0
        gains = {"thresholds": {**thresholds.to_json(), "used": used, **gain.to_json()}}
        if not used:
            return Settled(table, gains=gains)
        decisions = cross_fitted([table], thresholding(), seed=seed)[1]
        line = f"a threshold for each label: {_told(gain)}"
        return Settled(table, decisions, {"thresholds": thresholds.values.tolist()}, gains, (line,))
    return Settled(table)


def out_of_fold(table: Predictions, beside: Mapping[str, Predictions] | None = None, *, seed: int = 0) -> OutOfFold:
    """Return what follows from out-of-fold predictions.

    Args:
        table: The predictions of all folds and seeds, as the models gave them.
        beside: Those of other models on the same rows by their names, as the models gave them; None for none.
        seed: Seed of the intervals, and of the division for what is fitted.

    Raises:
        InputError: If no row has a label.
    """
    found = settled(table, seed=seed)
    columns = {"model": scores(found.shown, found.decisions, seed=seed)}
    columns |= {name: scores(other, seed=seed) for name, other in (beside or {}).items()}
    columns["majority"] = scores(majority_out_of_fold(table), seed=seed)
    figures = columns["model"].to_json() | {"measured_on": "out-of-fold predictions"}
    figures["baseline_scores"] = {name: one.to_json() for name, one in columns.items() if name != "model"}
    lines = list(found.lines)
    if len(np.unique(table.seeds)) > 1:
        together = scores(mean_over_seeds(table), seed=seed)
        figures["mean_of_seeds"] = together.to_json()
        columns["seeds"] = together
        lines.append("seeds: the mean of the models of all seeds")
    what = f"{_rows(table)} texts, each by a model that never saw it"
    text = "\n".join([scores_table(columns, table.kind, _rows(table), what.split(" ", 1)[1]), *lines])
    return OutOfFold(Measured({**figures, **found.gains}, text), found.settings)


def _gain(table: Predictions, fit: Fit, metric: str, seed: int) -> Gain:
    return nested_gain([table], fit, metric, seed=seed)


def _rows(table: Predictions) -> int:
    return len({name for name, known in zip(table.ids, table.known.tolist(), strict=True) if known})


def _told(gain: Gain) -> str:
    """Return what a setting brings, in words."""
    comparison = gain.comparison
    low, high = comparison.difference.low, comparison.difference.high
    ends = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    name = comparison.metric.replace("_", " ")
    return (
        f"{name} {comparison.first.value:.3f} becomes {comparison.second.value:.3f} on rows that did not choose it "
        f"({comparison.difference.value:+.3f}{ends})"
    )


def write_label_errors(path: Path, table: Predictions, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Write the rows whose label is doubtful, the most suspicious first, as JSON lines with their texts.

    These are the rows for which another class is likelier, and those that confident learning flags: where the model is
    as sure of another class as it usually is of that class.

    Args:
        path: The file.
        table: Out-of-fold predictions of classes or labels.
        texts: The texts of each row, by its id.

    Returns:
        `flagged`, the number of rows so flagged, `listed`, `examined`, and `confused`, the pairs of label and
        suggestion that are most frequent; nothing for predictions of numbers, whose file is not written.
    """
    if table.kind == "values" or not table.known.any():
        return {}
    means = mean_over_seeds(table)
    parts = [means] if table.kind != "labels" else [one_label(means, name) for name in means.classes]
    lines: list[dict[str, Any]] = []
    confused: list[tuple[str, str, int]] = []
    for part in parts:
        found = label_errors(part)
        confused += found.confused()
        doubtful = found.flagged | (part.known & (part.decisions() != np.nan_to_num(part.targets).argmax(axis=1)))
        lines += [_doubt(part, found, row, texts) for row in found.order.tolist() if doubtful[row]]
    lines.sort(key=lambda line: line["probability"])
    write_atomically(path, "".join(one_line(line) + "\n" for line in lines))
    confused.sort(key=lambda pair: -pair[2])
    return {
        "flagged": sum(line["flagged"] for line in lines),
        "listed": len(lines),
        "examined": int(means.known.sum()),
        "confused": [{"label": one, "suggested": two, "rows": rows} for one, two, rows in confused[:10]],
    }


def _doubt(table: Predictions, found: LabelErrors, row: int, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    name, flagged = table.ids[row], bool(found.flagged[row])
    suggested = int(found.suggested[row] if flagged else table.probabilities[row].argmax())
    return {
        "id": name,
        "texts": list(texts.get(name, [])),
        "label": table.classes[int(table.targets[row].argmax())],
        "probability": float(found.self_confidence[row]),
        "suggested": table.classes[suggested],
        "probability_of_suggested": float(table.probabilities[row, suggested]),
        "flagged": flagged,
    }


def doubts_sentence(found: Mapping[str, Any]) -> str:
    """Return in words how many labels are doubtful; empty where none is."""
    if not found.get("listed"):
        return ""
    return (
        f"{counted(found['listed'], 'label')} of {found['examined']:,} rows {'is' if found['listed'] == 1 else 'are'} "
        f"doubtful, {found['flagged']:,} of them probably wrong: {LABEL_ERRORS}"
    )
