"""Named places where a test can make a run fail: killed, out of memory, disk full. Nothing happens unless asked for.

The environment variable LAVRA_FAULT, read once when this module is imported, says where: `name:count:action`, several
separated by commas. `checkpoint.before_rename:2:kill` kills the process with SIGKILL the second time that place is
reached; a missing count is 1 and a missing action is `kill`.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lavra.core.errors import InputError

ACTIONS = ("kill", "interrupt", "terminate", "raise", "enospc", "oom")


class InjectedError(RuntimeError):
    """The failure that the action `raise` raises."""


@dataclass
class Fault:
    """One failure to come: at the `count`-th time (1 is the first) that `name` is reached, do `action`."""

    name: str
    count: int
    action: str
    reached: int = 0


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Return the faults that a value of LAVRA_FAULT describes.

    Raises:
        InputError: if the text is not of the form `name:count:action`.
    """
    faults = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, *rest = part.split(":")
        count, action = (*rest, *("1", "kill")[len(rest) :]) if len(rest) <= 2 else ("", "")
        if not name or not count.isdigit() or int(count) < 1 or action not in ACTIONS:
            raise InputError(
                f"LAVRA_FAULT: {part!r} is no fault",
                f"write it like step.backward:3:kill; actions: {', '.join(ACTIONS)}",
            )
        faults.append(Fault(name, int(count), action))
    return tuple(faults)


_faults = parse_faults(os.environ.get("LAVRA_FAULT", ""))


def fault_point(name: str) -> None:
    """Mark a place where a test may inject a failure; does nothing when none is asked for there.

    Raises:
        InjectedError, OSError (ENOSPC) or torch.OutOfMemoryError: as the fault's action says.
    """
    if _faults:
        _reach(name)


@contextmanager
def injected(text: str) -> Iterator[None]:
    """Inject the faults described by `text` (as in LAVRA_FAULT) while the block runs."""
    global _faults
    before, _faults = _faults, parse_faults(text)
    try:
        yield
    finally:
        _faults = before


def _reach(name: str) -> None:
    for fault in _faults:
        if fault.name == name:
            fault.reached += 1
            if fault.reached == fault.count:
                _fail(fault)


def _fail(fault: Fault) -> None:
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    elif fault.action == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif fault.action == "enospc":
        raise OSError(errno.ENOSPC, f"injected at {fault.name}: {os.strerror(errno.ENOSPC)}")
    elif fault.action == "oom":
        import torch

        raise torch.OutOfMemoryError(f"injected at {fault.name}: out of memory")
    else:
        raise InjectedError(f"injected at {fault.name}")
