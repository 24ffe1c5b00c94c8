"""Files with rows and columns: JSONL, CSV, TSV and Parquet, read row by row."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lavra.core.errors import InputError
from lavra.core.scratch import scratch_folder
from lavra.data.bad_rows import BAD_CSV, BAD_JSON, BROKEN_UTF8, MISSING_COLUMN, TOO_LONG, BadRows
from lavra.data.compressed import COMPRESSIONS, BytesRead, open_binary

LONGEST_LINE = 256 << 20
"""Bytes of a line (JSONL) or a field (CSV) above which the row is left out: a row must fit in memory."""

PARQUET_ROWS = 256
"""Rows decoded at once."""

Fields = Mapping[str, Any]


def read_jsonl(stream: BinaryIO, name: str, bad_rows: BadRows) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:line") for every line that holds a JSON object; blank lines are nothing."""
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        place = f"{name}:{number}"
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            _skip_line(stream)
            bad_rows.add(TOO_LONG, place)
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace():
            continue
        fields = _parse_json(line, place, bad_rows)
        if fields is not None:
            yield fields, place


def _parse_json(line: bytes, place: str, bad_rows: BadRows) -> Fields | None:
    try:
        value = json.loads(line.decode("utf8"))
    except UnicodeDecodeError as error:
        bad_rows.add(BROKEN_UTF8, place, f"byte 0x{line[error.start]:02x}")
    except (ValueError, RecursionError) as error:
        bad_rows.add(BAD_JSON, place, str(error))
    else:
        if isinstance(value, dict):
            return value
        bad_rows.add(BAD_JSON, place, f"a {type(value).__name__}, not an object")
    return None


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def read_delimited(
    stream: BinaryIO, name: str, delimiter: str, text_column: str | None, bad_rows: BadRows
) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:line") for the rows of a CSV or TSV file with a header line.

    Quoted fields may hold line ends. A header without `text_column` is reported once, and the file is left out;
    with None, every column is as good.
    """
    csv.field_size_limit(LONGEST_LINE)  # the module's own limit is 131072
    lines = (line.decode("utf8", "surrogateescape") for line in stream)
    reader = csv.reader(lines, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            bad_rows.add(BAD_CSV, f"{name}:{reader.line_num}", str(error))
            continue
        if row is None:
            return
        if not row:
            continue
        if header is None:
            header = [row[0].removeprefix("\ufeff"), *row[1:]]
            if text_column is not None and text_column not in header:
                bad_rows.add(MISSING_COLUMN, f"{name}:1", missing_column(text_column, header))
                return
            continue
        yield dict(zip(header, row, strict=False)), f"{name}:{reader.line_num}"


def read_parquet(
    path: Path, text_column: str | None, bad_rows: BadRows, counter: BytesRead
) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:row") for the rows of a Parquet file.

    A compressed one is unpacked to a temporary file first. A file without `text_column` (unless that is None) is
    reported once and left out.

    Raises:
        InputError: if the file is no Parquet file or is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    with scratch_folder() as folder:
        plain = path
        if path.suffix.lower() in COMPRESSIONS:
            plain = Path(folder) / "plain.parquet"
            with open_binary(path) as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        try:
            with pyarrow.parquet.ParquetFile(plain) as file:
                names = file.schema_arrow.names
                if text_column is not None and text_column not in names:
                    bad_rows.add(MISSING_COLUMN, str(path), missing_column(text_column, names))
                    return
                number = 0
                for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                    for fields in batch.to_pylist():
                        number += 1
                        yield fields, f"{path}:{number}"
                    counter.done += round(path.stat().st_size * batch.num_rows / max(1, file.metadata.num_rows))
        except pyarrow.ArrowException as error:
            raise InputError(f"{path} cannot be read as Parquet: {error}", "copy or write it again") from error


def missing_column(wanted: str, found: object) -> str:
    """Return the detail of a missing column: what was wanted and what is there."""
    return f"no {wanted!r} among {', '.join(map(str, found)) if isinstance(found, list) else found}"
