"""The options of a command: a typed dataclass is at once the flags, their defaults, the recipe file and the help."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro

from lavra.cli.unknown import check_flags
from lavra.cli.wrong_values import check_values
from lavra.config.everywhere import EverywhereConfig
from lavra.config.flags import Flag, flags_of
from lavra.core.configuration import from_toml
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import SweepFolder, is_sweep
from lavra.core.errors import InputError
from lavra.core.messages.catalogue import told
from lavra.core.program import last_lines
from lavra.core.progress import log, set_quiet

Options = TypeVar("Options")


def parse(
    cls: type[Options], arguments: Sequence[str], *, prog: str, description: str, examples: Sequence[str] = ()
) -> tuple[Options, bool]:
    """Read a command's options; `--help` ends the process (exit code 0).

    Args:
        cls: The dataclass of the options, see `lavra.config.flags`. Nested dataclasses become dotted flags
            (`--model.depth 8`), fields marked `tyro.conf.Positional` have no flag, and the types of
            `lavra.config.quantities` take units.
        arguments: The words after the name of the command.
        prog: The command as a person types it, such as "lavra train".
        description: What the command does, in a sentence or two, for the help.
        examples: Command lines that show the command at work, for the help.

    Returns:
        The options, and whether the result is wanted as JSON. `--quiet` has taken effect.

    Raises:
        InputError: If there is no such flag, a value is wrong or missing, or the file of `--recipe` cannot be read, or
            has an unknown key or a wrong value.
        SystemExit: After `--help` or `--help-all` (exit code 0), and where only the parser knows what is wrong (exit
            code 2).
    """
    asked = next((word for word in _before_dashes(arguments) if word in ("-h", "--help", "--help-all")), None)
    if asked is not None:
        from lavra.cli.help import help_of

        everything = asked == "--help-all"
        print(help_of(cls, prog=prog, description=description, examples=examples, everything=everything))
        raise SystemExit(0)
    flags = [*flags_of(cls), *flags_of(EverywhereConfig)]
    sets = {one.flag: f"{flag.names[-1]}={one.value}" for flag in flags for one in flag.sets}
    check_flags(arguments, itertools.chain(sets, *(flag.names for flag in flags)), prog)
    request = dataclasses.make_dataclass(
        "Request",
        [
            ("options", Annotated[cls, tyro.conf.arg(name="")], _default(cls, _recipe(arguments), flags)),
            ("everywhere", Annotated[EverywhereConfig, tyro.conf.arg(name="")]),
        ],
        kw_only=True,
    )
    words = [sets.get(word, word) for word in arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(request, prog=prog, args=words, config=(tyro.conf.DisallowNone,))
    except SystemExit:
        check_values(words, flags, prog)  # in the words of lavra; what it does not know the parser says itself
        sys.stderr.write(said.getvalue())
        raise
    sys.stderr.write(said.getvalue())
    everywhere = cast(EverywhereConfig, parsed.everywhere)  # pyright: ignore[reportAttributeAccessIssue]
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
        log(line, as_it_is=True)  # `last_lines` is in the language of the user


def log_next(run: Path) -> None:
    """Say where the result of a run or a sweep lies and which commands a person wants next, after all else.

    Args:
        run: The folder of the run or of the sweep.
    """
    folder = RunFolder(run)
    if is_sweep(folder):
        from lavra.reports.sweeps.summary import closing_lines, read_sweep

        lines = closing_lines(read_sweep(SweepFolder(folder)))
    else:
        from lavra.reports.run_files import read_run
        from lavra.reports.run_summary import next_lines

        lines = next_lines(read_run(folder))
    for line in lines:
        log(line)  # a line that `last_lines` made is in the language of the user already, and has no template


def show(text: str) -> None:
    """Print the result of a command for a person on standard output, in the language of the user.

    Args:
        text: The result in English, see `lavra.core.messages`; none of it may be what a model wrote.
    """
    print(told(text))


def print_json(value: object) -> None:
    """Print the result of a command as one JSON object, in one line on standard output.

    Args:
        value: Plain values: mappings, sequences, strings, numbers, None. NaN and infinity are printed as null.
    """
    print(one_line(value), flush=True)


def _before_dashes(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the words before `--`, after which there are no flags."""
    return itertools.takewhile(lambda word: word != "--", arguments)


def _recipe(arguments: Sequence[str]) -> Path | None:
    """Find the recipe before the other flags are read, because it sets their defaults."""
    for number, word in enumerate(_before_dashes(arguments)):
        if word == "--recipe" and number + 1 < len(arguments):
            return Path(arguments[number + 1])
        if word.startswith("--recipe="):
            return Path(word.removeprefix("--recipe="))
    return None


def _default(cls: type[Options], recipe: Path | None, flags: Sequence[Flag]) -> Any:
    """Return the field that holds the options: with the values of the recipe, where there is one."""
    if recipe is None:
        return dataclasses.field()
    try:
        text = recipe.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {recipe} cannot be read: {error}", "give a TOML file") from error
    _check_keys(text, recipe, flags)
    options = from_toml(cls, text, str(recipe), missing=tyro.MISSING)
    return dataclasses.field(default_factory=lambda: options)


def _check_keys(text: str, recipe: Path, flags: Sequence[Flag]) -> None:
    """Refuse the short form of a flag as a key: in a recipe `context` is `model.context`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # reading the options says so
    places = {name: flag.path for flag in flags for name in flag.names}
    for key, value in table.items():
        path = places.get("--" + key.replace("_", "-"), (key,))
        if path != (key,) and not isinstance(value, dict):
            raise InputError(f"the recipe {recipe}: {key} is the short form of a flag", f"write {'.'.join(path)}")
