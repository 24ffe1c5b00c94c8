"""Typed configurations: nested dataclasses to and from TOML and JSON.

A configuration is a dataclass whose fields are booleans, numbers, strings, paths, literals, optional values, tuples,
lists, dictionaries with string keys, and other such dataclasses. What is written reads back equal. TOML has no null:
a field that is None is left out when None is its default, and written as the string "none" when it is not.

Examples:
    >>> from dataclasses import dataclass
    >>> from lavra.core.configuration import from_toml, to_toml
    >>> @dataclass(frozen=True)
    ... class Schedule:
    ...     shape: str = "cosine"
    ...     warmup_steps: int | None = 10
    >>> print(to_toml(Schedule(warmup_steps=None)), end="")
    shape = "cosine"
    warmup_steps = "none"
    >>> from_toml(Schedule, 'warmup_steps = 5', "recipe.toml")
    Schedule(shape='cosine', warmup_steps=5)
    >>> from_toml(Schedule, 'warmup = 5', "recipe.toml")
    Traceback (most recent call last):
        ...
    lavra.core.errors.InputError: recipe.toml: warmup is no known key
      what to do: did you mean warmup_steps?
"""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError
from lavra.core.typed_values import NOTHING, Config, TypedReader, default_of, field_types, reads_nothing


def to_json(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values: paths become strings, tuples become lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def to_toml(config: Any) -> str:
    """Write a configuration as TOML: its own values first, then one table for each nested dataclass.

    Returns:
        The text of a TOML file, which ends with a line end. `from_toml` reads an equal configuration from it.

    Raises:
        TypeError: if a value has no place in TOML.
    """
    return "\n".join(_table_lines(config, ())).strip() + "\n"


def from_toml(cls: type[Config], text: str, place: str, *, missing: Any = dataclasses.MISSING) -> Config:
    """Build a configuration from TOML.

    Args:
        cls: The dataclass to build; keys that are absent take its defaults.
        text: The content of a TOML file.
        place: Name of the file, for messages.
        missing: Value of an absent field that has no default; by default such an absence is an error.

    Returns:
        An instance of `cls`.

    Raises:
        InputError: if the text is no TOML, a key is unknown or missing, or a value has the wrong type.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place} is not valid TOML: {error}", "see https://toml.io for the format") from error
    return from_table(cls, table, place, missing=missing)


def from_table(
    cls: type[Config], table: Mapping[str, Any], place: str, *, missing: Any = dataclasses.MISSING
) -> Config:
    """Build a configuration from a mapping of plain values; it also reads what `to_json` returned.

    The arguments other than `table`, the returned instance and the errors are those of `from_toml`.
    """
    return TypedReader(place, missing).dataclass(cls, table, ())


def _plain(value: Any) -> Any:
    if _is_config(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _table_lines(config: Any, path: tuple[str, ...]) -> list[str]:
    """Return the lines of one dataclass: its own values, then its nested dataclasses as tables."""
    own: list[str] = []
    nested: list[str] = []
    for name, value in _written(config, path):
        if _is_config(value):
            nested += _table_lines(value, (*path, name))
        else:
            own.append(f"{name} = {_inline(value, (*path, name))}")
    header = ["", f"[{'.'.join(path)}]"] if path else []
    return header + own + nested


def _written(config: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are written, with `NOTHING` for a None that the default would not bring back."""
    hints = field_types(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in hints or (value is None and default_of(field) is None):
            continue
        if value in (None, NOTHING) and reads_nothing(hints[field.name]) is not (value is None):
            raise TypeError(f"{'.'.join((*path, field.name))}: {value!r} cannot be told from another value in TOML")
        yield field.name, NOTHING if value is None else value


def _inline(value: Any, place: tuple[str, ...]) -> str:
    """Write one value in the inline form of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str | Path):
        return _string(value.as_posix() if isinstance(value, Path) else value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(item, (*place, str(number))) for number, item in enumerate(value)) + "]"
    if _is_config(value):
        value = dict(_written(value, place))
    if isinstance(value, Mapping):
        items = ", ".join(f"{_string(str(key))} = {_inline(item, (*place, str(key)))}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    raise TypeError(f"{'.'.join(place)}: {type(value).__name__} has no place in TOML")


def _string(text: str) -> str:
    """Write a basic string of TOML; its escapes are those of JSON, except for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
