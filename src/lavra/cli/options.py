"""The options of a command: a typed dataclass is at once the flags, their defaults, the recipe file and the help."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro

from lavra.core.configuration import from_toml
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.core.progress import say, set_quiet

Options = TypeVar("Options")

SWITCHES = ("bos",)
"""Fields that take yes, no or nothing: `--bos` and `--no-bos` on the command line, true and false in a recipe."""

_unhinted = tyro.conf.arg(help_behavior_hint="")


@dataclasses.dataclass
class _Everywhere:
    """The flags that every command has."""

    recipe: Annotated[Path | None, _unhinted] = None
    """Take the values from this TOML file; flags override them."""
    json: Annotated[bool, _unhinted] = False
    """Print one JSON object on standard output."""
    quiet: Annotated[bool, _unhinted] = False
    """Say nothing while working."""


def parse(
    cls: type[Options], arguments: Sequence[str], *, prog: str, description: str, examples: Sequence[str] = ()
) -> tuple[Options, bool]:
    """Read a command's options; `--help` and errors end the process (exit codes 0 and 2).

    Args:
        cls: the dataclass of the options. Nested dataclasses become dotted flags (`--model.depth 8`), fields marked
            `tyro.conf.Positional` have no flag, and the types of `core.quantities` take units.
        arguments: the words after the command.
        prog: the command as typed: "lavra train".
        description: what it does, in a sentence or two.
        examples: command lines that show it at work.

    Returns:
        The options, and whether the result is wanted as JSON. `--quiet` has taken effect.

    Raises:
        InputError: if the file of `--recipe` cannot be used.
    """
    recipe = _recipe(arguments)
    request = dataclasses.make_dataclass(
        "Request",
        [
            ("options", Annotated[cls, tyro.conf.arg(name="")], _default(cls, recipe)),
            ("everywhere", Annotated[_Everywhere, tyro.conf.arg(name="")]),
        ],
        kw_only=True,
    )
    lines = [description, *(["", "Examples:"] if examples else []), *(f"  {example}" for example in examples)]
    parsed = tyro.cli(
        request,
        prog=prog,
        description="\n".join(lines),
        args=[_switched(word) for word in arguments],
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    everywhere = cast(_Everywhere, parsed.everywhere)  # pyright: ignore[reportAttributeAccessIssue]
    set_quiet(everywhere.quiet)
    return cast(Options, parsed.options), everywhere.json  # pyright: ignore[reportAttributeAccessIssue]


def new_file(path: Path, force: bool, inputs: Iterable[str | Path] = ()) -> Path:
    """Return the path of a file that a command is to write; it reads `inputs`.

    Raises:
        InputError: if something is there already and may not be replaced (see `core.replacing`).
    """
    check_replaceable_file(path, force=force, inputs=inputs)
    return path


def say_next(run: Path) -> None:
    """Say where the result of a run lies and what a person wants next, after all else."""
    from lavra.reports.run_files import read_run
    from lavra.reports.run_summary import next_lines

    for line in next_lines(read_run(RunFolder(run))):
        say(line)


def print_json(value: object) -> None:
    """Print the result of a command as one JSON object on standard output."""
    print(one_line(value), flush=True)


def _switched(word: str) -> str:
    """Return a switch with its value written out, and every other word as it is."""
    values = {f"--{name}": f"--{name}=True" for name in SWITCHES}
    return {**values, **{f"--no-{name}": f"--{name}=False" for name in SWITCHES}}.get(word, word)


def _recipe(arguments: Sequence[str]) -> Path | None:
    """Find the recipe before the other flags are read, because it sets their defaults."""
    for number, word in enumerate(arguments):
        if word == "--recipe" and number + 1 < len(arguments):
            return Path(arguments[number + 1])
        if word.startswith("--recipe="):
            return Path(word.removeprefix("--recipe="))
    return None


def _default(cls: type[Options], recipe: Path | None) -> Any:
    if recipe is None:
        return dataclasses.field()
    try:
        text = recipe.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {recipe} cannot be read: {error}", "give a TOML file") from error
    options = from_toml(cls, text, str(recipe), missing=tyro.MISSING)
    return dataclasses.field(default_factory=lambda: options)
