"""A cross-validated run: a model for each fold and seed, out-of-fold predictions, and a final model on all rows.

Everything that is fitted (tokenizer, warm start, early stopping, class frequencies, temperature, thresholds) is fitted
without the fold that is measured. What is finished lies on disk, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.configuration import to_toml
from lavra.core.disk.run_folder import RunFolder, check_new_run, is_run, remove_run
from lavra.core.errors import InputError, Interrupted
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.evaluation.labels.comparison import compare
from lavra.evaluation.labels.joining import joined
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import read_predictions, write_predictions
from lavra.reports.run_page import page_at_the_end
from lavra.tasks.base import Measured
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import PREDICTIONS, LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, linear_predictions, read_baseline
from lavra.tasks.opening import open_dataset
from lavra.tasks.table import FROM_SCRATCH, choose_task, find_task, kind_from_scratch, tasks
from lavra.training.batches import DistributedInfo
from lavra.training.devices import choose_device
from lavra.training.distributed import join_ranks
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.datasets.text import data_folder, is_prepared, request_of
from lavra.workflows.labels.choice import better, sentence
from lavra.workflows.labels.fold_rows import FOLDER, FoldRows, write_rows, written_rows
from lavra.workflows.labels.linear_run import is_linear_request, train_linear
from lavra.workflows.labels.out_of_fold import (
    LABEL_ERRORS,
    OUT_OF_FOLD,
    OutOfFold,
    beside_file,
    doubts_sentence,
    out_of_fold,
    write_label_errors,
)
from lavra.workflows.models.open import refuse_absent
from lavra.workflows.training.autoconfig import given_seconds
from lavra.workflows.training.first_look import located, look_first
from lavra.workflows.training.job import TrainingJob
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.resume import go_on, resume
from lavra.workflows.training.train import inputs_of, new_folder, prepared_job, train

_LEAST_SHARE = 20.0
"""Seconds of a fold's share of the budget below which a warning is printed."""


@dataclass(frozen=True)
class _Trial:
    """One fold with one seed.

    Attributes:
        fold: Number of the fold.
        seed: Seed of the run.
        run: The folder of its run.
    """

    fold: int
    seed: int
    run: Path


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
    began = time.monotonic() if began is None else began
    refuse_impossible(config)
    if not config.data:
        raise InputError("no rows were given", "lavra train reviews.csv --folds 5")
    if config.base is not None:
        refuse_absent(config.base)
    config = located(config)
    _refuse(config)
    folder = new_folder(config)
    check_new_run(folder, force=config.force, inputs=inputs_of(config))
    look_first(config)
    run = RunFolder.create(folder, to_toml(config), force=config.force, inputs=inputs_of(config))
    with _no_ghost(run), run.training(), page_at_the_end(run):
        record_machine(run.path, choose_device(config.machine.device), 0)
        _take_to_the_end(config, run, began)
    return run


def resume_folds(run: RunFolder) -> RunFolder:
    """Continue a cross-validated run to its end; finished folds are not trained again.

    Args:
        run: The folder of the run.

    Raises:
        InputError: If another process trains the run, or its rows were never written and are gone.
        Interrupted: After a signal to stop.
    """
    if run.status == "finished":
        log(f"{run.path} is finished already")
        return run
    with run.training(), page_at_the_end(run):
        _take_to_the_end(request_of(run), run, None)
    return run


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
    if is_prepared(config.data):
        raise InputError("--folds needs the rows themselves, not a prepared folder", "give the files of the rows")
    if join_ranks(choose_device(config.machine.device)).world_size > 1:
        raise InputError("--folds is for one process", "start lavra train without torchrun")


def _task_of(config: TrainConfig) -> LabelledTextTask:
    described = describe_data(config)
    kind = kind_from_scratch(config) if config.base is None else "encoder"
    task, _ = choose_task(config.task, config.objective.name, kind, described, config.base or FROM_SCRATCH)
    if not isinstance(task, LabelledTextTask):
        able = ", ".join(one.name for one in tasks() if isinstance(one, LabelledTextTask))
        raise InputError(
            f"--folds is for rows with one label or set of labels for each text, and this is {task.name}",
            f"leave --folds out, or give rows for one of these tasks: {able}",
        )
    return task


@contextmanager
def _no_ghost(run: RunFolder) -> Iterator[None]:
    """Remove the run when the block raises an error about the request before the first fold has a plan."""
    try:
        yield
    except (InputError, ImportError):
        if not any((run.path / FOLDER).glob("*/plan.json")):
            remove_run(run.path)
        raise


def _take_to_the_end(config: TrainConfig, run: RunFolder, began: float | None) -> None:
    begun = time.monotonic()
    rows = written_rows(run.path) or write_rows(config, run.path, _task_of(config))
    trials = [
        _Trial(fold, config.seed + number, run.path / FOLDER / f"{fold}-{config.seed + number}")
        for number in range(config.seeds)
        for fold in range(rows.count)
    ]
    spent = 0.0 if began is None else time.monotonic() - began
    is_linear = is_linear_request(replace(config, data=rows.every(), task=rows.task))
    share = None if is_linear and config.budget is None else _plan(config, rows, trials, spent)
    for number, trial in enumerate(trials):
        _train_fold(config, rows, trial, share, run, f"{number + 1} of {len(trials)}")
    network = _joined(trials)
    linear = None if is_linear else _linear_beside(trials)
    table, beside, told = _chosen(config, network, linear)
    write_predictions(run.path / OUT_OF_FOLD, table)
    for name, other in beside.items():
        write_predictions(run.path / beside_file(name), other)
    found = out_of_fold(table, beside, seed=config.seed)
    doubts = write_label_errors(run.path / LABEL_ERRORS, table, rows.texts)
    told |= {"folds": rows.count, "seeds": config.seeds, "rows": rows.rows, "notes": list(rows.notes)}
    told |= {"models": [_told(trial, network) for trial in trials], "label_errors": doubts}
    if table is linear:  # better than the networks, so that no network has to learn all rows
        config = replace(config, base=None, model=ModelConfig(preset=LINEAR))
    _final(config, run, rows, trials, found, told | {"began": begun if began is None else began})


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


def _plan(config: TrainConfig, rows: FoldRows, trials: list[_Trial], spent: float) -> float | None:
    """Say what will be trained, and return the seconds that each fold gets; None where the length is given otherwise.

    A model on all rows takes longer than that of a fold, by as much as it has more rows.
    """
    budget = given_seconds(config)
    larger = rows.rows / float(np.mean(rows.trained))
    what = f"{counted(rows.count, 'fold')} of {counted(rows.rows, 'row')}"
    what += f" with {counted(config.seeds, 'seed')}" if config.seeds > 1 else ""
    if budget is None:
        log(f"{what}, and then one model on all rows, which has {larger:.2f} times as many steps as one of a fold")
        return None
    share = (budget - spent) / (len(trials) + larger)
    log(
        f"{what}: {counted(len(trials), 'model')} of about {show_duration(share)} each, and then one on all rows in "
        f"about {show_duration(larger * share)}"
    )
    if share < _LEAST_SHARE:
        log(f"warning: {show_duration(share)} is little for a model; a longer --budget or fewer --folds help")
    return max(1.0, share)


def _train_fold(
    config: TrainConfig, rows: FoldRows, trial: _Trial, share: float | None, run: RunFolder, place: str
) -> None:
    """Train and measure the model of a fold, or take it to its end; nothing is done where it is finished."""
    found = RunFolder(trial.run)
    if is_run(trial.run) and found.status == "finished":
        return
    log(f"fold {trial.fold + 1} of {rows.count}, seed {trial.seed} (model {place})")
    try:
        if is_run(trial.run) and found.plan:
            resume(trial.run)
        else:
            asked = fold_request(config, rows, trial.fold, trial.seed, str(trial.run), share)
            train(asked, known=rows.known)
    except Interrupted as stop:
        raise Interrupted(
            stop.message, f"continue with: lavra resume {run.path}", signal_number=stop.exit_code - 128
        ) from stop
    shutil.rmtree(found.checkpoints, ignore_errors=True)  # many, and of no use once the model is written
    found.checkpoints.mkdir(exist_ok=True)


def fold_request(
    config: TrainConfig, rows: FoldRows, fold: int, seed: int, out: str, share: float | None
) -> TrainConfig:
    """Return the request of the run of one fold, which is an ordinary one.

    Args:
        config: The request of the cross-validated run.
        rows: Its rows.
        fold: Number of the fold.
        seed: Seed of the run.
        out: The folder of the run.
        share: Seconds of the run; None where its length is given otherwise.
    """
    return replace(
        config,
        data=rows.training(fold),
        task=rows.task,
        text=replace(config.text, validation=rows.validation(fold), encoding=None),
        out=out,
        force=True,
        seed=seed,
        folds=None,
        seeds=1,
        fold_by=None,
        deliver="last",
        budget=share,
        check=config.check and fold == 0 and seed == config.seed,  # the set-up of the others is the same
        track=(),
    )


def _joined(trials: list[_Trial]) -> Predictions:
    return joined([_of_trial(read_predictions(trial.run / PREDICTIONS), trial) for trial in trials])


def _of_trial(table: Predictions, trial: _Trial) -> Predictions:
    """Return the table of a fold's run with the fold and the seed of each row."""
    folds, seeds = (np.full(len(table), number) for number in (trial.fold, trial.seed))
    return replace(table, folds=folds, seeds=seeds)


def _told(trial: _Trial, table: Predictions) -> dict[str, Any]:
    """Return what is recorded of the model of a fold."""
    result = RunFolder(trial.run).result
    inside = table.select((table.folds == trial.fold) & (table.seeds == trial.seed))
    metric = {"classes": "accuracy", "labels": "micro_f1", "values": "mean_squared_error"}.get(table.kind, "accuracy")
    return {
        "fold": trial.fold,
        "seed": trial.seed,
        **({"step": result["step"]} if "step" in result else {}),
        "rows": len(inside),
        metric: metric_value(inside, metric) if inside.known.any() else None,
    }


def _passes(trials: list[_Trial]) -> float:
    """Return the mean passes of the folds' models over their rows."""
    plans = [RunFolder(trial.run).plan for trial in trials]
    return float(np.mean([plan.get("epochs", 1.0) for plan in plans]))


def _linear_beside(trials: list[_Trial]) -> Predictions | None:
    """Return what the linear models of the folds, which stand beside the networks, predict out of fold.

    They are fitted to the same rows, with the first seed alone. None where there are none.
    """
    tables = []
    for trial in trials:
        run = RunFolder(trial.run)
        found = read_baseline(trial.run / LINEAR)
        if found is None:
            return None
        if trial.seed == trials[0].seed:
            model, name, facts = found
            task, data = find_task(name), open_dataset(data_folder(request_of(run), run.path))
            assert isinstance(task, LabelledTextTask)
            assert isinstance(data, LabelledDataset)
            table = linear_predictions(model, task, facts, list(data.labelled(validation=True)))
            tables.append(_of_trial(table, trial))
    return joined(tables)


def _final(
    config: TrainConfig,
    run: RunFolder,
    rows: FoldRows,
    trials: list[_Trial],
    found: OutOfFold,
    told: dict[str, Any],
) -> None:
    """Train the model on all rows for as many passes as the folds took, and write the result of the run."""
    passes = _passes(trials)
    asked = replace(
        config,
        data=rows.every(),
        task=rows.task,
        text=replace(config.text, validation_share=0.0, encoding=None),
        budget=None,
        tokens=None,
        epochs=passes,
        steps=None,
        check=False,
    )
    began, known = told.pop("began"), {**rows.known, **found.settings}

    def measure() -> Measured:
        figures = {
            **found.measured.figures,
            "data": list(config.data),
            "budget_seconds": given_seconds(config),
            "cross_validation": {**told, "passes": passes, "seconds": round(time.monotonic() - began, 3)},
        }
        doubts = doubts_sentence(told["label_errors"])
        return Measured(figures, f"{found.measured.table}\n{doubts}".rstrip())

    if is_linear_request(asked):
        train_linear(asked, run, time.monotonic(), known=known, measure=measure)
        return
    if resumed := bool(run.plan):
        job = TrainingJob.restore(run, config=asked)
    else:
        log(f"one model on all {counted(rows.rows, 'row')}, {passes:.2f} passes as in the folds")
        job = prepared_job(asked, run, DistributedInfo(), time.monotonic(), known)
    job.measure = measure
    if resumed:
        go_on(job, run)
    else:
        job.fit()
        job.finish()
