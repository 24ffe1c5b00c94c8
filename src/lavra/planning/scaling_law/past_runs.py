"""What past runs taught: the speed of this machine, the errors of forecasts, points for the scaling law."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.configuration import from_table
from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.run_folder import RunFolder, list_runs
from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.models.spec import DecoderSpec
from lavra.planning.budget import assumed_efficiency, worth
from lavra.planning.machine.flops import matrix_parameters
from lavra.planning.scaling_law.law import Observation

# What past runs taught about plans: how fast this machine really trains, and how far off forecasts were.
#
# Kept in one file of the user's, `planning.json` in `$XDG_CONFIG_HOME/lavra` (or `~/.config/lavra`); without it, plans
# use the defaults that are in the code.

_LONG_ENOUGH = 60.0
"""Seconds of steps from which on a run says what the rest of a run takes; in shorter ones, start and end prevail."""


@dataclass(frozen=True)
class Calibration:
    """Constants refitted from runs.

    Attributes:
        efficiency: share of the matrix peak that training reached, by kind of device (`cpu`, `cuda`, `mps`).
        overhead: seconds of a run over those of its steps alone.
        law_factor: bits per byte that runs reached over those that the built-in law had expected.
        runs: how many it was fitted to.
        folder: where they were.
    """

    efficiency: dict[str, float] = field(default_factory=dict)
    overhead: float = 1.06
    law_factor: float = 1.0
    runs: int = 0
    folder: str = ""

    def efficiency_on(self, device: str, peak: float, threads: int) -> tuple[float, str]:
        """Return the efficiency to expect on a kind of device, and where that is from, in words.

        Args:
            device: `cpu`, `cuda` or `mps`.
            peak: FLOP/s of its matrix products.
            threads: of the processor, for `cpu`.
        """
        if device in self.efficiency:
            return self.efficiency[device], f"reached by past runs in {self.folder}"
        assumed = assumed_efficiency(device, peak, threads)
        return assumed, "assumed: no run on such a device has been looked at"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def calibration_file() -> Path:
    """Return where the calibration of this user is kept."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "lavra" / "planning.json"


def load_calibration() -> Calibration:
    """Return the user's calibration; the defaults where there is none.

    Raises:
        Damaged: if the file does not parse.
        InputError: if a value in it is wrong.
    """
    path = calibration_file()
    return from_table(Calibration, read_json(path), str(path)) if path.exists() else Calibration()


def save_calibration(calibration: Calibration) -> Path:
    """Write the user's calibration and return its file."""
    path = calibration_file()
    write_json(path, calibration.to_json())
    return path


@dataclass(frozen=True)
class PastRun:
    """What a finished run says about plans; None where it does not.

    Attributes:
        device: kind of device.
        efficiency: reached share of the measured matrix peak.
        overhead: seconds over those of its steps.
        law_ratio: bits per byte over those that the plan had forecast before any calibration.
    """

    device: str
    efficiency: float | None
    overhead: float | None
    law_ratio: float | None


def past_run(run: RunFolder) -> PastRun | None:
    """Return what one run says; None if it is not finished, or was resumed so that its time is unknown."""
    plan, result = run.plan, run.result
    if not plan or not result:
        return None
    speed, peak = result.get("tokens_per_second"), plan.get("probe", {}).get("peak_flops")
    efficiency = speed * plan["flops_per_token"] / peak if speed and peak else None
    steps_alone = result["tokens"] / speed if speed else None
    seconds = result.get("seconds")
    overhead = seconds / steps_alone if seconds and steps_alone and steps_alone >= _LONG_ENOUGH else None
    expected = plan.get("forecast", {}).get("law_bits_per_byte")
    reached = _value(result.get("bits_per_byte"))
    return PastRun(plan["device"], efficiency, overhead, reached / expected if reached and expected else None)


def calibrate(runs: Sequence[RunFolder], folder: str) -> Calibration:
    """Return the constants that past runs support: medians, so that one odd run does not count."""
    past = [found for found in map(past_run, runs) if found is not None]
    devices = {run.device for run in past}
    efficiency = {
        device: statistics.median(reached)
        for device in sorted(devices)
        if (reached := [run.efficiency for run in past if run.device == device and run.efficiency])
    }
    overheads = [run.overhead for run in past if run.overhead]
    ratios = [math.log(run.law_ratio) for run in past if run.law_ratio]
    return Calibration(
        efficiency=efficiency,
        overhead=statistics.median(overheads) if overheads else Calibration.overhead,
        law_factor=math.exp(statistics.median(ratios)) if ratios else 1.0,
        runs=len(past),
        folder=folder,
    )


def _value(figure: Any) -> float | None:
    return figure.get("value") if isinstance(figure, dict) else figure


# What a finished run says to the scaling law: its final loss, and its validations before the learning rate fell.

_EARLY = 0.25
"""Share of a run before which the learning rate has not been constant for long enough to say anything."""

_WEIGHT_ALONG = 0.3
"""What a point along a run counts: it says less of where runs end than their ends do."""


def observations_of(run: RunFolder, final: float | None = None) -> list[Observation]:
    """Return what a finished training of a decoder from nothing says; nothing for any other run.

    Args:
        run: the finished run.
        final: bits per byte at its end, where they were measured once more; by default its own.
    """
    plan, result = run.plan, run.result
    if not plan or not result or not plan.get("model") or plan.get("base"):
        return []
    lines = [line for line in run.metrics.read() if line.get("split") == "validation" and line["step"] > 0]
    if not lines or not lines[-1]["bits_per_byte"]:
        return []
    spec = from_table(DecoderSpec, plan["model"], str(run.path / "plan.json"))
    if final is None:
        own = result["bits_per_byte"]
        final = float(own["value"] if isinstance(own, dict) else own)
    return list(_points(plan, final, lines, matrix_parameters(spec), str(run.path)))


def _points(
    plan: dict[str, Any], final: float, lines: list[dict[str, Any]], parameters: int, name: str
) -> Iterator[Observation]:
    last = lines[-1]
    per_token = last["loss"] / math.log(2) / last["bits_per_byte"]
    epoch = plan["tokens"] / plan["epochs"] * per_token

    def read(tokens: float) -> float:
        return worth(tokens * per_token / epoch) * epoch

    start = plan.get("start_bits_per_byte") or math.inf
    yield Observation(parameters, read(last["tokens"]), final, True, name, start=start)
    schedule = plan["schedule"]
    if schedule["shape"] != "wsd":
        return
    for line in lines[:-1]:
        share = line["step"] / plan["steps"]
        if _EARLY <= share <= 1.0 - schedule["cooldown"]:
            # Validations during the run are of some windows; the ratio to the last one carries over.
            bits = line["bits_per_byte"] * final / last["bits_per_byte"]
            yield Observation(parameters, read(line["tokens"]), bits, False, name, _WEIGHT_ALONG, start)


# Learning from past runs: `lavra plan --calibrate`.


def calibrate_from(folder: str) -> dict[str, Any]:
    """Refit the constants of plans from the finished runs in a folder, keep them for this user, and return them.

    Raises:
        InputError: if there is no finished run.
    """
    found = calibrate(list_runs(folder), folder)
    if not found.runs:
        raise InputError(f"there is no finished run in {folder}", "train some first, or give another folder")
    path = save_calibration(found)
    for device, efficiency in found.efficiency.items():
        say(f"{device}: training reached {efficiency:.0%} of the measured matrix peak")
    say(f"runs take {found.overhead:.2f} times the time of their steps")
    say(f"losses are {found.law_factor:.3f} times what the built-in law says")
    say(f"kept in {path}; plans use it from now on, and without the file the defaults again")
    return {"file": str(path), **found.to_json()}
