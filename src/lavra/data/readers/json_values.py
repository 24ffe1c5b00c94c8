"""Reads JSON values one after the other, and notices where an object gives a name twice."""

from __future__ import annotations

import json
from typing import Any


class JsonValues:
    """Reads JSON values; of a name that an object gives twice the last value is used, as by Python's `json`.

    Attributes:
        repeated: A name that is given twice in an object of the value that was read last; None where there is none.

    Examples:
        >>> from lavra.data.readers.json_values import JsonValues
        >>> values = JsonValues()
        >>> values.read('{"text": "um", "text": "dois"}'), values.repeated
        ({'text': 'dois'}, 'text')
    """

    def __init__(self) -> None:
        self.repeated: str | None = None
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def read(self, text: str) -> Any:
        """Return the value that a text holds.

        Raises:
            ValueError: if the text is no JSON.
            RecursionError: if it is nested too deep.
        """
        self.repeated = None
        return self._decoder.decode(text)

    def read_at(self, text: str, place: int) -> tuple[Any, int]:
        """Return the value that begins at a place in a text, and the place where it ends; the errors are those of
        `read`."""
        self.repeated = None
        return self._decoder.raw_decode(text, place)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            self.repeated = next(name for name in names if names.count(name) > 1)
        return found
