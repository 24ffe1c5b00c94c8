"""Rows kept on disk between two passes over data that can be read only once, or is slow to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lavra.data.compressed import open_binary
from lavra.data.rows import Row


def spooled(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Yield the rows while writing text, source and place of each to `path`, a `.zst` file for `read_spool`."""
    import zstandard

    with zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=1)) as file:
        for row in rows:
            file.write(json.dumps([row.text, row.source, row.place, row.held_out]).encode() + b"\n")
            yield row


def read_spool(path: Path) -> Iterator[Row]:
    """Yield the rows that `spooled` wrote, without their other columns."""
    with open_binary(path) as lines:
        for line in lines:
            text, source, place, held_out = json.loads(line)
            yield Row(text, source, place, held_out=held_out)
