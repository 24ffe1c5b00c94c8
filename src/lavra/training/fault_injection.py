"""Fault injection: named places where a test can make a run fail (killed, out of memory, disk full).

The environment variable LAVRA_FAULT, which is read once when this module is imported, describes the faults as
`name:count:action`, separated by commas. `checkpoint.before_rename:2:kill` kills the process with SIGKILL the second
time that the place of this name is reached. A missing count is 1 and a missing action is `kill`. Without the variable
nothing ever happens.
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
"""What an injected fault can do: send SIGKILL, SIGINT or SIGTERM to the process, or raise `InjectedError`, the error of
a full disk, or the error of exhausted memory."""


class InjectedError(RuntimeError):
    """Error that the action `raise` raises."""


@dataclass
class Fault:
    """One fault to inject.

    Attributes:
        name: Name of the place, as given to `fault_point`.
        count: Number of the visit to that place at which the fault happens; 1 is the first.
        action: What happens, one of `ACTIONS`.
        reached: Number of visits so far.
    """

    name: str
    count: int
    action: str
    reached: int = 0


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Return the faults that a value of LAVRA_FAULT describes.

    Args:
        text: Faults of the form `name:count:action`, separated by commas; empty for none.

    Raises:
        InputError: if a fault is not of that form.

    Examples:
        >>> parse_faults("step.backward:3:oom")
        (Fault(name='step.backward', count=3, action='oom', reached=0),)
    """
    faults = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, *rest = part.split(":")
        count, action = (*rest, *("1", "kill")[len(rest) :]) if len(rest) <= 2 else ("", "")
        if not name or not count.isdigit() or int(count) < 1 or action not in ACTIONS:
            raise InputError(
                f"LAVRA_FAULT: {part!r} does not describe a fault",
                f"write it like step.backward:3:kill; actions: {', '.join(ACTIONS)}",
            )
        faults.append(Fault(name, int(count), action))
    return tuple(faults)


_faults = parse_faults(os.environ.get("LAVRA_FAULT", ""))


def fault_point(name: str) -> None:
    """Mark a place where a test may inject a fault; without one this does nothing.

    Args:
        name: Name of the place, such as `step.backward`.

    Raises:
        InjectedError: if a fault with the action `raise` is due here.
        OSError: with the error number ENOSPC, if a fault with the action `enospc` is due here.
        torch.OutOfMemoryError: if a fault with the action `oom` is due here.
    """
    if _faults:
        _reach(name)


@contextmanager
def injected(text: str) -> Iterator[None]:
    """Inject faults while the block runs.

    Args:
        text: Description of the faults, as in the environment variable LAVRA_FAULT.

    Raises:
        InputError: if the description is wrong.

    Examples:
        >>> with injected("here:1:raise"):
        ...     fault_point("here")
        Traceback (most recent call last):
            ...
        lavra.training.fault_injection.InjectedError: injected at here
    """
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
