"""A run in stages, without folds: an adapted model, a teacher, a student, measured on rows that none of them saw."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.evaluation.labels.joining import mean_over_seeds
from lavra.evaluation.labels.metrics import METRICS, metric_value, scores
from lavra.evaluation.labels.predictions import Predictions
from lavra.tasks.label_predictions import scores_table
from lavra.workflows.labels.adaptation import adapted, refuse_adaptation
from lavra.workflows.labels.fold_rows import FOLDER, FoldRows, write_rows, written_rows
from lavra.workflows.labels.permuted_stages import check_stages
from lavra.workflows.labels.pseudo_labels import judged
from lavra.workflows.labels.several_models import continued, started, task_of_rows
from lavra.workflows.labels.trials import Trial, predicted, train_fold
from lavra.workflows.training.autoconfig import given_seconds

_OWN = frozenset(("config.toml", ".lock", ".lavra.json", "events.log", "result.json", "report.html", "machines.jsonl"))
"""Names in the folder of a run that are not those of the model that it delivers."""


def train_in_stages(config: TrainConfig, began: float | None = None) -> RunFolder:
    """Train the models of a run in stages, and deliver the last one, or of a teacher and a student the better one.

    Args:
        config: The request, with a weight for rows without a label (`labels.pseudo`), a share of its budget for
            adaptation (`labels.adapt`), or several seeds, and without folds.
        began: When the command started (`time.monotonic`), from which a time budget counts; now if None.

    Returns:
        The folder of the finished run. `result.json` compares teacher and student under `pseudo_labels`.

    Raises:
        InputError: If the request is wrong, the task has no single label for a text, or no row lacks a label.
        Interrupted: After a signal to stop; `resume_stages` continues.
    """
    refuse_adaptation(config)
    return started(config, began, _take_to_the_end)


def resume_stages(run: RunFolder) -> RunFolder:
    """Continue a run in stages to its end; stages that are finished are not trained again.

    Args:
        run: The folder of the run.
    """
    return continued(run, _take_to_the_end)


def _take_to_the_end(config: TrainConfig, run: RunFolder, began: float | None) -> None:
    begun = time.monotonic() if began is None else began
    rows = written_rows(run.path) or write_rows(config, run.path, task_of_rows(config))
    checked = check_stages(config, rows, run)
    asked = adapted(config, rows, run, begun)
    seeds = [config.seed + number for number in range(config.seeds)]
    trials = [Trial(0, seed, run.path / FOLDER / f"0-{seed}") for seed in seeds]
    budget = given_seconds(config)
    models = (2 if config.labels.pseudo else 1) * len(trials)
    spent = 0.0 if began is None else time.monotonic() - began
    share = None if budget is None else max(1.0, (budget - spent) / models)
    _say(config, rows, share)
    for trial in trials:
        train_fold(asked, rows, trial, share, run)
    kept, table, told = trials, predicted(trials), checked
    if config.labels.pseudo:
        students = [trial.student for trial in trials]
        verdict, table, others = judged(config, rows, table, predicted(students))
        columns = {"model": scores(table), **{name: scores(other) for name, other in others.items()}}
        log(scores_table(columns, table.kind, len(set(table.ids)), "texts"))
        kept = students if verdict.kept else trials
        told["pseudo_labels"] = {**verdict.to_json(), "copies": rows.copies}
    if len(trials) > 1:
        told["seeds"] = _of_seeds(table, kept)
    deliver(config, run, kept[0], told, begun)


def _say(config: TrainConfig, rows: FoldRows, share: float | None) -> None:
    each = "" if share is None else f", of about {show_duration(share)} each"
    if config.seeds > 1:
        log(f"{counted(config.seeds, 'seed')} on the same {counted(rows.trained[0], 'row')}, the first is delivered")
    if config.labels.pseudo:
        log(
            f"a teacher on {counted(rows.trained[0], 'row')}, and a student that also learns from "
            f"{counted(rows.unlabelled, 'row')} without a label{each}"
        )


def _of_seeds(table: Predictions, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the first metric of each seed, and of all of them with its interval, after saying them."""
    metric = METRICS[table.kind][0]
    values = [metric_value(table.select(table.seeds == trial.seed), metric) for trial in trials]
    whole = scores(table, names=(metric,)).metrics[metric]
    together = scores(mean_over_seeds(table), names=(metric,)).metrics[metric]
    name = metric.replace("_", " ")
    log(
        f"{name} of {len(values)} seeds: {', '.join(f'{value:.3f}' for value in values)}; mean {whole.value:.3f}, and "
        f"{together.value:.3f} of their mean predictions"
    )
    return {"metric": metric, "values": values, "mean": whole.to_json(), "mean_predictions": together.to_json()}


def deliver(config: TrainConfig, run: RunFolder, kept: Trial, told: Mapping[str, Any], began: float) -> None:
    """Copy the model that is kept, with its record, into the folder of the run, and write the result of the run.

    Args:
        config: The request of the run.
        run: The folder of the run.
        kept: The trial whose model is delivered.
        told: What the result tells beside that of the trial.
        began: When the command started (`time.monotonic`).
    """
    found = RunFolder(kept.run)
    for entry in sorted(kept.run.iterdir()):
        if entry.name not in _OWN:
            _copy(entry, run.path / entry.name)
    length = {"budget_seconds": given_seconds(config), "seconds": time.monotonic() - began}
    run.write_result({**found.result, "data": list(config.data), **length, **told})


def _copy(entry: Path, place: Path) -> None:
    if entry.is_dir():
        shutil.copytree(entry, place, dirs_exist_ok=True)
    else:
        shutil.copy2(entry, place)
