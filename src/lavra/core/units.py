"""Converts durations, sizes and counts from and to what people write (`20m`, `512MiB`, `330M`), and nats to perplexity.

Examples:
    >>> from lavra.core.units import parse_count, parse_duration, parse_size
    >>> parse_duration("1h30m"), parse_size("512MiB"), parse_count("1.5B")
    (5400.0, 536870912, 1500000000)
    >>> from lavra.core.units import show_count, show_duration, show_size
    >>> show_duration(200), show_size(3500), show_count(12345)
    ('3 min 20 s', '3.4 KiB', '12.3k')
"""

from __future__ import annotations

import math
import re
from typing import Any

from lavra.core.errors import InputError

_NUMBER = r"(\d+(?:\.\d+)?)"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024))
}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


def parse_duration(text: str | float) -> float:
    """Return the seconds that `text` means: `90`, `45s`, `20m`, `1h30m`, `2d`; a number is taken as seconds.

    Raises:
        InputError: if the text is no duration.
    """
    if isinstance(text, int | float):
        return float(text)
    written = text.strip().lower().replace(" ", "")
    if re.fullmatch(_NUMBER, written):
        return float(written)
    pieces = re.findall(rf"{_NUMBER}(ms|min|[smhd])", written)
    if not pieces or "".join(f"{number}{unit}" for number, unit in pieces) != written:
        raise InputError(f"{text!r} is not a duration", "write it like 90s, 20m, 1h30m or 2d")
    return sum(float(number) * _SECONDS[unit] for number, unit in pieces)


def parse_size(text: str | int) -> int:
    """Return the bytes that `text` means: `4096`, `10MB` (powers of 1000), `512MiB` (powers of 1024).

    Raises:
        InputError: if the text is no size.
    """
    return _scaled(text, _BYTES, "size", "10MB, 512MiB or 2GiB")


def parse_count(text: str | int) -> int:
    """Return the whole number that `text` means: `5000`, `10k`, `330M`, `1.5B`.

    Raises:
        InputError: if the text is no count.
    """
    return _scaled(text, _COUNTS, "count", "5000, 10k, 330M or 1.5B")


def _scaled(text: str | int, table: dict[str, int], kind: str, examples: str) -> int:
    if isinstance(text, int):
        return text
    match = re.fullmatch(rf"{_NUMBER}([a-z]*)", text.strip().lower().replace(" ", "").replace("_", ""))
    if match is None or match[2] not in table:
        raise InputError(f"{text!r} is not a {kind}", f"write it like {examples}")
    return round(float(match[1]) * table[match[2]])


def show_duration(seconds: float) -> str:
    """Return seconds as a person would write them: `0.4 s`, `42 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def show_size(size: float) -> str:
    """Return bytes with a binary unit: `812 B`, `3.4 KiB`, `1.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def show_count(count: float) -> str:
    """Return a number with a short suffix: `950`, `12.3k`, `7.1M`, `1.50B`."""
    for scale, suffix, digits in ((10**9, "B", 2), (10**6, "M", 1), (10**3, "k", 1)):
        if count >= scale:
            return f"{count / scale:.{digits}f}{suffix}"
    return f"{count:.0f}"


def counted(count: Any, noun: str, plural: str = "") -> str:
    """Write a count with its noun in the right number: `1 document`, `1,234 documents`, `? documents`.

    Args:
        count: The count. Anything that is not a number is written as `?`, with the plural.
        noun: The noun in the singular.
        plural: The noun in the plural, where it is not the singular with an s.

    Returns:
        The count with separators of thousands, and the noun.

    Examples:
        >>> counted(1, "document"), counted(1234, "query", "queries"), counted(None, "token")
        ('1 document', '1,234 queries', '? tokens')
    """
    plural = plural or f"{noun}s"
    if not isinstance(count, int | float):
        return f"? {plural}"
    return f"{count:,.0f} {noun if count == 1 else plural}"


def perplexity_of(loss: float) -> float:
    """Return the perplexity, exp(loss), of a mean loss in nats; infinite where it overflows or the loss is NaN."""
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte_of(loss: float, bytes_per_target: float) -> float:
    """Return a mean loss in nats per target as bits per byte of the original text.

    Args:
        loss: Mean loss in nats.
        bytes_per_target: Mean number of bytes of text for each target.

    Examples:
        >>> round(bits_per_byte_of(2.7726, 4.0), 4)
        1.0
    """
    return loss / math.log(2) / bytes_per_target
