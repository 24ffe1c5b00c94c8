"""`lavra tune`: a sweep from its request, or from its folder, to the recipe of its best point.

Every trial is an ordinary run below the sweep's folder. What is done is a line of `trials.jsonl`; a sweep that was
killed reads them, and goes on with the first trial that has none.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lavra.config.tuning import TuneConfig
from lavra.core.configuration import from_toml, to_toml
from lavra.core.disk.files import write_atomically
from lavra.core.disk.run_folder import RunFolder, check_new_run, remove_run
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.errors import NO_SPACE, CorruptFile, InputError, Interrupted, LavraError
from lavra.core.machine import is_out_of_memory
from lavra.core.progress import Progress, heard, log, quiet
from lavra.core.units import counted, show_duration
from lavra.reports.formatting import shown as shown_figure
from lavra.reports.formatting import title
from lavra.reports.sweeps.page import sweep_page_at_the_end
from lavra.reports.sweeps.record import PointRecord, SweepRecord, is_error, read_sweep
from lavra.reports.sweeps.summary import state_of
from lavra.training.devices import choose_device
from lavra.training.distributed import join_ranks
from lavra.workflows.labels.linear_run import is_linear_request
from lavra.workflows.models.open import refuse_absent
from lavra.workflows.training.first_look import located, look_first
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.machine_record import record_machine
from lavra.workflows.training.train import inputs_of, new_folder
from lavra.workflows.tuning.design import DEFAULT_BUDGET, Design, make_design, next_length
from lavra.workflows.tuning.halving import FACTOR, cost, survivors
from lavra.workflows.tuning.held_out import measure_held_out
from lavra.workflows.tuning.points import TRIALS, next_point, require_optuna
from lavra.workflows.tuning.pool import Pool, devices_of
from lavra.workflows.tuning.space import parse_fields, shown
from lavra.workflows.tuning.trial import Advance, Outcome, advance

Clock = Callable[[], float]

_RESERVE = 1.05
"""Factor on the time that the rungs to come are expected to take, which is kept for them."""


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
        _Sweep(config, design, sweep, train, clock, began).run()
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
        _Sweep(config, design, sweep, train, clock, clock()).run()
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


class _Sweep:
    """Takes a sweep from where its lines say that it is to its end.

    Args:
        config: The request.
        design: What was decided before the first trial.
        sweep: The folder.
        train: What trains a trial.
        clock: The function that returns the time in seconds.
        began: When this process began with the sweep.
    """

    def __init__(
        self, config: TuneConfig, design: Design, sweep: SweepFolder, train: Advance, clock: Clock, began: float
    ) -> None:
        self.config, self.design, self.sweep, self.train, self.clock = config, design, sweep, train, clock
        self.began, self.before = began, read_sweep(sweep).spent
        self.left_out: list[int] = []

    @property
    def spent(self) -> float:
        """Seconds that the sweep has taken, in all processes."""
        return self.before + self.clock() - self.began

    @property
    def budget(self) -> float | None:
        """Seconds that the sweep may take; None where only the length of a run was given."""
        config = self.config
        given = any(getattr(config, name) is not None for name in ("steps", "epochs", "tokens"))
        return config.budget if given or config.budget is not None else DEFAULT_BUDGET

    @property
    def points(self) -> int:
        """Number of points of the whole sweep."""
        if self.design.method != "tpe":
            return len(self.design.points)
        return TRIALS if self.config.trials is None else self.config.trials

    def run(self) -> None:
        """Train what is left, and write the outcome."""
        with Progress("tuning", self._units(), "runs") as progress:
            self.progress = progress
            progress.start_from(self._done())
            if self.design.method == "tpe":
                self._one_after_another()
            else:
                self._rung_by_rung()
        self._finish()

    # What is trained in which order.

    def _rung_by_rung(self) -> None:
        """Train all points to the first rung, the best of them to the next one, and so on."""
        alive = list(range(len(self.design.points)))
        for rung in range(len(self.design.rungs)):
            self._train(alive, rung)
            ranked = self._record().ranked(rung, by_forecast=self.config.promote == "forecast")
            if not ranked:
                self._raise_first()
            if rung + 1 < len(self.design.rungs):
                many = survivors(len(self.design.points), rung + 1)
                if self.left_out:  # of the few for which there was time no more than the best third goes on
                    many = min(many, max(1, len(ranked) // FACTOR))
                going_on = [point.number for point in ranked[:many]]
                self._say_who_goes_on(ranked, going_on, rung)
                self._forget([number for number in alive if number not in going_on])
                alive = going_on

    def _one_after_another(self) -> None:
        """Choose each point by those before it, and train it to the end; several at a time are chosen together."""
        while True:
            self._train(range(len(self.design.points)), 0)
            new = min(self.design.parallel, self.points - len(self.design.points))
            if new <= 0 or not self._has_time(0, len(self.design.points)):
                break
            for _ in range(new):
                self._add_point()
        if not self._record().ranked(0):
            self._raise_first()

    def _add_point(self) -> None:
        design, record = self.design, self._record()
        sign = 1.0 if is_error(record.measure) else -1.0
        done = [(one.values, sign * one.last.value if one.last and not one.failed else None) for one in record.points]
        point = next_point(design.fields, done, self.config.seed, trials=self.points)
        self.design = replace(
            design, points=[*design.points, point], lengths=[*design.lengths, next_length(design, point)]
        )
        self.sweep.write_design(self.design.to_json())

    def _train(self, points: Sequence[int], rung: int) -> None:
        """Train points to a rung with all of their seeds, as far as they are not there yet."""
        there = {(line["point"], line["seed"]) for line in self.sweep.lines if line.get("rung") == rung}
        failed = {line["point"] for line in self.sweep.lines if line.get("failed")}
        left = [
            (number, seed)
            for number in points
            for seed in self.design.seeds
            if number not in failed and (number, seed) not in there
        ]
        if self.design.parallel > 1:
            self._train_together(left, rung)
            return
        for number, seed in left:
            if number in failed:
                continue
            if not self._has_time(rung, number):
                self.left_out.append(number)
                continue
            try:
                with quiet():
                    found = self._advance(number, seed, rung)
                self._note(number, seed, rung, found)
            except Interrupted as stop:
                raise self._interrupted(stop) from stop
            except Exception as error:
                self._failed(number, seed, rung, error)
                failed.add(number)

    def _advance(self, number: int, seed: int, rung: int) -> Outcome:
        design = self.design
        return self.train(
            design.request(number, seed, self.sweep),
            design.rungs[rung],
            measure=self.config.measure,
            evaluated=design.evaluated,
            progress=self._watch(number, seed),
        )

    def _watch(self, number: int, seed: int) -> Callable[[float], None]:
        """Return the function that shows how far the sweep is, while a trial has a share of its run behind it."""
        rungs = [line["rung"] for line in self.sweep.lines if (line["point"], line["seed"]) == (number, seed)]
        begins = self.design.rungs[max(rungs)] if rungs else 0.0
        others, name = self._done() - begins, f"point {number + 1} of {self.points}"

        def show(share: float) -> None:
            with heard():
                self.progress.update(others + share, name)

        return show

    def _train_together(self, left: Sequence[tuple[int, int]], rung: int) -> None:
        """Train several trials at a time, each in a process of its own."""
        design = self.design
        with Pool(design.parallel, self.config.machine.device) as pool:
            for number, seed in left:
                pool.add(
                    (number, seed),
                    design.request(number, seed, self.sweep),
                    design.rungs[rung],
                    self.config.measure,
                    design.evaluated,
                    wanted=lambda number=number: self._has_time(rung, number),
                )
            for (number, seed), found in pool.results():
                if isinstance(found, Outcome):
                    self._note(number, seed, rung, found)
                elif isinstance(found, Exception):
                    self._failed(number, seed, rung, found)
                else:
                    self.left_out.append(number)
        if pool.stopped_by:
            stop = Interrupted("stopped, and everything is saved", signal_number=pool.stopped_by)
            raise self._interrupted(stop)

    def _interrupted(self, stop: Interrupted) -> Interrupted:
        return Interrupted(
            stop.message, f"continue with: lavra resume {self.sweep.path}", signal_number=stop.exit_code - 128
        )

    # What a trial brought.

    def _note(self, number: int, seed: int, rung: int, found: Outcome) -> None:
        """Write the line of a trial that has reached a rung."""
        self.sweep.append(
            {"point": number, "seed": seed, "rung": rung, **found.to_json(), "spent": round(self.spent, 3)}
        )
        self.progress.update(self._done())
        steps = f"step {found.step:,}" + (f" of {found.steps:,}" if found.step < found.steps else "")
        log(
            f"{self._name(number, seed)}: {title(found.name)} {shown_figure(found.name, found.measure)} at {steps} "
            f"({show_duration(found.seconds)})"
        )

    def _failed(self, number: int, seed: int, rung: int, error: Exception) -> None:
        """Write the line of a trial that failed, unless the sweep itself cannot go on."""
        cause = error if isinstance(error, OSError) else error.__cause__
        full = isinstance(error, LavraError) and error.message.startswith("DISK FULL")  # also of another process
        if full or (isinstance(cause, OSError) and cause.errno in NO_SPACE):
            raise error
        expected = isinstance(error, LavraError) and not isinstance(error, CorruptFile)
        if not expected and not is_out_of_memory(error):
            raise error
        reason = error.message if isinstance(error, LavraError) else "out of memory"
        self.sweep.append(
            {"point": number, "seed": seed, "rung": rung, "failed": reason, "spent": round(self.spent, 3)}
        )
        self.progress.update(self._done())
        log(f"{self._name(number, seed)}: failed, and counts as the worst: {reason}")
        self._forget([number])

    def _raise_first(self) -> None:
        """Raise the error that no trial could be trained.

        Raises:
            LavraError: Always.
        """
        lines = [line for line in self.sweep.lines if line.get("failed")]
        if not lines:
            raise LavraError("the budget was over before the first trial", "give a longer --budget, or --steps")
        first = lines[0]
        raise LavraError(
            f"none of {counted(len({line['point'] for line in lines}), 'point')} could be trained; the first, "
            f"{shown(self.design.fields, self.design.points[first['point']])}: {first['failed']}",
            "change the space of the sweep; lavra train with these values shows more",
        )

    def _say_who_goes_on(self, ranked: Sequence[PointRecord], going_on: Sequence[int], rung: int) -> None:
        place = f"1/{round(1 / self.design.rungs[rung])}"
        names = ", ".join(f"{number + 1}" for number in going_on)
        log(
            f"after {place} of the run {counted(len(going_on), 'point')} of {len(ranked)} "
            f"{'goes' if len(going_on) == 1 else 'go'} on: {names}"
        )

    def _name(self, number: int, seed: int) -> str:
        seeds = f", seed {seed}" if len(self.design.seeds) > 1 else ""
        values = shown(self.design.fields, self.design.points[number])
        return f"point {number + 1} of {self.points} ({values}{seeds})"

    def _forget(self, points: Sequence[int]) -> None:
        """Remove the checkpoints of points that do not go on; their record stays."""
        for number in points:
            for seed in self.design.seeds:
                folder = RunFolder(self.sweep.trial(number, seed, len(self.design.seeds)))
                if folder.checkpoints.is_dir():
                    shutil.rmtree(folder.checkpoints, ignore_errors=True)
                    folder.checkpoints.mkdir(exist_ok=True)

    def _record(self) -> SweepRecord:
        return read_sweep(self.sweep)

    # Time.

    def _units(self) -> float:
        """Return how many whole runs the sweep trains."""
        return cost(self.points, self.design.rungs) * len(self.design.seeds)

    def _done(self) -> float:
        """Return how many whole runs were trained so far; a trial that failed counts as trained."""
        shares: dict[tuple[int, int], float] = {}
        for line in self.sweep.lines:
            key = line["point"], line["seed"]
            shares[key] = max(shares.get(key, 0.0), self.design.rungs[line["rung"]])
        return sum(shares.values())

    def _has_time(self, rung: int, number: int) -> bool:
        """Return whether a trial may be started: always for as many as must go on, else within the budget."""
        budget, record = self.budget, self._record()
        there = len(record.ranked(rung))
        enough = survivors(self.points, rung + 1) if rung + 1 < len(self.design.rungs) else 1
        if budget is None or there < enough:
            return True
        lines = [line for line in record.lines if "measure" in line]
        trained = self._done()
        if not lines or not trained:
            return True
        whole = sum(line["seconds"] for line in lines) / trained / self.design.parallel
        mine = (self.design.rungs[rung] - (self.design.rungs[rung - 1] if rung else 0.0)) * whole
        later, before = 0.0, self.design.rungs[rung]
        for after in range(rung + 1, len(self.design.rungs)):
            later += survivors(self.points, after) * (self.design.rungs[after] - before) * whole
            before = self.design.rungs[after]
        return self.spent + mine + _RESERVE * later * len(self.design.seeds) <= budget

    # The end.

    def _finish(self) -> None:
        """Measure the best point on other data than those that chose it, and write its recipe and the result."""
        record, design, sweep = self._record(), self.design, self.sweep
        best = record.best
        assert best is not None
        assert best.last is not None
        seed = design.seeds[0]
        run = RunFolder.open(sweep.trial(best.number, seed, len(design.seeds)))
        with quiet():
            held_out = measure_held_out(run, design.evaluated)
        recipe = design.recipe(best.number, self.config)
        write_atomically(sweep.recipe, _HEAD + to_toml(recipe))
        measured = record.measure in held_out
        reported = held_out[record.measure] if measured else best.last.measure
        left_out = len(set(self.left_out))
        result = {
            "task": run.result.get("task"),
            "parameters": run.result.get("parameters"),
            "data": list(design.data),
            "seconds": round(self.spent, 3),
            "budget_seconds": self.budget,
            record.measure: reported,
            "sweep": {
                "method": design.method,
                "measure": record.measure,
                "points": len(design.points),
                "failed": sum(1 for point in record.points if point.failed),
                "left_out": left_out,
                "best": {
                    "point": best.number,
                    "values": dict(best.values),
                    "run": str(run.path),
                    "chosen_by": dict(best.last.measure),
                    "measured_on_other_data": held_out if measured else None,
                },
                "recipe": str(sweep.recipe),
                "trials": [_trial(record, point) for point in record.order()],
            },
        }
        sweep.run.write_result(result)
        where = "on validation data that chose nothing" if measured else "on the validation data that chose it"
        log(
            f"best: {shown(design.fields, best.values)}; {title(record.measure)} "
            f"{shown_figure(record.measure, reported)} {where}"
        )
        self._forget([point.number for point in record.points])
        if left_out:
            log(f"{counted(left_out, 'point')} not trained, or not as far as planned: the budget was over")


def _trial(record: SweepRecord, point: PointRecord) -> dict[str, Any]:
    """Return what became of a point, as JSON values."""
    last = point.last
    reached = {} if last is None else {record.measure: dict(last.measure), "step": last.step, "steps": last.steps}
    return {"point": point.number, "values": dict(point.values), **reached, "state": state_of(record, point)}


_HEAD = """# The recipe of the best point of a sweep: lavra train --recipe FILE
"""
