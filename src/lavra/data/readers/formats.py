"""The data formats by the endings of file names, and what to do with files of other formats."""

from __future__ import annotations

import os
from pathlib import Path

from lavra.data.readers.compressed import COMPRESSIONS

STRUCTURED = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
TEXT = {".txt": "text", ".md": "text", ".html": "html", ".htm": "html"}
FORMATS = STRUCTURED | TEXT
FORMAT_NAMES = ".txt, .md, .html, .jsonl, .json, .csv, .tsv or .parquet, also with .gz, .zst or .xz, or in a .zip"
ARCHIVE = ".zip"

# What to do with files of other formats, by their ending; {path} and {stem} stand for the file and its bare name.
_CONVERSIONS = {
    ".pdf": "turn it into text first: pdftotext {path} {stem}.txt",
    ".docx": "turn it into text first: pandoc {path} -o {stem}.txt",
    ".doc": "turn it into text first: soffice --convert-to txt:Text {path}",
    ".odt": "turn it into text first: pandoc {path} -o {stem}.txt",
    ".rtf": "turn it into text first: pandoc {path} -o {stem}.txt",
    ".epub": "turn it into text first: pandoc {path} -o {stem}.txt",
    ".xlsx": "save the sheet as CSV first",
    ".xls": "save the sheet as CSV first",
    ".tar": "unpack it first (tar xf {path}), and name the folder",
    ".tgz": "unpack it first (tar xf {path}), and name the folder",
    ".7z": "unpack it first, and name the folder",
    ".rar": "unpack it first, and name the folder",
    ".bz2": "unpack it first: bunzip2 {path}",
}


def split_name(path: Path) -> tuple[str, str | None]:
    """Return the name of `path` without its endings, and its format (None when it is no data format).

    Examples:
        >>> from pathlib import Path
        >>> from lavra.data.readers.formats import split_name
        >>> [split_name(Path(name)) for name in ("corpus.jsonl.gz", "corpus.zip", "book.pdf")]
        [('corpus', 'jsonl'), ('corpus', 'zip'), ('book', None)]
    """
    if path.suffix.lower() == ARCHIVE:
        return path.stem, "zip"
    name = path.name
    if path.suffix.lower() in COMPRESSIONS:
        name = name[: -len(path.suffix)]
    stem, ending = os.path.splitext(name)
    return stem, FORMATS.get(ending.lower())


def conversion(path: Path) -> str:
    """Return what a user can do with a file of a format that is not read.

    Examples:
        >>> from pathlib import Path
        >>> from lavra.data.readers.formats import conversion
        >>> conversion(Path("book.pdf"))
        'turn it into text first: pdftotext book.pdf book.txt'
    """
    command = _CONVERSIONS.get(_ending(path), f"convert or rename it to {FORMAT_NAMES}")
    return command.format(path=path, stem=path.stem)


def unknown_format(path: Path) -> str:
    """Return why a file is not read, as a short phrase for a list of such files."""
    if _ending(path) in _CONVERSIONS:
        return f"{_ending(path)} is no data format ({conversion(Path('FILE' + _ending(path)))})"
    endings = "".join(path.suffixes[-2:]) if path.suffix.lower() in COMPRESSIONS else path.suffix
    return f"{endings} is no data format" if endings else "no ending that tells the format"


def _ending(path: Path) -> str:
    """Return the ending of a name in lower case, without the ending of a compression."""
    name = path.name[: -len(path.suffix)] if path.suffix.lower() in COMPRESSIONS else path.name
    return os.path.splitext(name)[1].lower()
