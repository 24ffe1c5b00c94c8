"""Why the parser refused a command line: the first value that a flag cannot take, or what is missing, in words."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lavra.config.flags import Flag
from lavra.core.errors import InputError
from lavra.core.units import parse_count, parse_duration, parse_size


def check_values(words: Sequence[str], flags: Sequence[Flag], prog: str) -> None:
    """Explain a command line that was refused.

    Args:
        words: The words after the name of the command.
        flags: The flags of the command, and what it takes by place.
        prog: The command as a person types it, such as "lavra train".

    Raises:
        InputError: For the first flag without its value, the first value that does not fit, the first required flag or
            argument that is missing. Nothing is raised where all of this is right.
    """
    known = {name: flag for flag in flags for name in flag.names}
    given: set[tuple[str, ...]] = set()
    by_place: list[str] = []
    for name, values in _parted(words, known):
        if not name:
            by_place += values
            continue
        flag = known[name]
        given.add(flag.path)
        if flag.switch:
            by_place += values
            continue
        if not values:
            raise InputError(f"{name} has no value", f"write {name} {flag.metavar}")
        several = get_origin(flag.hint) is tuple
        for value in values if several else values[:1]:
            _check_value(flag, value, name)
        by_place += [] if several else values[1:]
    _check_presence(flags, given, by_place, prog)


def _parted(words: Sequence[str], known: dict[str, Flag]) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with the words up to the next one; no flag for the words before the first, and after `--`."""
    name, values = "", []
    for number, word in enumerate(words):
        if word == "--":
            yield name, values
            name, values = "", list(words[number + 1 :])
            break
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag in known:
            yield name, values
            name, values = flag, [value] if equals else []
        else:
            values.append(word)
    yield name, values


def _check_presence(flags: Sequence[Flag], given: set[tuple[str, ...]], by_place: list[str], prog: str) -> None:
    """Check that everything required is given; an argument may also be given as a flag of its name."""
    required = [flag for flag in flags if flag.default is dataclasses.MISSING and flag.path not in given]
    places = [flag for flag in required if flag.positional]
    missing = [flag.metavar for flag in places[len(by_place) :]]
    missing += [f"{flag.names[0]} {flag.metavar}" for flag in required if not flag.positional]
    if missing:
        raise InputError(f"`{prog}` needs {missing[0]}", f"`{prog} --help` says more and gives examples")


_QUANTITIES = {"DURATION": parse_duration, "SIZE": parse_size, "COUNT": parse_count}
"""What reads a value with a unit, by its name in the help; the hint of such a flag is that of a plain number."""


def _check_value(flag: Flag, value: str, name: str) -> None:
    """Check that a word can become a value of a flag, which was given by the name `name`."""
    read = _QUANTITIES.get(flag.metavar.partition("|")[0])
    choices = [str(choice) for part in get_args(flag.hint) for choice in get_args(part) if get_origin(part) is Literal]
    if read is None:
        _check(get_args(flag.hint)[0] if get_origin(flag.hint) is tuple else flag.hint, value, name)
    elif value not in choices:
        try:
            read(value)
        except InputError as error:
            raise InputError(f"{name}: {error.message}", error.remedy) from error


def _check(hint: Any, value: str, name: str) -> None:
    """Check that a word can become a value of the type `hint`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        _check(arguments[0], value, name)
    elif origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not types.NoneType]
        if all(_refuses(option, value) for option in options):
            _check(options[0], value, name)
    elif origin is Literal:
        choices = [str(choice) for choice in arguments]
        if value not in choices:
            near = get_close_matches(value, choices, 1)
            told = f"did you mean {near[0]}?" if near else "choose one of them"
            raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}", told)
    elif hint in (int, float):
        try:
            hint(value)
        except ValueError as error:
            told = "is not a whole number" if hint is int else "is not a number"
            raise InputError(f"{name} {value!r} {told}", "correct the value") from error


def _refuses(hint: Any, value: str) -> bool:
    try:
        _check(hint, value, "")
    except InputError:
        return True
    return False
