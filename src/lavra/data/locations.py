"""From what a person names (files, folders, globs) to the list of data files, in an order that never changes."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lavra.core.errors import InputError
from lavra.data.compressed import COMPRESSIONS

STRUCTURED = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
TEXT = {".txt": "text", ".md": "text"}
FORMATS = STRUCTURED | TEXT
FORMAT_NAMES = ".txt, .md, .jsonl, .csv, .tsv or .parquet, also with .gz, .zst or .xz"

_ABOUT_DATA = {"readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file to read.

    Attributes:
        path: where it is.
        format: "text", "jsonl", "csv", "tsv" or "parquet".
        source: the name that its rows are accounted under.
    """

    path: Path
    format: str
    source: str


@dataclass(slots=True)
class FoundFiles:
    """The data files of some locations.

    Attributes:
        files: in reading order.
        left_out: paths found but not read, by reason.
    """

    files: list[DataFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, path: Path, reason: str) -> None:
        """Remember that `path` is not read."""
        self.left_out.setdefault(reason, []).append(str(path))


def split_name(path: Path) -> tuple[str, str | None]:
    """Return the name of `path` without its endings, and its format (None when it is no data format).

    `corpus.jsonl.gz` gives ("corpus", "jsonl"); `book.pdf` gives ("book", None).
    """
    name = path.name
    if path.suffix.lower() in COMPRESSIONS:
        name = name[: -len(path.suffix)]
    stem, ending = os.path.splitext(name)
    return stem, FORMATS.get(ending.lower())


def find_files(locations: Sequence[str]) -> FoundFiles:
    """Find the data files named by `locations`, in their order; folders are read in sorted order, all levels deep.

    A structured file (JSONL, CSV, TSV, Parquet) is a source of its own; the text files of one folder are one source
    together. Files about the data (README, LICENSE …) beside data of another kind are left out, and so is every file of
    an unknown format; both are listed in `left_out`. A file that is reached twice is read once.

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
        elif glob.has_magic(location):
            _add_glob(found, location)
        else:
            raise InputError(
                f"{location} does not exist", "check the spelling; relative paths start at the current folder"
            )
    found.files = _without_repeats(found)
    return found


def _count_siblings(paths: Sequence[Path]) -> Counter[Path]:
    """Count the text files among `paths` by folder: several of one folder are one source (`lavra train a/*.txt`)."""
    return Counter(path.parent for path in paths if split_name(path)[1] == "text")


def _add_named_file(found: FoundFiles, path: Path, siblings: Counter[Path]) -> None:
    stem, kind = split_name(path)
    if kind is None:
        raise InputError(f"{path} is in no format that lavra reads", f"convert or rename it to {FORMAT_NAMES}")
    together = kind == "text" and siblings[path.parent] > 1
    found.files.append(DataFile(path, kind, path.resolve().parent.name if together else stem))


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
            found.leave_out(file, _unknown_format(file))
        elif kind == "text" and siblings[file.parent] > 1:
            found.files.append(DataFile(file, kind, file.resolve().parent.name))
        else:
            found.files.append(DataFile(file, kind, (file.parent.relative_to(above) / stem).as_posix()))
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
            found.leave_out(path, _unknown_format(path))
        elif path in about:
            found.leave_out(path, "text about the data, not data")
        elif kind == "text":
            found.files.append(DataFile(path, kind, (name / inside).as_posix()))
        else:
            found.files.append(
                DataFile(path, kind, stem if len(structured) == 1 else (name / inside / stem).as_posix())
            )
    if len(found.files) == before:
        held = "is empty" if not paths else f"holds no data: {len(paths)} files, none of them {FORMAT_NAMES}"
        raise InputError(f"{folder} {held}", f"name a file or a folder with {FORMAT_NAMES} files")


def _about_data(paths: Sequence[Path]) -> set[Path]:
    """Return the files that describe the data (README, LICENSE …) beside data of another kind.

    Where the data itself is text of the same ending, as in a folder of Markdown pages, a README is one of them.
    """
    data = [path for path in paths if split_name(path)[1] is not None]
    about = {path for path in data if split_name(path)[0].lower() in _ABOUT_DATA and split_name(path)[1] == "text"}
    others = {_ending(path) for path in data if path not in about}
    structured = any(split_name(path)[1] in STRUCTURED.values() for path in data)
    return {path for path in about if structured or (others and _ending(path) not in others)}


def _ending(path: Path) -> str:
    return path.name[len(split_name(path)[0]) :].lower()


def _walk(found: FoundFiles, folder: Path) -> Iterator[Path]:
    """Yield the files of `folder`, those of one folder together, sorted by name; hidden ones are left out."""
    for current, folders, files in os.walk(folder):
        for name in sorted(folders + files):
            if name.startswith("."):
                found.leave_out(Path(current) / name, "hidden")
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(current) / name for name in sorted(files) if not name.startswith("."))


def _unknown_format(path: Path) -> str:
    endings = "".join(path.suffixes[-2:]) if path.suffix.lower() in COMPRESSIONS else path.suffix
    return f"{endings} is no data format" if endings else "no ending that tells the format"


def _without_repeats(found: FoundFiles) -> list[DataFile]:
    seen: set[Path] = set()
    kept = []
    for file in found.files:
        real = file.path.resolve()
        if real in seen:
            found.leave_out(file.path, "named twice, read once")
        else:
            seen.add(real)
            kept.append(file)
    return kept
