"""A sweep that goes on: which trial is trained next, for how long, and which points go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from lavra.config.tuning import TuneConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.errors import NO_SPACE, CorruptFile, Interrupted, LavraError
from lavra.core.machine import is_out_of_memory
from lavra.core.progress import Progress, heard, log, quiet
from lavra.core.units import counted, show_duration
from lavra.reports.formatting import shown as shown_figure
from lavra.reports.formatting import title
from lavra.reports.sweeps.record import PointRecord, SweepRecord, is_error, read_sweep
from lavra.workflows.tuning.design import DEFAULT_BUDGET, Design, next_length
from lavra.workflows.tuning.halving import FACTOR, cost, survivors
from lavra.workflows.tuning.outcome import write_outcome
from lavra.workflows.tuning.points import TRIALS, next_point
from lavra.workflows.tuning.pool import Pool
from lavra.workflows.tuning.space import shown
from lavra.workflows.tuning.trial import Advance, Outcome

Clock = Callable[[], float]

_RESERVE = 1.05
"""Factor on the time that the rungs to come are expected to take, which is kept for them."""


class RunningSweep:
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
        record = self._record()
        write_outcome(
            self.config,
            self.design,
            self.sweep,
            record,
            spent=lambda: self.spent,
            budget=self.budget,
            left_out=len(set(self.left_out)),
        )
        self._forget([point.number for point in record.points])

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
