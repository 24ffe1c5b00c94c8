"""The command line by which lavra was started, and the commands that it recommends, which work as they stand."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lavra.core.messages.catalogue import told

_EVERYWHERE = {"--json", "--quiet"}
"""Flags that say how a result is shown, not what it is; a recommended command goes without them."""


def command(*words: object) -> str:
    """Return a command of lavra as a person can paste it: `lavra runs show 'runs/my book'`.

    Where `lavra` is not on the PATH (a virtual environment that is not activated), it is named by its file, or as
    `python -m lavra` by the interpreter that runs.

    Args:
        words: The words after `lavra`. Each is converted to a string and quoted for the shell where it needs that.

    Returns:
        The command line.
    """
    return " ".join([_program(), *(shlex.quote(str(word)) for word in words)])


def last_lines(steps: Sequence[tuple[str, str]]) -> list[str]:
    """Return the last lines of a command: where its result lies, and the commands that a person wants next.

    Args:
        steps: A title and a path, a sentence or a command line (see `command`), one pair for each line.

    Returns:
        One line for each pair, with the second parts below one another.

    Examples:
        >>> last_lines([("page", "runs/book/report.html"), ("try it", "lavra generate runs/book")])
        ['page:   runs/book/report.html', 'try it: lavra generate runs/book']
    """
    shown = [(told(title), told(rest)) for title, rest in steps]
    width = max((len(title) for title, _ in shown), default=0) + 1
    return [f"{title + ':':<{width}} {rest}" for title, rest in shown]


def without_display_flags(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line without `--json` and `--quiet`, for a command that repeats it.

    Args:
        arguments: The words after the name of the command.

    Returns:
        The other words, in their order.
    """
    return [word for word in arguments if word not in _EVERYWHERE]


def _program() -> str:
    beside = Path(sys.executable).with_name("lavra")
    found = shutil.which("lavra")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "lavra"
    return shlex.quote(str(beside)) if beside.is_file() else f"{shlex.quote(sys.executable)} -m lavra"
