"""Types for configuration fields that people write with units: `budget: Duration = 600.0` accepts `--budget 20m`.

The value is always a plain number (seconds, bytes, a count). The command line and the TOML reader both use the
parser that each type carries.

Examples:
    >>> from dataclasses import dataclass
    >>> from lavra.config.quantities import Count, Duration
    >>> from lavra.core.configuration import from_table
    >>> @dataclass
    ... class Request:
    ...     budget: Duration = 600.0
    ...     tokens: Count = 0
    >>> from_table(Request, {"budget": "1h30m", "tokens": "1.5M"}, "recipe.toml")
    Request(budget=5400.0, tokens=1500000)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from lavra.core.errors import InputError
from lavra.core.units import parse_count, parse_duration, parse_size


class _Quantity(PrimitiveConstructorSpec[Any]):
    """The parser of a quantity; its `repr` is short because tyro's error messages print it."""

    def __repr__(self) -> str:
        return self.metavar.lower()


def _quantity(metavar: str, parse: Callable[[str], float]) -> _Quantity:
    """Return the parser of a field: `metavar` stands for the value in the help, and `parse` reads its text."""

    def from_text(words: list[str]) -> float:
        try:
            return parse(words[0])
        except InputError as error:
            raise ValueError(f"{error.message}: {error.remedy}") from error

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return _Quantity(
        nargs=1,
        metavar=metavar,
        instance_from_str=from_text,
        is_instance=is_number,
        str_from_instance=lambda value: [f"{value:g}" if isinstance(value, float) else str(value)],
    )


Duration = Annotated[float, _quantity("DURATION", parse_duration)]
"""A duration in seconds, written `90`, `45s`, `20m`, `1h30m` or `2d`."""

Size = Annotated[int, _quantity("SIZE", parse_size)]
"""A size in bytes, written `4096`, `10MB` (powers of 1000) or `512MiB` (powers of 1024)."""

Count = Annotated[int, _quantity("COUNT", parse_count)]
"""A whole number, written `5000`, `10k`, `330M` or `1.5B`."""
