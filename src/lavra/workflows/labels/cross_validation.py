"""A cross-validated run: a model for each fold and seed, out-of-fold predictions, and a final model on all rows.

Everything that is fitted (tokenizer, warm start, early stopping, class frequencies, temperature, thresholds) is fitted
without the fold that is measured. What is finished lies on disk, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.data.examples.rows import read_examples
from lavra.data.readers.rows import BadRows
from lavra.evaluation.labels.comparison import compare
from lavra.evaluation.labels.metrics import METRICS
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import write_predictions
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR
from lavra.tasks.table import find_task
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.labels.adaptation import adapted, refuse_adaptation
from lavra.workflows.labels.choice import better, sentence
from lavra.workflows.labels.final_model import OutcomeOfFolds, train_final
from lavra.workflows.labels.fold_rows import FOLDER, FoldRows, write_rows, written_rows
from lavra.workflows.labels.labeller import columns_of
from lavra.workflows.labels.linear_run import is_linear_request
from lavra.workflows.labels.out_of_fold import (
    LABEL_ERRORS,
    OUT_OF_FOLD,
    beside_file,
    out_of_fold,
    write_label_errors,
)
from lavra.workflows.labels.permuted_stages import check_stages
from lavra.workflows.labels.pseudo_labels import judged
from lavra.workflows.labels.quality_forecast import FILE as CURVE
from lavra.workflows.labels.quality_forecast import forecast_rows, write_curve
from lavra.workflows.labels.several_models import continued, started, task_of_rows
from lavra.workflows.labels.trials import (
    Trial,
    linear_beside,
    mean_passes,
    predicted,
    told_of,
    train_fold,
)
from lavra.workflows.training.autoconfig import given_seconds

_LEAST_SHARE = 20.0
"""Seconds of a fold's share of the budget below which a warning is printed."""


def cross_validate(config: TrainConfig, began: float | None = None) -> RunFolder:
    """Train a model for each fold and seed, then one on all rows, and measure it by the out-of-fold predictions.

    Args:
        config: The request, with `folds`.
        began: When the command started (`time.monotonic`), from which a time budget counts; now if None.

    Returns:
        The folder of the finished run. `result.json` holds the out-of-fold quality with intervals, and under
        `cross_validation` what each fold did.

    Raises:
        InputError: If the request is wrong, the task has no single label for a text, or the rows cannot be divided.
        CheckFailed: If a check found the set-up of the first fold wrong.
        Interrupted: After a signal to stop; `resume_folds` continues.
        Diverged: If the loss of a fold stays not finite.
    """
    _refuse(config)
    refuse_adaptation(config)
    return started(config, began, _take_to_the_end)


def resume_folds(run: RunFolder) -> RunFolder:
    """Continue a cross-validated run to its end; finished folds are not trained again.

    Args:
        run: The folder of the run.

    Raises:
        InputError: If another process trains the run, or its rows were never written and are gone.
        Interrupted: After a signal to stop.
    """
    return continued(run, _take_to_the_end)


def _refuse(config: TrainConfig) -> None:
    """Refuse what cannot be cross-validated."""
    if config.text.validation:
        raise InputError(
            "--folds validates on the training rows, and --validation names others",
            "leave --validation out, and measure the finished model: lavra evaluate RUN --data FILES",
        )
    if config.early_stopping is not None:
        raise InputError(
            "--early-stopping would end each fold by the rows that measure it",
            "leave it out, and give the length as --epochs or --budget",
        )


def _take_to_the_end(config: TrainConfig, run: RunFolder, began: float | None) -> None:
    begun = time.monotonic()
    rows = written_rows(run.path) or write_rows(config, run.path, task_of_rows(config))
    trials = [
        Trial(fold, config.seed + number, run.path / FOLDER / f"{fold}-{config.seed + number}")
        for number in range(config.seeds)
        for fold in range(rows.count)
    ]
    told = check_stages(config, rows, run)
    _forecast(config, run, rows)
    config = adapted(config, rows, run, begun if began is None else began)
    spent = 0.0 if began is None else time.monotonic() - began
    is_linear = is_linear_request(replace(config, data=rows.every(), task=rows.task))
    share = None if is_linear and config.budget is None else _plan(config, rows, trials, spent)
    for number, trial in enumerate(trials):
        log(f"fold {trial.fold + 1} of {rows.count}, seed {trial.seed} (model {number + 1} of {len(trials)})")
        train_fold(config, rows, trial, share, run)
    measured = _measured(config, run, rows, trials, is_linear=is_linear)
    measured = replace(measured, told={**measured.told, **told})
    if measured.linear:  # better than the networks, so that no network has to learn all rows
        config = replace(config, base=None, model=ModelConfig(preset=LINEAR))
    train_final(config, run, rows, measured, begun if began is None else began)


def _forecast(config: TrainConfig, run: RunFolder, rows: FoldRows) -> None:
    """Draw the learning curve of linear models on all rows, and keep it in the folder of the run."""
    if (run.path / CURVE).exists():
        return
    task = find_task(rows.task)
    assert isinstance(task, LabelledTextTask)
    reader = task.reader(describe_data(replace(config, data=rows.every())))
    found = columns_of(read_examples(rows.every(), BadRows(), columns=reader))
    write_curve(run.path, forecast_rows(config, task, reader, found, len(found)), len(found))


def _plan(config: TrainConfig, rows: FoldRows, trials: list[Trial], spent: float) -> float | None:
    """Say what will be trained, and return the seconds that each model gets; None where the length is given otherwise.

    A model on all rows takes longer than that of a fold, by as much as it has more rows. With pseudo-labels there is a
    teacher and a student of each.
    """
    budget = given_seconds(config)
    larger = rows.rows / float(np.mean(rows.trained))
    each = 2 if config.labels.pseudo else 1
    what = f"{counted(rows.count, 'fold')} of {counted(rows.rows, 'row')}"
    what += f" with {counted(config.seeds, 'seed')}" if config.seeds > 1 else ""
    what += ", each with a teacher and a student" if config.labels.pseudo else ""
    if budget is None:
        log(f"{what}, and then one model on all rows, which has {larger:.2f} times as many steps as one of a fold")
        return None
    share = (budget - spent) / (each * (len(trials) + larger))
    log(
        f"{what}: {counted(each * len(trials), 'model')} of about {show_duration(share)} each, and then one on all "
        f"rows in about {show_duration(each * larger * share)}"
    )
    if share < _LEAST_SHARE:
        log(f"warning: {show_duration(share)} is little for a model; a longer --budget or fewer --folds help")
    return max(1.0, share)


def _measured(
    config: TrainConfig, run: RunFolder, rows: FoldRows, trials: list[Trial], *, is_linear: bool
) -> OutcomeOfFolds:
    """Choose among the models of the folds, write their tables, and return what follows from them."""
    network, told, others = predicted(trials), dict[str, Any](), dict[str, Predictions]()
    delivered, kept = trials, False
    if config.labels.pseudo:
        students = [trial.student for trial in trials]
        verdict, network, others = judged(config, rows, network, predicted(students))
        told["pseudo_labels"] = {**verdict.to_json(), "copies": rows.copies}
        delivered, kept = (students, True) if verdict.kept else (trials, False)
    linear = None if is_linear else linear_beside(trials)
    table, beside, compared = _chosen(config, network, linear)
    beside = {**beside, **others}
    write_predictions(run.path / OUT_OF_FOLD, table)
    for name, other in beside.items():
        write_predictions(run.path / beside_file(name), other)
    told |= compared | {"folds": rows.count, "seeds": config.seeds, "rows": rows.rows, "notes": list(rows.notes)}
    told |= {"models": [told_of(trial, network) for trial in delivered]}
    told |= {"label_errors": write_label_errors(run.path / LABEL_ERRORS, table, rows.texts)}
    found = out_of_fold(table, beside, seed=config.seed)
    better_linear = table is linear
    return OutcomeOfFolds(
        found, mean_passes(delivered), better_linear, kept and not better_linear, mean_passes(trials), told
    )


def _chosen(
    config: TrainConfig, network: Predictions, linear: Predictions | None
) -> tuple[Predictions, dict[str, Predictions], dict[str, Any]]:
    """Return the predictions of the model that is delivered, those of the other by its name, and how they compare."""
    if linear is None:
        return network, {}, {}
    same = network.select(np.isin(network.seeds, linear.seeds))
    compared = compare(linear, same, METRICS[network.kind][0], seed=config.seed)
    chosen = better(compared, config.head.prefer)
    log(sentence(compared, chosen, config.head.prefer))
    told = {"against_linear": compared.to_json()}
    return (linear, {"network": same}, told) if chosen == LINEAR else (network, {"linear": linear}, told)
