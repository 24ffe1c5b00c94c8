"""The commands that a command recommends in its last lines, so that tests can give them."""

from __future__ import annotations

import shlex

from lavra.core.program import command


def recommended(text: str) -> list[list[str]]:
    """Return the words after `lavra` of every command line of lavra that stands in a text, in its order."""
    program = command() + " "
    found = [line.partition(program)[2].partition(" > ")[0] for line in text.splitlines() if program in line]
    return [shlex.split(line) for line in found]
