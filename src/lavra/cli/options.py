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
from lavra.core.program import last_lines
from lavra.core.progress import log, set_quiet

Options = TypeVar("Options")

SWITCHES = ("bos",)
"""Names of the fields that take yes, no or nothing: `--bos` and `--no-bos` on the command line, true and false in a
recipe. Without the flag, lavra decides."""

_unhinted = tyro.conf.arg(help_behavior_hint="")


@dataclasses.dataclass
class _Everywhere:
    """The flags that every command has."""

    recipe: Annotated[Path | None, _unhinted] = None
    """Read the values of the options from this TOML file; flags override them."""
    json: Annotated[bool, _unhinted] = False
    """Print the result as one JSON object on standard output."""
    quiet: Annotated[bool, _unhinted] = False
    """Print no progress, notes or next steps."""


def parse(
    cls: type[Options], arguments: Sequence[str], *, prog: str, description: str, examples: Sequence[str] = ()
) -> tuple[Options, bool]:
    """Read a command's options; `--help` and errors end the process (exit codes 0 and 2).

    Args:
        cls: The dataclass of the options. Nested dataclasses become dotted flags (`--model.depth 8`), fields marked
            `tyro.conf.Positional` have no flag, and the types of `lavra.config.quantities` take units.
        arguments: The words after the name of the command.
        prog: The command as a person types it, such as "lavra train".
        description: What the command does, in a sentence or two, for the help.
        examples: Command lines that show the command at work, for the help.

    Returns:
        The options, and whether the result is wanted as JSON. `--quiet` has taken effect.

    Raises:
        InputError: If the file of `--recipe` cannot be read, or has an unknown key or a wrong value.
        SystemExit: After `--help` (exit code 0) and after a wrong flag (exit code 2).
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
        config=_conventions(arguments),
    )
    everywhere = cast(_Everywhere, parsed.everywhere)  # pyright: ignore[reportAttributeAccessIssue]
    set_quiet(everywhere.quiet)
    return cast(Options, parsed.options), everywhere.json  # pyright: ignore[reportAttributeAccessIssue]


def new_file(path: Path, force: bool, inputs: Iterable[str | Path] = ()) -> Path:
    """Return the path of a file that a command is to write, after a check that it may be written.

    Args:
        path: The file to write.
        force: Whether a file of this name may be replaced.
        inputs: What the command reads, which is never replaced.

    Returns:
        The path as it was given.

    Raises:
        InputError: If there is a file already that may not be replaced (see `lavra.core.disk.replacing`).
    """
    check_replaceable_file(path, force=force, inputs=inputs)
    return path


def say_last(*steps: tuple[str, str]) -> None:
    """Say where the result of a command lies, and the next commands, after all else.

    Args:
        steps: A title and a path, a sentence or a command line; see `lavra.core.program.last_lines`.
    """
    for line in last_lines(steps):
        log(line)


def log_next(run: Path) -> None:
    """Say where the result of a run lies and which commands a person wants next, after all else.

    Args:
        run: The folder of the run.
    """
    from lavra.reports.run_files import read_run
    from lavra.reports.run_summary import next_lines

    for line in next_lines(read_run(RunFolder(run))):
        log(line)


def print_json(value: object) -> None:
    """Print the result of a command as one JSON object, in one line on standard output.

    Args:
        value: Plain values: mappings, sequences, strings, numbers, None. NaN and infinity are printed as null.
    """
    print(one_line(value), flush=True)


def _switched(word: str) -> str:
    """Return a switch with its value written out, and every other word as it is."""
    values = {f"--{name}": f"--{name}=True" for name in SWITCHES}
    return {**values, **{f"--no-{name}": f"--{name}=False" for name in SWITCHES}}.get(word, word)


def _conventions(arguments: Sequence[str]) -> tuple[Any, ...]:
    """Return how flags are read: a switch as `--x` and as `--no-x`, whatever its default or the recipe says.

    The help shows of the two only the one that changes something.
    """
    asked_for_help = any(word in ("-h", "--help") for word in arguments)
    return (tyro.conf.DisallowNone, *((tyro.conf.FlagCreatePairsOff,) if asked_for_help else ()))


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
