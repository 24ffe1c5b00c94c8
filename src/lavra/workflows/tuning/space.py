"""The space of a sweep: which options of a training run take which values."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from lavra.config.flags import Flag, flags_of
from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.typed_values import TypedReader

Scale = Literal["choice", "linear", "log"]
"""How the values of a field are given: as a list, or as a range, in which values are spread evenly or by factors."""

Point = Mapping[str, Any]
"""The value of each field of a space, by the name of the field."""

Request = TypeVar("Request", bound=TrainConfig)

STEP = 3.0
"""Factor between neighbouring values around a default."""

_WIDEST = 3.5
"""Largest factor between neighbouring values where a range by factors becomes a grid."""

_LINEAR = 5
"""Values of an evenly spread range in a grid."""

_SIZES_FROM = 64
"""Lower end from which on a range of whole numbers is one of sizes, which have to be multiples of powers of two."""

_FIXED = {
    **dict.fromkeys(("out", "force", "budget", "check", "track", "samples"), "it changes no model"),
    **dict.fromkeys(("checkpoint_every", "keep_checkpoints", "machine.device"), "it changes no model"),
    **dict.fromkeys(("folds", "fold_by", "early_stopping"), "the trials of a sweep are single runs"),
    **dict.fromkeys(("seed", "seeds"), "give --seeds N to train each point with several"),
}
"""Options that cannot be swept, and why."""

_RANGE = re.compile(r"(?P<log>log:)?(?P<low>[^,]+?)\.\.(?P<high>[^,]+)")


@dataclass(frozen=True)
class Field:
    """One option that takes several values.

    Attributes:
        path: The names of the fields of `TrainConfig` that lead to it.
        flag: The flag, without its dashes, as it is shown.
        scale: How the values are given.
        values: The values of a choice.
        low: Lower end of a range.
        high: Upper end of a range.
        multiple: Whole number of which the values of a range are multiples; 0 for any number.

    Examples:
        >>> rate = Field(("optimization", "muon_lr"), "optimization.muon-lr", "log", low=1e-3, high=1e-1)
        >>> rate.at(0.5), rate.grid
        (0.01, (0.001, 0.003162, 0.01, 0.03162, 0.1))
    """

    path: tuple[str, ...]
    flag: str
    scale: Scale
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    multiple: int = 0

    @property
    def name(self) -> str:
        """The path as in a recipe, with dots."""
        return ".".join(self.path)

    @property
    def is_finite(self) -> bool:
        """Whether the field takes finitely many values."""
        return self.scale == "choice"

    @property
    def grid(self) -> tuple[Any, ...]:
        """The values of the field in a grid: those of a choice, or some of a range, its ends among them."""
        if self.scale == "choice":
            return self.values
        if self.scale == "log":
            count = math.ceil(math.log(self.high / self.low) / math.log(_WIDEST)) + 1
        else:
            count = _LINEAR
        return tuple(dict.fromkeys(self.at(number / (count - 1)) for number in range(count)))

    def at(self, place: float) -> Any:
        """Return the value at a place of the field, from 0 to 1."""
        if self.scale == "choice":
            return self.values[min(len(self.values) - 1, int(place * len(self.values)))]
        if self.scale == "log":
            value = self.low * (self.high / self.low) ** place
        else:
            value = self.low + (self.high - self.low) * place
        if self.multiple:
            return int(min(self.high, max(self.low, self.multiple * round(value / self.multiple))))
        return float(f"{value:.4g}")

    def place(self, value: Any) -> float:
        """Return the place of a value of a range, from 0 to 1; of a choice its number."""
        if self.scale == "choice":
            return float(self.values.index(value))
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def to_json(self) -> dict[str, Any]:
        """Return the field as JSON values; `field_from` reads it."""
        return {**dataclasses.asdict(self), "path": self.name}


def field_from(table: Mapping[str, Any]) -> Field:
    """Return the field that `Field.to_json` wrote."""
    values = {"path": tuple(table["path"].split(".")), "values": tuple(table.get("values", ()))}
    return Field(**{**table, **values})


def parse_fields(sweeps: Sequence[str]) -> list[Field]:
    """Return the fields that a request names.

    Args:
        sweeps: What `--sweep` was given, once for each field: `FIELD=VALUE,VALUE`, `FIELD=LOW..HIGH` or
            `FIELD=log:LOW..HIGH`.

    Raises:
        InputError: If a field is unknown, cannot be swept or is named twice, or a value is no value of it.

    Examples:
        >>> parse_fields(["model.depth=2,4"])[0].values
        (2, 4)
    """
    flags = {name: flag for flag in flags_of(TrainConfig) for name in _names(flag)}
    fields = [_parsed(text, flags) for text in sweeps]
    twice = next((one for number, one in enumerate(fields) if one.path in [f.path for f in fields[:number]]), None)
    if twice is not None:
        raise InputError(f"--sweep names {twice.flag} twice", "give all of its values at once, with commas")
    return fields


def with_point(config: Request, point: Point) -> Request:
    """Return a request with the values of a point.

    Args:
        config: The request.
        point: The value of each field, by its name.
    """
    for name, value in point.items():
        config = _with_value(config, name.split("."), value)
    return config


def shown(fields: Iterable[Field], point: Point) -> str:
    """Return the values of a point in words: `optimization.muon-lr 0.01, model.depth 4`.

    Args:
        fields: The fields of the space.
        point: The value of each.
    """
    return ", ".join(f"{field.flag} {shown_value(point[field.name])}" for field in fields)


def shown_value(value: Any) -> str:
    """Return the value of a field in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _with_value(config: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return replace(config, **{first: _with_value(getattr(config, first), rest, value) if rest else value})


def _names(flag: Flag) -> list[str]:
    """Return the names of a flag without dashes, and without those that turn a switch off."""
    if flag.positional:
        return []
    names = flag.names[::2] if flag.switch else flag.names
    return [name.removeprefix("--") for name in names]


def _parsed(text: str, flags: Mapping[str, Flag]) -> Field:
    name, equals, values = text.partition("=")
    name = name.strip().removeprefix("--").replace("_", "-")
    if not equals or not values.strip():
        raise InputError(
            f"--sweep {text} names no values",
            "write --sweep optimization.learning-rate=1e-4,3e-4,1e-3 or --sweep model.width=log:128..512",
        )
    flag = flags.get(name)
    if flag is None:
        raise InputError(f"--sweep {name}: there is no such option of `lavra train`", _near(name, list(flags)))
    path = ".".join(flag.path)
    if path in _FIXED:
        raise InputError(f"--sweep {name} is not possible", _FIXED[path])
    if get_origin(flag.hint) is tuple:
        raise InputError(f"--sweep {name} is not possible: it takes several values itself", "sweep another option")
    shown_as = flag.names[-2 if flag.switch else -1].removeprefix("--")
    return _range(values.strip(), flag, shown_as) or _choice(values, flag, shown_as)


def _choice(values: str, flag: Flag, shown_as: str) -> Field:
    read = [_value(word.strip(), flag, shown_as) for word in values.split(",") if word.strip()]
    twice = next((one for number, one in enumerate(read) if one in read[:number]), None)
    if twice is not None:
        raise InputError(f"--sweep {shown_as} names {shown_value(twice)} twice", "name each value once")
    return Field(flag.path, shown_as, "choice", tuple(read))


def _range(values: str, flag: Flag, shown_as: str) -> Field | None:
    found = _RANGE.fullmatch(values) if {int, float} & set(_plain_types(flag.hint)) else None
    if found is None:
        if values.startswith("log:"):
            raise InputError(f"--sweep {shown_as}={values} is no range", f"write {shown_as}=log:LOW..HIGH")
        return None
    low, high = (_value(found[end].strip(), flag, shown_as) for end in ("low", "high"))
    scale: Scale = "log" if found["log"] else "linear"
    if not low < high or (scale == "log" and low <= 0):
        raise InputError(
            f"--sweep {shown_as}={values} is no range",
            "the first number must be smaller than the second" + (", and above 0" if scale == "log" else ""),
        )
    multiple = 0
    if int in _plain_types(flag.hint):
        multiple = math.gcd(low, high) & -math.gcd(low, high) if low >= _SIZES_FROM else 1
    return Field(flag.path, shown_as, scale, low=low, high=high, multiple=multiple)


def _value(word: str, flag: Flag, shown_as: str) -> Any:
    """Return a word as the value of a field, with the type of the field."""
    plain = _plain_types(flag.hint)
    raw: Any = word
    if word == "none" and types.NoneType in plain:
        return None
    if word in ("true", "false", "yes", "no") and bool in plain:
        raw = word in ("true", "yes")
    elif not _is_quantity(flag.hint) and str not in plain:
        for kind in (int, float):
            try:
                raw = kind(word)
                break
            except ValueError:
                continue
    return TypedReader(f"--sweep {shown_as}", dataclasses.MISSING).value(flag.hint, raw, flag.path)


def _plain_types(hint: Any) -> list[Any]:
    """Return the plain types that a type is made of, without its marks."""
    if get_origin(hint) is Annotated:
        return _plain_types(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [one for option in get_args(hint) for one in _plain_types(option)]
    if get_origin(hint) is Literal:
        return [type(choice) for choice in get_args(hint)]
    return [hint]


def _is_quantity(hint: Any) -> bool:
    """Return whether values of a type are written with units."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_quantity(option) for option in get_args(hint))
    return get_origin(hint) is Annotated and any(hasattr(mark, "instance_from_str") for mark in get_args(hint)[1:])


def _near(name: str, names: list[str]) -> str:
    """Return which options were probably meant."""
    last = name.rpartition(".")[2]
    parts: dict[str, list[str]] = {}
    for one in names:
        parts.setdefault(one.rpartition(".")[2], []).append(one)
    found = get_close_matches(name, names, 3, cutoff=0.7)
    for part in get_close_matches(last, parts, 2, cutoff=0.75):
        found += [one for one in parts[part] if one not in found]
    if not found:
        return "`lavra train --help-all` lists the options"
    return f"did you mean {' or '.join(found[:3])}?"
