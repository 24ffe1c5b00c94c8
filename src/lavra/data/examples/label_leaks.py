"""Labelled validation rows that stand in the training rows too, where both were given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lavra.core.progress import log
from lavra.data.examples.rows import ExampleRow
from lavra.data.leaks import leaks_between
from lavra.data.readers.rows import LEAK, BadRows


def leaks_across(rows: Iterable[ExampleRow], bad_rows: BadRows) -> dict[str, Any]:
    """Return how many validation rows are, or nearly are, training rows (`Leaks.to_json`), after saying it.

    Args:
        rows: All rows, of which `is_validation` says the side.
        bad_rows: Its policy decides whether a leak is an error.

    Raises:
        InputError: If there is a leak, and the policy is "strict".
    """
    texts: tuple[list[str], list[str]] = ([], [])
    places: tuple[list[str], list[str]] = ([], [])
    for row in rows:
        texts[row.is_validation].append(f"{row.prompt}\n{row.completion}" if row.completion else row.prompt)
        places[row.is_validation].append(row.place)
    found = leaks_between(*texts)
    if found.found and bad_rows.policy == "strict":
        bad_rows.change(LEAK, places[1][found.found[0].test], found.places(1, *places))
    told = found.sentence("validation", found.places(3, *places))
    log(told)
    return found.to_json(told)
