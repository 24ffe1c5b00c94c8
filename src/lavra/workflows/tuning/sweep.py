"""`lavra tune`: a sweep from its request, or from its folder, to the recipe of its best point.

Every trial is an ordinary run below the sweep's folder. What is done is a line of `trials.jsonl`; a sweep that was
killed reads them, and goes on with the first trial that has none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from lavra.config.tuning import TuneConfig
from lavra.core.configuration import from_toml, to_toml
from lavra.core.disk.run_folder import RunFolder, check_new_run, remove_run
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.reports.sweeps.page import sweep_page_at_the_end
from lavra.training.devices import choose_device
from lavra.training.distributed import join_ranks
from lavra.workflows.labels.linear_run import is_linear_request
from lavra.workflows.models.open import refuse_absent
from lavra.workflows.training.first_look import located, look_first
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.train import inputs_of, new_folder
from lavra.workflows.tuning.design import Design, make_design
from lavra.workflows.tuning.points import require_optuna
from lavra.workflows.tuning.pool import devices_of
from lavra.workflows.tuning.running import Clock, RunningSweep
from lavra.workflows.tuning.space import parse_fields
from lavra.workflows.tuning.trial import Advance, advance


def tune(
    config: TuneConfig,
    began: float | None = None,
    *,
    train: Advance = advance,
    clock: Clock = time.monotonic,
) -> SweepFolder:
    """Train the points of a space, and write the recipe of the best one.

    Args:
        config: The request.
        began: When the command started (`time.monotonic`), from which the budget counts; now if None.
        train: What trains a trial.
        clock: The function that returns the time in seconds.

    Returns:
        The folder of the finished sweep.

    Raises:
        InputError: If the request is wrong, the data cannot be used, or the folder may not be written.
        CheckFailed: If a check found the set-up wrong, before the first trial.
        Interrupted: After a signal to stop; `resume_sweep` continues.
        LavraError: If no trial could be trained; the message says why the first one could not.
    """
    began = clock() if began is None else began
    fields = parse_fields(config.sweep)
    _refuse(config)
    config = cast(TuneConfig, located(config))
    folder = _new_folder(config)
    check_new_run(folder, force=config.force, inputs=inputs_of(config))
    look_first(config.training)
    run = RunFolder.create(folder, to_toml(config), force=config.force, inputs=inputs_of(config))
    sweep = SweepFolder(run)
    with _no_ghost(sweep), run.training(), sweep_page_at_the_end(sweep):
        record_machine(run.path, choose_device(config.machine.device), 0)
        parallel = devices_of(config.parallel, config.machine.device)
        design = make_design(config, fields, sweep, began, parallel=parallel)
        sweep.write_design(design.to_json())
        RunningSweep(config, design, sweep, train, clock, began).run()
    return sweep


def resume_sweep(run: RunFolder, *, train: Advance = advance, clock: Clock = time.monotonic) -> SweepFolder:
    """Continue a sweep to its end; what is trained is not trained again.

    Args:
        run: The folder of the sweep.
        train: What trains a trial.
        clock: The function that returns the time in seconds.

    Raises:
        InputError: If another process goes on with the sweep.
        Interrupted: After a signal to stop.
        LavraError: If no trial could be trained.
    """
    sweep = SweepFolder(run)
    if run.result:
        log(f"{run.path} is finished already")
        return sweep
    config = sweep_request(run)
    if not sweep.design:
        log(f"{run.path} was stopped before its first trial; it starts from the beginning")
        return tune(replace(config, out=str(run.path), force=True), train=train, clock=clock)
    with run.training(), sweep_page_at_the_end(sweep):
        design = Design.from_json(sweep.design, str(run.path / "sweep.json"))
        RunningSweep(config, design, sweep, train, clock, clock()).run()
    return sweep


def best_run(sweep: SweepFolder) -> Path:
    """Return the folder of the run of the best point of a finished sweep.

    Args:
        sweep: Its folder.
    """
    seeds = sweep.design["seeds"]
    return sweep.trial(sweep.run.result["sweep"]["best"]["point"], seeds[0], len(seeds))


def sweep_request(run: RunFolder) -> TuneConfig:
    """Return the request of a sweep, from its `config.toml`.

    Args:
        run: The folder of the sweep.
    """
    return from_toml(TuneConfig, run.config, str(run.path / "config.toml"))


def _refuse(config: TuneConfig) -> None:
    if not config.data:
        raise InputError("no data were given", "lavra tune FOLDER --budget 1h")
    if config.seeds < 1 or (config.trials is not None and config.trials < 2):
        raise InputError(
            f"--{'seeds' if config.seeds < 1 else 'trials'} is too small", "give one seed and two trials at least"
        )
    if config.parallel is not None and config.parallel < 1:
        raise InputError(f"--parallel {config.parallel} is no number of trials", "give 1 or more")
    refuse_impossible(replace(config.training, budget=config.budget))
    if config.base is not None:
        refuse_absent(config.base)
    if config.method == "tpe":
        require_optuna()
    if join_ranks(choose_device(config.machine.device)).world_size > 1:
        raise InputError("lavra tune is for one process", "leave torchrun out; --parallel uses several GPUs")
    if is_linear_request(config.training):
        raise InputError(
            "a linear model would be trained, which has nothing to tune", "name a model to fine-tune: --from MODEL"
        )


def _new_folder(config: TuneConfig) -> Path:
    """Return the folder of a new sweep: the one that is named, or the first free one below `runs/`."""
    if config.out is not None:
        return Path(config.out)
    found = new_folder(config.training)
    return found.with_name(f"tune-{found.name}") if not found.with_name(f"tune-{found.name}").exists() else _free(found)


def _free(found: Path) -> Path:
    number = 2
    while (folder := found.with_name(f"tune-{found.name}-{number}")).exists():
        number += 1
    return folder


@contextmanager
def _no_ghost(sweep: SweepFolder) -> Iterator[None]:
    """Remove the sweep when the block raises an error about the request before its design was written."""
    try:
        yield
    except (InputError, ImportError):
        if not sweep.design:
            remove_run(sweep.path)
        raise
