"""The beginning of a run that is made of several models: its request is checked, and its folder is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_toml
from lavra.core.disk.run_folder import RunFolder, check_new_run, remove_run
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.reports.run_page import page_at_the_end
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.table import FROM_SCRATCH, choose_task, kind_from_scratch, tasks
from lavra.training.devices import choose_device
from lavra.training.distributed import join_ranks
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.datasets.text import is_prepared, request_of
from lavra.workflows.labels.fold_rows import FOLDER
from lavra.workflows.models.open import refuse_absent
from lavra.workflows.training.first_look import located, look_first
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.train import inputs_of, new_folder

ToTheEnd = Callable[[TrainConfig, RunFolder, float | None], None]
"""Takes a run to its end, from wherever it stands: the request, the folder, and when the command started."""


def started(config: TrainConfig, began: float | None, to_the_end: ToTheEnd) -> RunFolder:
    """Make the folder of a run of several models, and take it to its end.

    Args:
        config: The request.
        began: When the command started (`time.monotonic`), from which a time budget counts; now if None.
        to_the_end: What trains the models.

    Returns:
        The folder of the finished run.

    Raises:
        InputError: If the request is wrong.
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
        to_the_end(config, run, began)
    return run


def continued(run: RunFolder, to_the_end: ToTheEnd) -> RunFolder:
    """Continue a run of several models to its end; those that are finished are not trained again.

    Args:
        run: The folder of the run.
        to_the_end: What trains the models.
    """
    if run.status == "finished":
        log(f"{run.path} is finished already")
        return run
    with run.training(), page_at_the_end(run):
        to_the_end(request_of(run), run, None)
    return run


def flag_of(config: TrainConfig) -> str:
    """Return the flag that makes a run one of several models."""
    if config.folds:
        return "--folds"
    return "--labels.pseudo" if config.labels.pseudo else "--labels.adapt" if config.labels.adapt else "--seeds"


def _refuse(config: TrainConfig) -> None:
    flag = flag_of(config)
    if is_prepared(config.data):
        raise InputError(f"{flag} needs the rows themselves, not a prepared folder", "give the files of the rows")
    if join_ranks(choose_device(config.machine.device)).world_size > 1:
        raise InputError(f"{flag} is for one process", "start lavra train without torchrun")


def task_of_rows(config: TrainConfig) -> LabelledTextTask:
    """Return the task of a request, whose rows must have one label or set of labels for each text.

    Raises:
        InputError: If it is another task.
    """
    described = describe_data(config)
    flag = flag_of(config)
    kind = kind_from_scratch(config) if config.base is None else "encoder"
    task, _ = choose_task(config.task, config.objective.name, kind, described, config.base or FROM_SCRATCH)
    if not isinstance(task, LabelledTextTask):
        able = ", ".join(one.name for one in tasks() if isinstance(one, LabelledTextTask))
        raise InputError(
            f"{flag} is for rows with one label or set of labels for each text, and this is {task.name}",
            f"leave {flag} out, or give rows for one of these tasks: {able}",
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
