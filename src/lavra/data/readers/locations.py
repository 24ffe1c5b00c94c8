"""Finds the data files that a person names by files, folders and globs, in an order that never changes."""

from __future__ import annotations

import glob
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.readers.formats import FORMAT_NAMES, FORMATS, STRUCTURED, TEXT, conversion, split_name, unknown_format
from lavra.data.readers.rows import ABOUT_DATA, HIDDEN, HIDDEN_DATA, LOOP, REPEATED

_ADDRESS = re.compile(r"(https?|ftp|s3|gs)://", re.IGNORECASE)

# Names, without endings and in lower case, of text files that describe the data beside them.
_ABOUT_DATA = {"readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file to read.

    Attributes:
        path: Path of the file, or of the archive that it lies in.
        format: "text", "html", "jsonl", "json", "csv", "tsv" or "parquet".
        source: Name under which its rows are counted.
        member: Path within the archive at `path`; None for a file that lies in none.
        size: Bytes on disk.
        is_validation: Whether it is validation data.
    """

    path: Path
    format: str
    source: str
    member: str | None = None
    size: int = 0
    is_validation: bool = False

    @property
    def name(self) -> str:
        """The name of the file in messages: its path, with its path in the archive."""
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"


@dataclass(slots=True)
class FoundFiles:
    """The data files of some locations.

    Attributes:
        files: The files in reading order.
        left_out: Paths that were found and are not read, by reason.
    """

    files: list[DataFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, path: Path, reason: str) -> None:
        """Record that `path` is not read, with the reason."""
        self.left_out.setdefault(reason, []).append(str(path))

    def add(self, path: Path, kind: str, source: str) -> None:
        """Record that the file at `path`, of the format `kind`, is read and counted under the name `source`."""
        self.files.append(DataFile(path, kind, source, size=_size(path)))


def find_files(locations: Sequence[str]) -> FoundFiles:
    """Find the data files named by `locations`, in their order; folders are read in sorted order, all levels deep.

    A structured file (JSONL, JSON, CSV, TSV, Parquet) is a source of its own; the text files of one folder are one
    source together, and so are those of an archive. Linked folders are read too. Files about the data (README, LICENSE
    …) beside data of another kind are left out, and so is every file of an unknown format; both are listed in
    `left_out`. A file that is reached twice is read once.

    Raises:
        InputError: for a missing path, a glob without matches, a folder without data, or a file of no known format.
    """
    found = FoundFiles()
    named = [Path(location).expanduser() for location in locations]
    siblings = _count_siblings([path for path in named if path.is_file()])
    for location, path in zip(locations, named, strict=True):
        if path.is_dir():
            _add_folder(found, path, path.resolve().name)
        elif path.exists():
            _add_named_file(found, path, siblings)
        elif _ADDRESS.match(location):
            raise InputError(
                f"{location} is an address on the network, which lavra does not read",
                f"download it first, for example with `curl -LO {location}`, and name the file",
            )
        elif glob.has_magic(location):
            _add_glob(found, location)
        else:
            raise InputError(
                f"{location} does not exist", "check the spelling; relative paths start at the current folder"
            )
    found.files = _without_repeats(found)
    return found


def _count_siblings(paths: Sequence[Path]) -> Counter[Path]:
    """Return the number of text files by folder; several of one folder are one source (`lavra train a/*.txt`)."""
    return Counter(path.parent for path in paths if split_name(path)[1] in TEXT.values())


def _add_named_file(found: FoundFiles, path: Path, siblings: Counter[Path]) -> None:
    stem, kind = split_name(path)
    if kind is None:
        raise InputError(f"{path} is in no format that lavra reads", conversion(path))
    if kind == "zip":
        if not _add_archive(found, path, stem):
            raise InputError(f"{path} holds no file in a format that lavra reads", f"put in {FORMAT_NAMES} files")
        return
    together = kind in TEXT.values() and siblings[path.parent] > 1
    found.add(path, kind, path.resolve().parent.name if together else stem)


def _add_archive(found: FoundFiles, path: Path, name: str) -> int:
    """Add the data files of a ZIP archive, sorted by their names, and return how many there are.

    Raises:
        InputError: if it is damaged or encrypted.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} cannot be read as an archive: {error}", "copy or download it again") from error
    data = [one for one in members if split_name(Path(one.filename))[1] in FORMATS.values()]
    structured = [one for one in data if split_name(Path(one.filename))[1] in STRUCTURED.values()]
    about = _about_data([Path(one.filename) for one in data])
    for one in members:
        inside = Path(one.filename)
        stem, kind = split_name(inside)
        if inside.name.startswith(".") or inside.parts[0] == "__MACOSX":
            is_data = kind is not None and inside.parts[0] != "__MACOSX"
            found.leave_out(path / inside, HIDDEN_DATA if is_data else HIDDEN)
        elif kind is None or kind == "zip":
            found.leave_out(path / inside, unknown_format(inside))
        elif inside in about:
            found.leave_out(path / inside, ABOUT_DATA)
        elif one.flag_bits & 1:
            raise InputError(f"{path / inside} is encrypted", "unpack the archive with its password first")
        else:
            alone = name if len(structured) == 1 else (name / inside.parent / stem).as_posix()
            source = (name / inside.parent).as_posix() if kind in TEXT.values() else alone
            found.files.append(DataFile(path, kind, source, one.filename, one.compress_size))
    return len(data)


def _add_glob(found: FoundFiles, pattern: str) -> None:
    matches = [Path(match) for match in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    files = [match for match in matches if match.is_file()]
    if not files:
        raise InputError(
            f"no file matches {pattern}", "check the pattern, and quote it so that the shell leaves it alone"
        )
    siblings = _count_siblings(files)
    above = Path(os.path.commonpath([file.parent for file in files]))
    before = len(found.files)
    for file in files:
        stem, kind = split_name(file)
        if kind is None:
            found.leave_out(file, unknown_format(file))
        elif kind == "zip":
            _add_archive(found, file, (file.parent.relative_to(above) / stem).as_posix())
        elif kind in TEXT.values() and siblings[file.parent] > 1:
            found.add(file, kind, file.resolve().parent.name)
        else:
            found.add(file, kind, (file.parent.relative_to(above) / stem).as_posix())
    if len(found.files) == before:
        raise InputError(f"no file that matches {pattern} is in a format that lavra reads", f"use {FORMAT_NAMES}")


def _add_folder(found: FoundFiles, folder: Path, name: str) -> None:
    paths = list(_walk(found, folder))
    about = _about_data(paths)
    structured = [path for path in paths if split_name(path)[1] in STRUCTURED.values()]
    before = len(found.files)
    for path in paths:
        stem, kind = split_name(path)
        inside = path.parent.relative_to(folder)
        if kind is None:
            found.leave_out(path, unknown_format(path))
        elif path in about:
            found.leave_out(path, ABOUT_DATA)
        elif kind == "zip":
            _add_archive(found, path, (name / inside / stem).as_posix())
        elif kind in TEXT.values():
            found.add(path, kind, (name / inside).as_posix())
        else:
            found.add(path, kind, stem if len(structured) == 1 else (name / inside / stem).as_posix())
    if len(found.files) == before:
        held = f"holds no data: {counted(len(paths), 'file')}, none of them {FORMAT_NAMES}" if paths else "is empty"
        raise InputError(f"{folder} {held}", f"name a file or a folder with {FORMAT_NAMES} files")


def _about_data(paths: Sequence[Path]) -> set[Path]:
    """Return the files that describe the data (README, LICENSE …) beside data of another kind.

    Where the data itself is text of the same ending, as in a folder of Markdown pages, a README is one of them.
    """
    data = [path for path in paths if split_name(path)[1] is not None]
    about = {
        path for path in data if split_name(path)[0].lower() in _ABOUT_DATA and split_name(path)[1] in TEXT.values()
    }
    others = {_ending(path) for path in data if path not in about}
    structured = any(split_name(path)[1] in STRUCTURED.values() for path in data)
    return {path for path in about if structured or (others and _ending(path) not in others)}


def _ending(path: Path) -> str:
    return path.name[len(split_name(path)[0]) :].lower()


def _walk(found: FoundFiles, folder: Path) -> Iterator[Path]:
    """Yield the files of `folder`, those of one folder together, sorted by name; hidden ones are left out.

    Links to folders are followed, unless they lead back to a folder that they lie in.
    """
    above: dict[Path, frozenset[Path]] = {folder: frozenset([folder.resolve()])}
    for current, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        here, inside = Path(current), []
        for name in sorted(folders):
            path = here / name
            if name.startswith("."):
                found.leave_out(path, HIDDEN)
            elif (real := path.resolve()) in above[here]:
                found.leave_out(path, LOOP)
            else:
                above[path] = above[here] | {real}
                inside.append(name)
        folders[:] = inside
        for name in sorted(files):
            path = here / name
            if name.startswith("."):
                found.leave_out(path, HIDDEN_DATA if split_name(path)[1] else HIDDEN)
            elif path.exists():
                yield path
            else:
                found.leave_out(path, "a link to nothing")


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}", "check its rights") from error


def _size(path: Path) -> int:
    return path.stat().st_size


def _without_repeats(found: FoundFiles) -> list[DataFile]:
    seen: set[tuple[Path, str | None]] = set()
    kept = []
    for file in found.files:
        real = (file.path.resolve(), file.member)
        if real in seen:
            found.leave_out(Path(file.name), REPEATED)
        else:
            seen.add(real)
            kept.append(file)
    return kept
