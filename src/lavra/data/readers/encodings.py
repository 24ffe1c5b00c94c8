"""Converts bytes in whatever encoding to UTF-8 before any reader sees them, and reports every guess.

A byte order mark (BOM) names UTF-8, UTF-16 or UTF-32. Without one, text is read as UTF-8; bytes that are not UTF-8, in
what otherwise looks like text of a Western European language, are read as Windows-1252, the superset of Latin-1 that
such files are written in. So a file that mixes both is read right too. Bytes that are neither are left as they are, and
the readers count their rows as broken.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import BinaryIO, cast

from lavra.core.errors import InputError
from lavra.data.readers.rows import BY_MARK, WINDOWS_1252, BadRows

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_BLOCK = 1 << 20  # bytes decoded at once

# Largest share of bytes that are not UTF-8, among these and ASCII letters, with which text is taken for Windows-1252.
# Portuguese has a share of 0.04; Russian in a one-byte encoding has nearly 1.
_MOST_FOREIGN = 0.4

_LETTERS = re.compile(rb"[A-Za-z]+")

_BROKEN = "lavra-broken"
_WESTERN = "lavra-western"
# A lone surrogate in the place of bytes that cannot be decoded. It is invalid in UTF-8, so that the readers count the
# row that holds it as broken.
_SURROGATE = "\udc80"


def known_encoding(name: str) -> str:
    """Return the name by which Python knows an encoding.

    Raises:
        InputError: if Python knows no encoding of this name, or it is no encoding of text.

    Examples:
        >>> from lavra.data.readers.encodings import known_encoding
        >>> known_encoding("Windows-1252"), known_encoding("UTF8")
        ('cp1252', 'utf-8')
    """
    try:
        found = codecs.lookup(name)
        "a".encode(name)  # raises for codecs that are no encodings of text
    except LookupError as error:
        raise InputError(
            f"there is no encoding {name!r}", "give a usual name: utf-8, utf-16, windows-1252, latin-1, gb18030"
        ) from error
    return found.name


def as_utf8(stream: BinaryIO, name: str, bad_rows: BadRows, encoding: str | None = None) -> BinaryIO:
    """Return `stream` as UTF-8 without a byte order mark.

    Args:
        stream: Buffered stream of bytes.
        name: Name of the file, for messages.
        bad_rows: Counts the encodings that were found or guessed.
        encoding: Encoding of the bytes, where a person names one; a byte order mark comes before it.

    Raises:
        InputError: if there is no such encoding.

    Examples:
        >>> import io
        >>> from lavra.data.readers.encodings import as_utf8
        >>> from lavra.data.readers.rows import BadRows
        >>> bad_rows = BadRows()
        >>> as_utf8(io.BytesIO("educação".encode("latin-1")), "old.txt", bad_rows).read().decode()
        'educação'
        >>> print(bad_rows.summary())
        read as Windows-1252 (Latin-1), because the bytes are not UTF-8 (byte 0xe7): old.txt:1
    """
    wanted = None if encoding is None else known_encoding(encoding)
    head = _read_up_to(stream, len(codecs.BOM_UTF32_LE))
    for mark, named in _MARKS:
        if head.startswith(mark):
            if named != "utf-8":
                bad_rows.note(BY_MARK, name, named.upper().removesuffix("-LE").removesuffix("-BE"))
            wanted, head = named, head[len(mark) :]
            break
    if wanted is None:
        raw: io.RawIOBase = _Western(stream, head, name, bad_rows)
    else:
        raw = _Decoded(stream, head, wanted)
    return cast(BinaryIO, io.BufferedReader(raw, _BLOCK))


class _Utf8(io.RawIOBase):
    """A stream of UTF-8 that is made block by block from the stream of another encoding."""

    def __init__(self, stream: BinaryIO, head: bytes) -> None:
        self._stream, self._head = stream, head
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # pyright: ignore[reportMissingParameterType, reportIncompatibleMethodOverride]
        while not self._pending:
            block = self._head + self._stream.read(_BLOCK)
            self._head = b""
            self._pending = memoryview(self._as_utf8(block))
            if not block and not self._pending:
                return 0
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _as_utf8(self, block: bytes) -> bytes:
        """Return `block` as UTF-8, or what of it can be decoded already; an empty one is the end."""
        raise NotImplementedError


class _Decoded(_Utf8):
    """A stream in a known encoding."""

    def __init__(self, stream: BinaryIO, head: bytes, encoding: str) -> None:
        super().__init__(stream, head)
        self._decoder = codecs.getincrementaldecoder(encoding)(_BROKEN)

    def _as_utf8(self, block: bytes) -> bytes:
        return self._decoder.decode(block, final=not block).encode("utf8", "surrogatepass")


class _Western(_Utf8):
    """A stream of UTF-8 in which single bytes may be Windows-1252."""

    def __init__(self, stream: BinaryIO, head: bytes, name: str, bad_rows: BadRows) -> None:
        super().__init__(stream, head)
        self._name, self._bad_rows = name, bad_rows
        self._cut = b""
        self._line = 1
        self._letters = self._foreign = 0
        self._told = False

    def _as_utf8(self, block: bytes) -> bytes:
        data, self._cut = self._cut + block, b""
        if not data.isascii():
            data = self._checked(data, at_end=not block)
        self._line += data.count(b"\n")
        return data

    def _checked(self, data: bytes, *, at_end: bool) -> bytes:
        if not at_end:
            whole = _whole_characters(data)
            data, self._cut = data[:whole], data[whole:]
        try:
            data.decode("utf8")
        except UnicodeDecodeError as error:
            self._letters += sum(map(len, _LETTERS.findall(data)))
            self._foreign += _strays(data)
            if self._foreign > _MOST_FOREIGN * (self._letters + self._foreign):
                return data
            if not self._told:
                self._told = True
                line = self._line + data.count(b"\n", 0, error.start)
                self._bad_rows.change(WINDOWS_1252, f"{self._name}:{line}", f"byte 0x{data[error.start]:02x}")
            return data.decode("utf8", _WESTERN).encode("utf8", "surrogateescape")
        return data


def _strays(data: bytes) -> int:
    """Return the number of bytes that are not UTF-8."""
    return len(re.findall("[\udc80-\udcff]", data.decode("utf8", "surrogateescape")))


def _whole_characters(data: bytes) -> int:
    """Return the length of `data` without a character that is cut off at its end."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # the first byte of a character of two to four bytes
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if size > back else len(data)
    return len(data)


def _read_up_to(stream: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := stream.read(size - len(data))):
        data += part
    return data


def _western(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    data = error.object[error.start : error.end]
    return data.decode("cp1252", "surrogateescape"), error.end  # five bytes are unused in Windows-1252


def _broken(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _SURROGATE, error.end


codecs.register_error(_WESTERN, _western)
codecs.register_error(_BROKEN, _broken)
