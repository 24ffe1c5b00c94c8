"""A small schema language for JSON: what a file that lavra wrote may hold, checked when it is read.

Whatever has another shape in a damaged file is left out and reported with its place, so that code that reads the values
only has to expect that some are missing.

Examples:
    >>> from lavra.core.disk.shapes import NUMBER, TEXT, ListOf, Misfits, Table, fitting
    >>> shape = Table({"name": TEXT, "losses": ListOf(NUMBER)})
    >>> misfits = Misfits()
    >>> fitting(shape, {"name": "demo", "losses": [1.5, "high", 1.2]}, misfits)
    {'name': 'demo', 'losses': [1.5, 1.2]}
    >>> misfits.found
    ["losses[1] is 'high', not a number"]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lavra.core.errors import CorruptFile

# Larger numbers are refused: lavra measures none, and calculations with them would overflow a float.
_LARGEST = 1e300


class _Unfit(Exception):
    """Raised for a value of which nothing fits the shape; it has been noted in the `Misfits`."""


@dataclass
class Misfits:
    """Collects what does not fit a shape.

    Attributes:
        found: One sentence for each value, with its place in the file: "predicted.seconds.actual is 'x', not a
            number".
    """

    found: list[str] = field(default_factory=list)

    def add(self, place: str, value: Any, wanted: str) -> None:
        """Note that the value at `place` is not what was `wanted`, such as "a number"."""
        kinds = {dict: "an object", list: "a list", type(None): "null"}
        shown = kinds[type(value)] if type(value) in kinds else _shortly(value)
        self.found.append(f"{place or 'the whole'} is {shown}, not {wanted}")


def _shortly(value: Any) -> str:
    if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
        return "a number of hundreds of digits"
    return repr(value)[:60]


class Shape(ABC):
    """A description of what a value may be."""

    @abstractmethod
    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value without the parts that do not fit.

        Args:
            value: The value, as JSON gives it.
            place: Place of the value in the file, such as "evaluation.loss", for messages.
            misfits: Is filled with the parts that do not fit.

        Raises:
            _Unfit: if nothing of the value fits; it has then been noted in `misfits`.
        """


@dataclass(frozen=True)
class Plain(Shape):
    """A single value: a finite number, a text, true or false.

    Args:
        name: What a value is called in messages, such as "a number".
        types: The Python types of a value; true and false are numbers only where `bool` is among them.
        empty: Whether null is allowed too; true by default.
    """

    name: str
    types: tuple[type, ...]
    empty: bool = True

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value, which is left out as a whole where it does not fit; see `Shape.fit`."""
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
    """A list; items that do not fit are left out.

    Args:
        item: The shape of an item.
    """

    item: Shape

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the list of the items that fit, which is empty for null; see `Shape.fit`."""
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
    """An object of JSON.

    Args:
        fields: Shapes of the values by name.
        needed: Names without which the object is left out as a whole; none by default.
        rest: Shape of the values with other names; by default they may be plain values, lists and objects.
    """

    fields: Mapping[str, Shape] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    rest: Shape | None = None

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the object of the members that fit; see `Shape.fit`."""
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
    """Any JSON value: plain values, and lists and objects of them."""

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value without numbers that are not finite; see `Shape.fit`."""
        if isinstance(value, dict):
            return Table().fit(value, place, misfits)
        if isinstance(value, list):
            return ListOf(self).fit(value, place, misfits)
        return SETTING.fit(value, place, misfits)


ANYTHING = Anything()


@dataclass(frozen=True)
class Either(Shape):
    """One of several shapes: the first that the value fits as a whole, or else the last one.

    Args:
        shapes: The shapes, in the order in which they are tried.
    """

    shapes: tuple[Shape, ...]

    def fit(self, value: Any, place: str, misfits: Misfits) -> Any:
        """Return the value by the first shape that fits; see `Shape.fit`."""
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
    """Return the parts of a value that fit a shape, and note the others.

    Args:
        shape: The shape.
        value: The value, as JSON gives it.
        misfits: Is filled with the parts that do not fit.
        place: Place of the value in the file, for messages.

    Returns:
        The value without the parts that do not fit, or None where nothing fits.
    """
    try:
        return shape.fit(value, place, misfits)
    except _Unfit:
        return None


def demand(shape: Shape, value: Any, file: str) -> Any:
    """Return a value that must fit a shape as a whole.

    Raises:
        CorruptFile: if a part does not fit; the message names the file and the first such place.
    """
    misfits = Misfits()
    found = fitting(shape, value, misfits)
    if misfits.found:
        raise CorruptFile(f"{file} is damaged: {misfits.found[0]}", "bring the file back from a copy of the folder")
    return found
