"""Shapes of JSON: what a file that lavra wrote may hold, checked when it is read, with the place of what does not fit.

A damaged file is not trusted piecemeal: whatever has another shape is left out and named, so that those who read the
values need to expect nothing but that some are missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lavra.core.errors import Damaged

_LARGEST = 1e300
"""Numbers beyond it are nothing that lavra measured, and no float when they are multiplied."""


class _Unfit(Exception):
    """A value of another shape."""


@dataclass
class Misfits:
    """Collects what does not fit, by its place in the file: "predicted.seconds.actual is 'x', not a number"."""

    found: list[str] = field(default_factory=list)

    def add(self, place: str, value: Any, wanted: str) -> None:
        """Note one value."""
        kinds = {dict: "an object", list: "a list", type(None): "null"}
        shown = kinds[type(value)] if type(value) in kinds else _shortly(value)
        self.found.append(f"{place or 'the whole'} is {shown}, not {wanted}")


def _shortly(value: Any) -> str:
    if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
        return "a number of hundreds of digits"
    return repr(value)[:60]


class Shape(ABC):
    """What a value may be."""

    @abstractmethod
    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value without what does not fit.

        Raises:
            _Unfit: if nothing of it fits; it is noted in `misfits` then.
        """


@dataclass(frozen=True)
class Plain(Shape):
    """A number (finite), a text, true or false; `empty` allows null."""

    name: str
    types: tuple[type, ...]
    empty: bool = True

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value."""
        if value is None and self.empty:
            return None
        right = isinstance(value, self.types) and (not isinstance(value, bool) or bool in self.types)
        if right and isinstance(value, int | float):
            right = -_LARGEST < value < _LARGEST  # neither infinite nor "not a number"
        if not right:
            misfits.add(place, value, self.name)
            raise _Unfit
        return value


NUMBER = Plain("a number", (int, float))
WHOLE = Plain("a whole number", (int,))
TEXT = Plain("a text", (str,))
FLAG = Plain("true or false", (bool,))
SETTING = Plain("a plain value", (bool, int, float, str))


@dataclass(frozen=True)
class ListOf(Shape):
    """A list; items that do not fit are left out."""

    item: Shape

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the list of what fits."""
        if value is None:
            return []
        if not isinstance(value, list):
            misfits.add(place, value, "a list")
            raise _Unfit
        kept = []
        for number, item in enumerate(value):
            try:
                kept.append(self.item.fit(item, f"{place}[{number}]", misfits))
            except _Unfit:
                continue
        return kept


@dataclass(frozen=True)
class Table(Shape):
    """An object.

    Args:
        fields: shapes by name.
        needed: names without which the object means nothing.
        rest: of the values with other names; plain settings, nested at will, by default.
    """

    fields: Mapping[str, Shape] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    rest: Shape | None = None

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the object of what fits."""
        if not isinstance(value, dict):
            misfits.add(place, value, "an object")
            raise _Unfit
        kept = {}
        for name, item in value.items():
            try:
                shape = self.fields.get(name, self.rest or ANYTHING)
                kept[name] = shape.fit(item, f"{place}.{name}" if place else name, misfits)
            except _Unfit:
                continue
        lost = [name for name in self.needed if kept.get(name) is None]
        if lost:
            misfits.add(place, value, f"whole: it lacks {', '.join(lost)}")
            raise _Unfit
        return kept


@dataclass(frozen=True)
class Anything(Shape):
    """Plain values, lists and objects of them, as settings are."""

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return what of the value can be shown."""
        if isinstance(value, dict):
            return Table().fit(value, place, misfits)
        if isinstance(value, list):
            return ListOf(self).fit(value, place, misfits)
        return SETTING.fit(value, place, misfits)


ANYTHING = Anything()


@dataclass(frozen=True)
class Either(Shape):
    """The first of some shapes that the value fits without a misfit, or else what is left by the last."""

    shapes: tuple[Shape, ...]

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value in the first shape that fits."""
        for shape in self.shapes[:-1]:
            tried = Misfits()
            try:
                found = shape.fit(value, place, tried)
            except _Unfit:
                continue
            if not tried.found:
                return found
        return self.shapes[-1].fit(value, place, misfits)


def fitting(shape: Shape, value: Any, misfits: Misfits, place: str = "") -> Any | None:
    """Return what of a value fits a shape, and note the rest; None where nothing does."""
    try:
        return shape.fit(value, place, misfits)
    except _Unfit:
        return None


def demand(shape: Shape, value: Any, file: str) -> Any:
    """Return a value that fits a shape as a whole.

    Raises:
        Damaged: naming the file and the first place that does not fit.
    """
    misfits = Misfits()
    found = fitting(shape, value, misfits)
    if misfits.found:
        raise Damaged(f"{file} is damaged: {misfits.found[0]}", "bring the file back from a copy of the folder")
    return found
