"""The row: one document of text and where it was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One document.

    Attributes:
        text: its text, never empty.
        source: the name of the corpus or file that it is accounted under (the ledger's lines).
        place: where it was read, for messages: `file.jsonl:17`.
        fields: the other columns of the row (id, label, prompt …), when the format has columns.
        file: the file that it was read from, for formats with columns.
        held_out: whether it is from validation data.
    """

    text: str
    source: str
    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    held_out: bool = False
