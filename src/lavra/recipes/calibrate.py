"""Learning from past runs: `lavra plan --calibrate`."""

from __future__ import annotations

from typing import Any

from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.core.run_folder import list_runs
from lavra.planning.calibration import calibrate, save_calibration


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
