"""The files of a store on disk: read by memory map, checked by size and hash, written whole or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from lavra.core.disk.building import building_folder
from lavra.core.errors import Damaged


def map_array(path: Path, dtype: str, count: int, remedy: str) -> np.ndarray:
    """Return (count,) little-endian numbers of a file, mapped for reading.

    Raises:
        Damaged: with the remedy, if the file is missing or has another size.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    if not path.is_file():
        raise Damaged(f"{path} is missing", remedy)
    found, expected = path.stat().st_size, count * kind.itemsize
    if found != expected:
        raise Damaged(f"{path} is damaged: it has {found} bytes and should have {expected}", remedy)
    return np.memmap(path, dtype=kind, mode="r", shape=(count,)) if count else np.empty(0, kind)


def hash_file(path: Path) -> str:
    """Return the xxh3-128 of a file's content, in hexadecimal."""
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_files(folder: Path, hashes: Mapping[str, str], remedy: str) -> None:
    """Read the files of a folder and compare their hashes with those that were written down.

    Raises:
        Damaged: with the remedy, naming the first file that is missing or not what was written.
    """
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{path} is missing", remedy)
        if hash_file(path) != expected:
            raise Damaged(f"{path} is damaged: its content is not what was written", remedy)


class FolderWriter(ABC):
    """Writes the files of a folder in a `with` block: it is there when the block ends well, and nothing is otherwise.

    Args:
        folder: to make.
        force: replace it if it exists.

    Raises:
        InputError: if the folder exists.
    """

    def __init__(self, folder: Path, *, force: bool) -> None:
        self.folder = folder
        self._force = force
        self._stack = ExitStack()

    @abstractmethod
    def _open_files(self) -> dict[str, IO[Any]]:
        """Open the files in `self._building`, each entered into `self._stack`."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what belongs to the end, and the description of it all."""

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
