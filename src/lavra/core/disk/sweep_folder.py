"""The folder of a sweep: a run folder without a model of its own, with the runs of its trials inside.

`sweep.json` holds what was decided before the first trial, `trials.jsonl` a line for each part of a trial that is done,
`trials/` the runs, `best.toml` the recipe of the best one, and `result.json`, as in a run, the outcome.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.json_lines import JsonLines
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.shapes import NUMBER, TEXT, WHOLE, ListOf, Plain, Table, demand
from lavra.core.errors import CorruptFile, InputError

RECIPE = "best.toml"
"""Name of the recipe of the best trial."""

_DESIGN = "sweep.json"
_LINES = "trials.jsonl"
_RUNS = "trials"

_ESTIMATE = Table(dict.fromkeys(("value", "low", "high"), NUMBER), needed=("value",))
_SETTINGS = Table()

DESIGN = Table(
    {
        "method": TEXT,
        "measure": TEXT,
        "fields": ListOf(Table({"path": TEXT, "flag": TEXT, "scale": TEXT}, needed=("path", "flag"))),
        "points": ListOf(_SETTINGS),
        "lengths": ListOf(Plain("a whole number", (int,))),
        "rungs": ListOf(NUMBER),
        "seeds": ListOf(WHOLE),
        "evaluated": WHOLE,
    },
    needed=("method", "fields", "points", "rungs", "seeds"),
)
"""The shape of `sweep.json`."""

LINE = Table(
    {
        **dict.fromkeys(("point", "seed", "rung", "step", "steps", "parameters"), WHOLE),
        **dict.fromkeys(("loss", "forecast", "seconds", "spent"), NUMBER),
        "measure": _ESTIMATE,
        "failed": TEXT,
    },
    needed=("point", "seed"),
)
"""The shape of a line of `trials.jsonl`."""


class SweepFolder:
    """The files of a sweep.

    Args:
        run: Its folder.

    Attributes:
        path: Path of the folder.
        run: The folder as that of a run, which has its lock, its request and its result.
        recipe: Path of the recipe of the best trial.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.path = run, run.path
        self.recipe = self.path / RECIPE
        self._lines = JsonLines(self.path / _LINES)

    @property
    def design(self) -> dict[str, Any]:
        """What was decided before the first trial; empty while that is not written."""
        path = self.path / _DESIGN
        return demand(DESIGN, read_json(path), str(path)) if path.exists() else {}

    def write_design(self, design: dict[str, Any]) -> None:
        """Write what was decided, in place of what stands there."""
        write_json(self.path / _DESIGN, design)

    def append(self, line: dict[str, Any]) -> None:
        """Add the line of a part of a trial that is done."""
        self._lines.append(line)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the trials, in the order in which they were done."""
        place = str(self._lines.path)
        return [demand(LINE, line, f"{place}:{number}") for number, line in enumerate(self._lines.read(), 1)]

    def trial(self, point: int, seed: int, seeds: int = 1) -> Path:
        """Return the folder of the run of a trial.

        Args:
            point: Number of the point, from 0.
            seed: Seed of the run.
            seeds: Number of seeds of each point.
        """
        return self.path / _RUNS / (f"{point:03d}" if seeds == 1 else f"{point:03d}-{seed}")


def is_sweep(run: RunFolder) -> bool:
    """Return whether a run folder is that of a sweep.

    Args:
        run: The folder.
    """
    try:
        return "sweep" in tomllib.loads(run.config)
    except (CorruptFile, tomllib.TOMLDecodeError, RecursionError):
        return False


def refuse_sweep(run: RunFolder) -> None:
    """Raise an error where a folder is that of a sweep and not of a run.

    Args:
        run: The folder.

    Raises:
        InputError: If it is a sweep; the remedy names the run of its best point.
    """
    if is_sweep(run):
        best = ((run.result.get("sweep") or {}).get("best") or {}).get("run")
        remedy = f"give the run of its best point: {best}" if best else f"finish it first: lavra resume {run.path}"
        raise InputError(f"{run.path} is a sweep, which has no model of its own", remedy)
