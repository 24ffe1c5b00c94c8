"""The commands of the command line and the configurations that they read, found by calling them with nothing read."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import pytest

from lavra.cli.main import COMMANDS

WORDS: dict[str, list[tuple[str, ...]]] = {
    "doc2query": [("train",)],
    "runs": [(), ("show",), ("rm",)],
    "search": [(), ("evaluate",)],
}
"""The words that choose what a command does, for the commands that do several things."""


class _AskedError(BaseException):
    """The command has said which options it reads; nothing was read or done."""


@cache
def configurations() -> list[tuple[tuple[str, ...], Any]]:
    """Return the words of every command, and the dataclass of its options."""
    found: list[tuple[tuple[str, ...], Any]] = []

    def parse(cls: Any, *arguments: Any, **named: Any) -> Any:
        found.append(((command, *words), cls))
        raise _AskedError

    for command in COMMANDS:
        module = import_module(f"lavra.cli.{command.replace('-', '_')}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "parse", parse)
            for words in WORDS.get(command, [()]):
                with pytest.raises(_AskedError):
                    module.main(list(words))
    return found
