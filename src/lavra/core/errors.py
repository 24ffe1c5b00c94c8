"""Errors that a person can act on: what happened, where, and what to do about it."""

from __future__ import annotations

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of the system for a file that cannot grow: the disk is full, the quota is used up, or the file has
reached the limit on file sizes."""


class LavraError(Exception):
    """A failure that is explained to the user in one or two sentences, without a traceback.

    Args:
        message: What went wrong, with the file and the place.
        remedy: What the user can do about it; shown on a line of its own. Empty by default.

    Attributes:
        exit_code: Status with which the command line ends; 1 unless a subclass says otherwise.

    Examples:
        >>> from lavra.core.errors import InputError
        >>> error = InputError("corpus.jsonl:17 has no text", "name its column with --text-column")
        >>> print(error)
        corpus.jsonl:17 has no text
          what to do: name its column with --text-column
        >>> error.exit_code
        2
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
    """The loss or the gradient became infinite or not a number, and training cannot go on (exit code 1)."""


class CorruptFile(LavraError):
    """A file that lavra wrote is missing, truncated or changed (exit code 2)."""

    exit_code = 2


class Interrupted(LavraError):
    """The user or the system asked to stop, and everything is saved.

    Args:
        message: What was stopped.
        remedy: How to go on with it.
        signal_number: Number of the signal received; the exit code is 128 plus this number. 2 (SIGINT) by default.
    """

    def __init__(self, message: str, remedy: str = "", *, signal_number: int = 2) -> None:
        super().__init__(message, remedy)
        self.exit_code = 128 + signal_number


class Paused(Interrupted):
    """An observer of the run asked to stop, and everything is saved; see `lavra.training.callbacks.Request`."""
