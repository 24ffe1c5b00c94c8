"""How files become documents: the options that every command has which reads text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from lavra.config.flags import Common, Sets, shown


@dataclass(frozen=True)
class ReadingConfig:
    """How text is read from files.

    Examples:
        >>> from lavra.config.reading import ReadingConfig
        >>> ReadingConfig(column="body").on_bad_row
        'skip'
    """

    column: Annotated[str, Common, shown("--text-column", metavar="COLUMN")] = "text"
    """Column of JSONL, CSV, TSV and Parquet files that holds the text."""
    on_bad_row: Annotated[Literal["skip", "error", "strict"], shown("--on-bad-row"), Sets("--strict", "strict")] = (
        "skip"
    )
    """What to do with rows that cannot be used: skip and report them, or stop at the first (error); strict stops at
    whatever is left out, guessed, replaced or cut on the way in."""
    encoding: Annotated[str | None, shown("--encoding", metavar="ENCODING")] = None
    """Encoding of the files, such as windows-1251. By default the byte order mark decides, else UTF-8; Western text
    that is not UTF-8 is read as Windows-1252, with a message that says so."""
