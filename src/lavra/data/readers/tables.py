"""Reads files with rows and columns, JSONL and Parquet, row by row."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.data.readers.compressed import COMPRESSIONS, BytesRead, open_binary
from lavra.data.readers.json_values import JsonValues
from lavra.data.readers.rows import BAD_JSON, BROKEN_UTF8, MISSING_COLUMN, TOO_LONG, BadRows

LONGEST_LINE = 256 << 20
"""Bytes of a line (JSONL) or a field (CSV) from which the row is left out, because a row must fit into memory."""

PARQUET_ROWS = 256  # rows decoded at once

Fields = Mapping[str, Any]
"""The values of a row by the names of its columns."""


def read_jsonl(stream: BinaryIO, name: str, bad_rows: BadRows) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:line") for every line that holds a JSON object; blank lines are skipped.

    Args:
        stream: Buffered stream of UTF-8.
        name: Name of the file, for messages.
        bad_rows: Counts the lines that cannot be used, which are left out.

    Examples:
        >>> import io
        >>> from lavra.data.readers.rows import BadRows
        >>> from lavra.data.readers.tables import read_jsonl
        >>> list(read_jsonl(io.BytesIO(b'{"text": "a"}'), "a.jsonl", BadRows()))
        [({'text': 'a'}, 'a.jsonl:1')]
    """
    number, values = 0, JsonValues()
    while line := stream.readline(LONGEST_LINE):
        number += 1
        place = f"{name}:{number}"
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            bad_rows.add(TOO_LONG, place, size=len(line) + _skip_line(stream))
            continue
        if line.isspace():
            continue
        fields = _parse_json(line, place, bad_rows, values)
        if fields is not None:
            yield fields, place


def _parse_json(line: bytes, place: str, bad_rows: BadRows, values: JsonValues) -> Fields | None:
    try:
        value = values.read(line.decode("utf8"))
    except UnicodeDecodeError as error:
        bad_rows.add(BROKEN_UTF8, place, f"byte 0x{line[error.start]:02x}", size=len(line))
    except (ValueError, RecursionError) as error:
        bad_rows.add(BAD_JSON, place, str(error), size=len(line))
    else:
        if isinstance(value, dict):
            bad_rows.repeated(values.repeated, place)
            return value
        bad_rows.add(BAD_JSON, place, f"a {type(value).__name__}, not an object", size=len(line))
    return None


def _skip_line(stream: BinaryIO) -> int:
    """Skip the rest of a line, and return its size in bytes."""
    size = 0
    while rest := stream.readline(1 << 20):
        size += len(rest)
        if rest.endswith(b"\n"):
            break
    return size


def read_parquet(
    path: Path,
    text_column: str | None,
    bad_rows: BadRows,
    counter: BytesRead,
    *,
    wanted: Collection[str] | None = None,
    name: str | None = None,
) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:row") for the rows of a Parquet file, of which only the wanted columns are read.

    A compressed one is unpacked to a temporary file first. A file without `text_column` (unless that is None) is
    reported once and left out.

    Args:
        path: The file.
        text_column: The column of the text, which is always read; None requires none.
        bad_rows: Counts what cannot be used.
        counter: Is advanced by the bytes of the file.
        wanted: Names of other columns to read; None reads all.
        name: Name of the file for messages; its path by default.

    Raises:
        InputError: if the file is no Parquet file or is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    name = name or str(path)
    with scratch_folder() as folder:
        plain = path
        if path.suffix.lower() in COMPRESSIONS:
            plain = Path(folder) / "plain.parquet"
            with open_binary(path) as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        try:
            with pyarrow.parquet.ParquetFile(plain) as file:
                names = file.schema_arrow.names
                bad_rows.repeated(next((one for one in names if names.count(one) > 1), None), name)
                if text_column is not None and text_column not in names:
                    bad_rows.add(MISSING_COLUMN, name, missing_column(text_column, names), size=path.stat().st_size)
                    return
                read = [one for one in names if wanted is None or one in wanted or one == text_column]
                number = 0
                for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=read):
                    for fields in _plain_values(batch):
                        number += 1
                        yield fields, f"{name}:{number}"
                    counter.done += round(path.stat().st_size * batch.num_rows / max(1, file.metadata.num_rows))
                if name in bad_rows.columns:
                    bad_rows.note_columns(name, (), names)  # those that were not read
        except pyarrow.ArrowException as error:
            raise InputError(f"{name} cannot be read as Parquet: {error}", "copy or write it again") from error


def _plain_values(batch: Any) -> list[Fields]:
    """Return the rows of a batch; columns that Python has no type for, such as nanoseconds, become text."""
    import pyarrow

    columns = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[column] = values.to_pylist()
        except (ValueError, OverflowError):
            columns[column] = values.cast(pyarrow.string()).to_pylist()
    if not columns:
        return [{}] * batch.num_rows
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def missing_column(wanted: str, found: object) -> str:
    """Return the detail of a message about a missing column: its name, and the columns that are there."""
    return f"no {wanted!r} among {', '.join(map(str, found)) if isinstance(found, list) else found}"
