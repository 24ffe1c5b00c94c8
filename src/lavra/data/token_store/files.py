"""The files of a store on disk, which are read by memory map, checked by size and hash, and written atomically."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from lavra.core.disk.building import building_folder
from lavra.core.errors import CorruptFile


def map_array(path: Path, dtype: str, count: int, remedy: str) -> np.ndarray:
    """Return the numbers in a file, mapped for reading.

    Args:
        path: The file.
        dtype: Type of a number, such as "uint16"; on disk it is little-endian.
        count: Number of numbers that the file must hold.
        remedy: What the error tells the user to do.

    Returns:
        A (count,) array.

    Raises:
        CorruptFile: if the file is missing or has another size.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    if not path.is_file():
        raise CorruptFile(f"{path} is missing", remedy)
    found, expected = path.stat().st_size, count * kind.itemsize
    if found != expected:
        raise CorruptFile(f"{path} is damaged: it has {found} bytes and should have {expected}", remedy)
    return np.memmap(path, dtype=kind, mode="r", shape=(count,)) if count else np.empty(0, kind)


def hash_file(path: Path) -> str:
    """Return the xxh3-128 hash of a file's content, in hexadecimal."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_files(folder: Path, hashes: Mapping[str, str], remedy: str) -> None:
    """Read the files of a folder and compare their hashes with those that were recorded.

    Args:
        folder: The folder.
        hashes: The recorded hashes by the names of the files.
        remedy: What the error tells the user to do.

    Raises:
        CorruptFile: if a file is missing or not what was written; the message names the first such file.
    """
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise CorruptFile(f"{path} is missing", remedy)
        if hash_file(path) != expected:
            raise CorruptFile(f"{path} is damaged: its content is not what was written", remedy)


class FolderWriter(ABC):
    """Writes the files of a folder in a `with` block; the folder appears whole when the block ends without an error.

    Args:
        folder: The folder to make.
        force: Replace the folder if it exists.

    Raises:
        InputError: if the folder exists.
    """

    def __init__(self, folder: Path, *, force: bool) -> None:
        self.folder = folder
        self._force = force
        self._stack = ExitStack()

    @abstractmethod
    def _open_files(self) -> dict[str, IO[Any]]:
        """Return the opened files in `self._building` by name, each entered into `self._stack`."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what belongs at the end of the files, and the manifest."""

    def __enter__(self) -> Self:
        try:
            self._building = self._stack.enter_context(building_folder(self.folder, force=self._force, kind="store"))
            self._files = self._open_files()
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            try:
                self._finish()
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        return self._stack.__exit__(kind, error, trace)
