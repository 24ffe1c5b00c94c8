"""What is learned from past runs: the speed of this machine, the errors of forecasts, points for the scaling law."""

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
from lavra.core.progress import log
from lavra.models.spec import DecoderSpec
from lavra.planning.budget import assumed_efficiency, worth
from lavra.planning.machine.flops import matrix_parameters
from lavra.planning.scaling_law.law import Observation

# Calibration of plans: how fast this machine really trains, and how far off forecasts were.
#
# It is kept in one file of the user, `planning.json` in `$XDG_CONFIG_HOME/lavra` (or `~/.config/lavra`). Without that
# file, plans use the defaults in the code.

_LONG_ENOUGH = 60.0
"""Seconds of training steps that a run needs for its overhead to be measured: in shorter runs, start-up and the final
evaluation dominate."""


@dataclass(frozen=True)
class Calibration:
    """Constants of plans that are refitted from past runs.

    Attributes:
        efficiency: Share of the matrix peak that training reached, by kind of device (`cpu`, `cuda`, `mps`).
        overhead: Ratio of the time of a run to the time of its steps alone.
        law_factor: Ratio of the bits per byte that runs reached to the forecasts of the built-in law.
        runs: Number of runs that the constants come from.
        folder: Folder of these runs.

    Examples:
        >>> Calibration(efficiency={"cuda": 0.4}, folder="runs").efficiency_on("cuda", 1e15, 1)
        (0.4, 'reached by past runs in runs')
    """

    efficiency: dict[str, float] = field(default_factory=dict)
    overhead: float = 1.06
    law_factor: float = 1.0
    runs: int = 0
    folder: str = ""

    def efficiency_on(self, device: str, peak: float, threads: int) -> tuple[float, str]:
        """Return the efficiency to expect on a kind of device, and the source of that figure, in words.

        Args:
            device: Kind of device: `cpu`, `cuda` or `mps`.
            peak: Peak speed of the device in matrix products, in FLOP/s.
            threads: Number of processor threads; only used for `cpu`.
        """
        if device in self.efficiency:
            return self.efficiency[device], f"reached by past runs in {self.folder}"
        assumed = assumed_efficiency(device, peak, threads)
        return assumed, "assumed, since there is no past run on such a device"

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values."""
        return asdict(self)


def calibration_file() -> Path:
    """Return the path of the file that stores the calibration of this user."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "lavra" / "planning.json"


def load_calibration() -> Calibration:
    """Return the calibration of this user, or the defaults if there is none.

    Raises:
        CorruptFile: if the file is not JSON.
        InputError: if a value in it is wrong.
    """
    path = calibration_file()
    return from_table(Calibration, read_json(path), str(path)) if path.exists() else Calibration()


def save_calibration(calibration: Calibration) -> Path:
    """Write the calibration of this user, and return the path of its file."""
    path = calibration_file()
    write_json(path, calibration.to_json())
    return path


@dataclass(frozen=True)
class PastRun:
    """What a finished run measured that plans estimate; None for what it did not measure.

    Attributes:
        device: Kind of device: `cpu`, `cuda` or `mps`.
        efficiency: Share of the measured matrix peak that training reached.
        overhead: Ratio of the time of the run, without the preparation of its text, to the time of its steps alone.
        law_ratio: Ratio of its bits per byte to those that the built-in law had forecast.
    """

    device: str
    efficiency: float | None
    overhead: float | None
    law_ratio: float | None


def past_run(run: RunFolder) -> PastRun | None:
    """Return what a run measured, or None if it is not finished.

    The overhead is None if the run was resumed, because its time is not known then.

    Args:
        run: Run folder.
    """
    plan, result = run.plan, run.result
    if not plan or not result:
        return None
    speed, peak = result.get("tokens_per_second"), plan.get("probe", {}).get("peak_flops")
    efficiency = speed * plan["flops_per_token"] / peak if speed and peak else None
    steps_alone = result["tokens"] / speed if speed else None
    seconds = result.get("seconds")
    trained = seconds - (result.get("preparation_seconds") or 0.0) if seconds else None
    overhead = trained / steps_alone if trained and steps_alone and steps_alone >= _LONG_ENOUGH else None
    expected = plan.get("forecast", {}).get("law_bits_per_byte")
    reached = _value(result.get("bits_per_byte"))
    return PastRun(plan["device"], efficiency, overhead, reached / expected if reached and expected else None)


def calibrate(runs: Sequence[RunFolder], folder: str) -> Calibration:
    """Return the calibration from past runs: medians, which a single unusual run does not move.

    Args:
        runs: Run folders; those that are not finished are ignored.
        folder: Folder of the runs, which the calibration records.
    """
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


# Observations for the scaling law: the final loss of a run, and its validations before the learning-rate decay.

_EARLY = 0.25
"""Share of a run before which its validations are not used: the learning rate has not been constant for long enough."""

_WEIGHT_ALONG = 0.3
"""Weight of a validation during a run; the final loss weighs 1, because it says more about where runs end."""


def observations_of(run: RunFolder, final: float | None = None) -> list[Observation]:
    """Return the observations from a finished run that trained a decoder from scratch; an empty list for any other run.

    Args:
        run: Run folder.
        final: Bits per byte at the end of the run, if they were measured again; by default those of the run itself.
    """
    plan, result = run.plan, run.result
    if not plan or not result or not plan.get("model") or plan.get("base"):
        return []
    lines = [line for line in run.metrics.read() if line.get("split") == "validation" and line["step"] > 0]
    if not lines or not lines[-1]["bits_per_byte"]:
        return []
    spec = from_table(DecoderSpec, plan["model"], str(run.path / "plan.json"))
    if spec.architecture != "decoder":
        return []  # the loss of another objective, which no law joins to that of language modelling
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
        if _EARLY <= share <= 1.0 - schedule["decay_fraction"]:
            # Validations during the run use a sample; its ratio to the last of them is applied to the final loss.
            bits = line["bits_per_byte"] * final / last["bits_per_byte"]
            yield Observation(parameters, read(line["tokens"]), bits, False, name, _WEIGHT_ALONG, start)


# Learning from past runs: `lavra plan --calibrate`.


def calibrate_from(folder: str) -> dict[str, Any]:
    """Refit the constants of plans from the finished runs in a folder, and store them for this user.

    Args:
        folder: Folder of run folders.

    Returns:
        The constants as JSON values, with the `file` in which they are stored.

    Raises:
        InputError: if there is no finished run in the folder.
    """
    found = calibrate(list_runs(folder), folder)
    if not found.runs:
        raise InputError(f"there is no finished run in {folder}", "train some first, or give another folder")
    path = save_calibration(found)
    for device, efficiency in found.efficiency.items():
        log(f"{device}: training reached {efficiency:.0%} of the measured matrix peak")
    log(f"runs take {found.overhead:.2f} times as long as their steps alone")
    log(f"losses are {found.law_factor:.3f} times the forecasts of the built-in law")
    log(f"saved to {path}; plans use these values from now on, until the file is deleted")
    return {"file": str(path), **found.to_json()}
