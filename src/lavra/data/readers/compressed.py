"""Opens files for reading as bytes, whatever they are compressed with."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from lavra.core.errors import InputError

COMPRESSIONS = (".gz", ".zst", ".xz")
"""The endings of compressed files, which are removed from a name before its format is looked up."""

_BUFFER = 1 << 20  # bytes read at once


class BytesRead:
    """Counts the bytes read from disk (compressed bytes, where files are compressed), for progress.

    Attributes:
        done: Number of bytes read so far, over all files opened with this counter.
    """

    def __init__(self) -> None:
        self.done = 0


class _CountedFile(io.FileIO):
    """A raw file that adds what is read from it to a counter."""

    def __init__(self, path: Path, counter: BytesRead) -> None:
        super().__init__(path, "rb")
        self._counter = counter

    def readinto(self, buffer) -> int | None:  # pyright: ignore[reportMissingParameterType, reportIncompatibleMethodOverride]
        count = super().readinto(buffer)
        self._counter.done += count or 0
        return count


@contextmanager
def open_binary(path: Path, counter: BytesRead | None = None) -> Iterator[BinaryIO]:
    """Open `path` for reading its bytes, decompressed according to its ending (`.gz`, `.zst`, `.xz`, or none).

    Args:
        path: The file.
        counter: Is advanced by the bytes read from disk.

    Yields:
        A buffered stream of the decompressed bytes.

    Raises:
        InputError: inside the block, when the file cannot be read or its compressed data is damaged or cut short.
    """
    try:
        with (
            io.BufferedReader(_CountedFile(path, counter or BytesRead()), _BUFFER) as raw,
            _decompressed(cast(BinaryIO, raw), path.suffix.lower()) as stream,
        ):
            yield stream
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}", "check the file and its rights"
        ) from error


@contextmanager
def open_member(path: Path, member: str, counter: BytesRead | None = None) -> Iterator[BinaryIO]:
    """Open a file in a ZIP archive for reading its bytes, decompressed as `open_binary` does.

    Args:
        path: The archive.
        member: Path of the file in the archive.
        counter: Is advanced by the bytes read from disk.

    Yields:
        A buffered stream of the decompressed bytes.

    Raises:
        InputError: inside the block, when the archive cannot be read or is damaged.
    """
    try:
        with (
            io.BufferedReader(_CountedFile(path, counter or BytesRead()), _BUFFER) as raw,
            zipfile.ZipFile(cast(BinaryIO, raw)) as archive,
            archive.open(member) as packed,
            io.BufferedReader(_decompressed(cast(BinaryIO, packed), Path(member).suffix.lower()), _BUFFER) as stream,  # pyright: ignore[reportArgumentType]
        ):
            yield cast(BinaryIO, stream)
    except (EOFError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise _damaged(path / member, error) from error
    except (NotImplementedError, RuntimeError) as error:  # another method of compression, or a password
        raise InputError(f"{path / member} cannot be read: {error}", "unpack the archive first") from error


def _decompressed(raw: BinaryIO, ending: str) -> BinaryIO:
    if ending == ".gz":
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER))
    if ending == ".xz":
        return cast(BinaryIO, io.BufferedReader(lzma.LZMAFile(raw), _BUFFER))
    if ending == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstandardFile(raw), _BUFFER))
    return raw


class _ZstandardFile(io.RawIOBase):
    """A Zstandard stream of any number of frames; a stream that ends within a frame is an error, as with gzip."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame = self._decompressor.decompressobj()
        self._pending = memoryview(b"")
        self._unused = b""
        self._within_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # pyright: ignore[reportMissingParameterType, reportIncompatibleMethodOverride]
        while not self._pending:
            compressed = self._unused or self._raw.read(1 << 17)
            self._unused = b""
            if not compressed:
                if self._within_frame:
                    raise EOFError("compressed file ended before the end-of-stream marker was reached")
                return 0
            self._pending = memoryview(self._decompress(compressed))
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _decompress(self, compressed: bytes) -> bytes:
        import zstandard

        try:
            data = self._frame.decompress(compressed)
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error
        self._within_frame = not self._frame.eof
        if self._frame.eof:
            self._unused = self._frame.unused_data
            self._frame = self._decompressor.decompressobj()
        return data


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged or cut short: {error}", "copy or download it again")
