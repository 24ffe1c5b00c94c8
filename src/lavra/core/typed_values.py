"""Converts plain values, as TOML and JSON give them, into the typed fields of a dataclass; errors name the place."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lavra.core.errors import InputError

Config = TypeVar("Config")

NOTHING = "none"
"""The string that stands for None in TOML, which has no null, where the default of a field is another value."""


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Return the resolved type of each field that a dataclass takes, with its `Annotated` metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default value of a dataclass field, or `dataclasses.MISSING` where it has none."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def reads_nothing(hint: Any) -> bool:
    """Return whether the string "none" means None for a field of this type: it is optional and accepts no other text.

    Args:
        hint: The type of the field, as its annotation says.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    bare = [get_args(option)[0] if get_origin(option) is Annotated else option for option in options]
    return types.NoneType in bare and not any(_fits(option, NOTHING) for option in bare)


class TypedReader:
    """Converts plain values into typed ones, and says in its errors which value does not fit.

    Args:
        place: Name of the file or the source of the values, for messages.
        missing: Value of absent fields without a default; `dataclasses.MISSING` makes such an absence an error.
    """

    def __init__(self, place: str, missing: Any) -> None:
        self.place, self.missing = place, missing

    def dataclass(self, cls: type[Config], table: Any, path: tuple[str, ...]) -> Config:
        """Return `table` as an instance of the dataclass `cls`.

        Args:
            cls: The dataclass.
            table: A mapping from the names of fields to plain values.
            path: Names of the fields that lead from the outermost table to this one, for messages.

        Raises:
            InputError: if a key is unknown or missing, or a value has the wrong type.
        """
        if not isinstance(table, Mapping):
            raise self._wrong(path, "a table", table)
        hints = field_types(cls)
        for key in table:
            if key not in hints:
                raise self._unknown(key, path, list(hints))
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
            if field.name in table:
                values[field.name] = self.value(hints[field.name], table[field.name], (*path, field.name))
            elif field.init and default_of(field) is dataclasses.MISSING:
                values[field.name] = self._absent(hints[field.name], (*path, field.name))
        return cls(**values)

    def value(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        """Return `value` converted to the type `hint`; `path` and the errors are those of `dataclass`."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._annotated(arguments, value, path)
        if origin in (Union, types.UnionType):
            return self._union(arguments, value, path)
        if origin is Literal:
            return self._literal(arguments, value, path)
        if origin in (tuple, list, Sequence):
            return self._sequence(origin, arguments, value, path)
        if origin in (dict, Mapping):
            return self._mapping(arguments[1], value, path)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(hint, value, path)  # pyright: ignore[reportArgumentType]
        return self._scalar(hint, value, path)

    def _annotated(self, arguments: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
        parsers = [note.instance_from_str for note in arguments[1:] if hasattr(note, "instance_from_str")]
        if not parsers or not isinstance(value, str):
            return self.value(arguments[0], value, path)
        try:
            return parsers[0]([value])
        except ValueError as error:
            raise InputError(f"{self.place}: {'.'.join(path)}: {error}") from error

    def _union(self, options: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
        if value is None and types.NoneType in options:
            return None
        if value == NOTHING and reads_nothing(Union[options]):  # noqa: UP007 -- made at run time
            return None
        options = tuple(option for option in options if option is not types.NoneType)
        for option in options:
            if len(options) == 1 or _fits(option, value):
                return self.value(option, value, path)
        raise self._wrong(path, " or ".join(_name(option) for option in options), value)

    def _literal(self, choices: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return choice
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], 1)
        expected = ", ".join(repr(choice) for choice in choices)
        raise InputError(
            f"{self.place}: {'.'.join(path)} = {value!r} is not one of {expected}",
            f"did you mean {near[0]!r}?" if near else "choose one of them",
        )

    def _sequence(self, kind: Any, arguments: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, list | tuple):
            raise self._wrong(path, "a list", value)
        fixed = kind is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis)
        if fixed and len(arguments) != len(value):
            raise self._wrong(path, f"a list of {len(arguments)} values", value)
        hints = arguments if fixed else [arguments[0]] * len(value)
        items = [
            self.value(hint, item, (*path, str(number)))
            for number, (hint, item) in enumerate(zip(hints, value, strict=True))
        ]
        return items if kind is list else tuple(items)

    def _mapping(self, hint: Any, value: Any, path: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self._wrong(path, "a table", value)
        return {key: self.value(hint, item, (*path, key)) for key, item in value.items()}

    def _scalar(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        if hint is Any or _fits(hint, value):
            if hint is float:
                return float(value)
            return Path(value) if _is_path(hint) else value
        raise self._wrong(path, _name(hint), value)

    def _absent(self, hint: Any, path: tuple[str, ...]) -> Any:
        if self.missing is not dataclasses.MISSING:
            return self.missing
        raise InputError(f"{self.place}: {'.'.join(path)} is missing", f"add it; it is {_name(hint)}")

    def _unknown(self, key: str, path: tuple[str, ...], known: list[str]) -> InputError:
        near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
        return InputError(
            f"{self.place}: {'.'.join((*path, key))} is no known key",
            f"did you mean {'.'.join((*path, near[0]))}?" if near else f"the keys here are {', '.join(known)}",
        )

    def _wrong(self, path: tuple[str, ...], expected: str, value: Any) -> InputError:
        return InputError(
            f"{self.place}: {'.'.join(path) or 'the whole'} must be {expected}, not {_shown(value)}",
            "correct the value",
        )


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _is_path(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Path)


def _fits(hint: Any, value: Any) -> bool:
    """Return whether a plain value can become the type `hint`; of containers only the kind is checked."""
    origin = get_origin(hint)
    if origin is Annotated:
        bare, *notes = get_args(hint)
        return _fits(bare, value) or (isinstance(value, str) and any(_parses(note, value) for note in notes))
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple)
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if _is_path(hint):
        return isinstance(value, str | Path)
    return type(value) is hint


def _parses(note: Any, text: str) -> bool:
    try:
        return hasattr(note, "instance_from_str") and note.instance_from_str([text]) is not None
    except ValueError:
        return False


def _name(hint: Any) -> str:
    """Name a type for a person."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        notes = [note.metavar.lower() for note in arguments[1:] if hasattr(note, "metavar")]
        return f"a {notes[0]}" if notes else _name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_name(option) for option in arguments if option is not types.NoneType)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in (tuple, list, Sequence):
        return "a list"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return "a table"
    if _is_path(hint):
        return "a path"
    return _NAMES.get(hint, str(hint))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
