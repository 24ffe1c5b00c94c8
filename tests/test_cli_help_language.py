"""The help of every command in Portuguese: no text is left in English, and no line is too wide."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lavra.cli.help import help_of
from lavra.cli.main import COMMANDS
from lavra.cli.options import parse
from lavra.config.everywhere import EverywhereConfig
from lavra.config.flags import flags_of, group_help
from lavra.core.messages.catalogue import read_catalogue

SUBCOMMANDS = {"runs": [[], ["show"], ["rm"]], "search": [[], ["evaluate"]], "doc2query": [["train"]]}
"""The words after commands that have several sets of options."""

ALIKE = {"CORPUS", "TOKENS", "ALPHA", "RHO", "EPSILON", "PROMPT", "REGEX", "JSON", "LARK"}
"""Names of values that are the same in both languages."""

ENGLISH = re.compile(r"\b(the|of|with|and|from|which|that|is|are|by default|default|only)\b")


@dataclass(frozen=True)
class Command:
    """What a command gives to the parser of its options."""

    cls: type
    prog: str
    description: str
    examples: tuple[str, ...]


class _Asked(Exception):
    """Raised in the place of parsing, with what would be parsed."""


@cache
def commands() -> tuple[Command, ...]:
    """Return every command with its options."""
    found = []

    def asked(cls: type, _: Any, *, prog: str, description: str, examples: Any = ()) -> Any:
        raise _Asked(Command(cls, prog, description, tuple(examples)))

    for name in COMMANDS:
        module = import_module(f"lavra.cli.{name.replace('-', '_')}")
        for words in SUBCOMMANDS.get(name, [[]]):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "parse", asked)
                with pytest.raises(_Asked) as caught:
                    module.main([*words, "--help-all"])
                found.append(caught.value.args[0])
    return tuple(found)


def test_every_command_is_looked_at() -> None:
    folder = Path(import_module("lavra.cli").__path__[0])
    calls = [
        node
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == parse.__name__
    ]
    assert len({command.prog for command in commands()}) == len(commands()) == len(calls)


def test_every_text_of_the_help_has_a_translation() -> None:
    catalogue = read_catalogue("pt")
    missing = set()
    for command in commands():
        flags = [*flags_of(command.cls), *flags_of(EverywhereConfig)]
        groups = {flag.path[:-1] for flag in flags if flag.path[1:]}
        texts = [*command.description.split("\n"), *(flag.help for flag in flags)]
        texts += [group_help(command.cls, path) for path in groups]
        texts += [word for flag in flags for word in re.findall("[A-Z]{2,}", flag.metavar) if word not in ALIKE]
        missing |= {text for text in texts if text and catalogue.phrase(text) is None}
    assert not missing, "\n".join(["add these to src/lavra/core/messages/pt/help_*.json:", *sorted(missing)])


@pytest.mark.parametrize("everything", [False, True])
def test_the_help_is_portuguese_and_fits_a_terminal(everything: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVRA_LANG", "pt")
    monkeypatch.setenv("COLUMNS", "80")
    for command in commands():
        text = help_of(
            command.cls,
            prog=command.prog,
            description=command.description,
            examples=command.examples,
            everything=everything,
        )
        lines = text.split("\n")
        assert lines[0].startswith(f"uso: {command.prog}")
        assert not [line for line in lines if len(line) > 80]
        examples = lines.index("exemplos:")
        shown = [*lines[:examples], *lines[lines.index("", examples) :]]
        assert not [line for line in shown if ENGLISH.search(re.sub(r"--?[\w.-]+|`[^`]*`", "", line))]


def test_english_help_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVRA_LANG", "en")
    train = next(command for command in commands() if command.prog == "lavra train")
    text = help_of(train.cls, prog=train.prog, description=train.description, examples=(), everything=False)
    assert text.startswith("usage: lavra train [DATA…] [OPTIONS]\n\nTrain the best language model")
    assert "\noptions:\n" in text
