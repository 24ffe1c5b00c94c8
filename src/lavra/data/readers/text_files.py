"""Reads plain text and pages of HTML: a file is one document, except that a very large text becomes several."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from lavra.data.readers.html_files import html_text
from lavra.data.readers.rows import BROKEN_UTF8, TOO_LONG, BadRows

LARGEST_DOCUMENT = 16 << 20
"""Bytes above which a text file is cut into several documents, at the end of a paragraph, else of a line or a word, so
that a document fits into memory."""


def read_text_file(stream: BinaryIO, name: str, bad_rows: BadRows) -> Iterator[tuple[str, str]]:
    """Yield (text, place) for a text file: the whole file, or pieces of at most `LARGEST_DOCUMENT` bytes.

    A piece with broken UTF-8 is counted in `bad_rows`, with the line and byte where it breaks.
    """
    line = 1
    for piece in _pieces(stream):
        place = f"{name}:{line}" if line > 1 else name
        try:
            yield piece.decode("utf8"), place
        except UnicodeDecodeError as error:
            broken_line = line + piece.count(b"\n", 0, error.start)
            detail = f"byte 0x{piece[error.start]:02x}"
            bad_rows.add(BROKEN_UTF8, f"{name}:{broken_line}", detail, size=len(piece))
        line += piece.count(b"\n")


def read_html_file(stream: BinaryIO, name: str, bad_rows: BadRows) -> Iterator[tuple[str, str]]:
    """Yield (text, place) for a page of HTML, whose text is what a reader would see of it.

    A page with broken UTF-8 or of more than `LARGEST_DOCUMENT` bytes is counted in `bad_rows`.
    """
    page = _read_exactly(stream, LARGEST_DOCUMENT + 1)
    if len(page) > LARGEST_DOCUMENT:
        size = len(page) + sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
        bad_rows.add(TOO_LONG, name, "a page of HTML is read whole", size=size)
        return
    try:
        yield html_text(page.decode("utf8")), name
    except UnicodeDecodeError as error:
        line = 1 + page.count(b"\n", 0, error.start)
        bad_rows.add(BROKEN_UTF8, f"{name}:{line}", f"byte 0x{page[error.start]:02x}", size=len(page))


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    pending = _read_exactly(stream, LARGEST_DOCUMENT)
    while True:
        following = _read_exactly(stream, LARGEST_DOCUMENT) if len(pending) <= LARGEST_DOCUMENT else b""
        pending += following
        if len(pending) <= LARGEST_DOCUMENT:
            if pending:
                yield pending
            return
        cut = cut_bytes(pending, LARGEST_DOCUMENT)
        yield pending[:cut]
        pending = pending[cut:]


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the stream (one `read` of a pipe may give less)."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def cut_bytes(data: bytes, limit: int) -> int:
    """Return where to cut UTF-8 `data` at or before `limit`: after a blank line, a line, a space, or a character.

    Only the second half of what lies before `limit` is searched, so that pieces are never small.
    """
    for border in (b"\n\n", b"\n", b" "):
        found = data.rfind(border, limit // 2, limit)
        if found >= 0:
            return found + len(border)
    cut = limit
    while cut > limit - 4 and data[cut] & 0xC0 == 0x80:  # a continuation byte cannot begin a piece
        cut -= 1
    return cut


_BORDERS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"\s"))


def cut_near(text: str, place: int, reach: int) -> int:
    """Return where to cut a text near a place: after a blank line, else a line, else a space.

    Args:
        text: The text.
        place: Wanted index of the cut.
        reach: Characters that the cut may be away from it on either side.

    Returns:
        The nearest cut of the best kind that is within reach, or `place` where there is none.
    """
    low, high = max(1, place - reach), min(len(text), place + reach)
    for border in _BORDERS:
        cuts = [match.end() for match in border.finditer(text, low, high)]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - place))
    return place
