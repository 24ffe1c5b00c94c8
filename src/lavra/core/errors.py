"""Errors that a person can act on: what happened, where, and what to do about it."""

from __future__ import annotations

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the system errors that say that a file cannot grow: disk full, quota used up, limit on file sizes."""


class LavraError(Exception):
    """A failure that is explained to the user in one or two sentences, without a traceback.

    Args:
        message: what went wrong, naming the file and the place.
        remedy: what the user can do about it; shown on a line of its own.

    ``exit_code`` is the status with which the command line ends.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  what to do: {self.remedy}" if self.remedy else self.message


class InputError(LavraError):
    """The request or the input is wrong (exit code 2)."""

    exit_code = 2


class CheckFailed(LavraError):
    """A check of the training set-up failed (exit code 1)."""


class Diverged(LavraError):
    """Training produced numbers that cannot be continued from (exit code 1)."""


class Damaged(LavraError):
    """A file that lavra wrote is not what was written: truncated, flipped bits, missing (exit code 2)."""

    exit_code = 2


class Interrupted(LavraError):
    """The user or the system asked to stop, and everything is saved.

    Args:
        signal_number: the signal received; the exit code is 128 plus this number.
    """

    def __init__(self, message: str, remedy: str = "", *, signal_number: int = 2) -> None:
        super().__init__(message, remedy)
        self.exit_code = 128 + signal_number
