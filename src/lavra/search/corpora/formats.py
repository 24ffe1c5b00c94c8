"""Formats of collections on disk: BEIR folders, Anserini JSONL, tab-separated passages, folders of documents."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.readers.lines import ID_FIELDS, json_objects, numbered_lines, optional_field, text_field
from lavra.data.readers.locations import find_files, split_name
from lavra.data.readers.rows import (
    BAD_CSV,
    BESIDE_CORPUS,
    EMPTY,
    MISSING_COLUMN,
    NOT_TEXT,
    WITHOUT_OPTIONS,
    BadRows,
)
from lavra.data.readers.tables import missing_column
from lavra.search.corpora.documents import Document, read_qrels

_ENDINGS = ("", ".gz", ".zst", ".xz")
_CORPORA = frozenset(f"corpus.jsonl{ending}" for ending in _ENDINGS)
_TEXT_FIELDS = ("text", "contents", "passage", "body")
_QUERY_IDS = (*ID_FIELDS, "qid", "query_id", "query-id")
_QUERY_TEXTS = ("text", "query")

NO_ID = "document without an id"
NO_TAB = "line that is not `id<tab>text`"
# What to do about bad rows where that is not what other commands advise.
_REMEDIES = {
    NO_ID: f"give every line a field {' or '.join(map(repr, ID_FIELDS))}",
    NO_TAB: "write one document per line: its id, a tab, its text",
    MISSING_COLUMN: "call the column that holds the text `text`",
    NOT_TEXT: "write text into the column `text`",
    BAD_CSV: "give each line as many fields as the header has",
}


class Collection(Protocol):
    """Documents to search, and queries with relevance judgements for evaluation.

    Attributes:
        name: The name of the collection in reports.
        splits: The names of the sets of judgements, such as ("dev", "train"); empty when there are none.
    """

    name: str
    splits: tuple[str, ...]

    def documents(self) -> Iterator[Document]:
        """Yield every document, without holding them all in memory; each call starts again with the first one."""
        ...

    def queries(self) -> dict[str, str]:
        """Return the text of every query by its id."""
        ...

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return the judgements of a split: the grade by query id and document id."""
        ...


class BeirCollection:
    """A BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`, each of which may be compressed.

    Args:
        folder: The folder.
        bad_rows: Counts empty documents, which are left out, and pairs with two different grades.

    Raises:
        InputError: If the folder has no corpus.
    """

    def __init__(self, folder: Path, bad_rows: BadRows | None = None) -> None:
        self.folder = folder
        self.name = folder.resolve().name
        self._bad_rows = bad_rows if bad_rows is not None else BadRows()
        self._corpus = _existing(folder / "corpus.jsonl")
        found = {path.name.split(".tsv")[0]: path for path in sorted(folder.glob("qrels/*.tsv*"))}
        self._qrels = {name: path for name, path in found.items() if path.name.endswith(_with("tsv"))}
        self.splits = tuple(self._qrels)

    def documents(self) -> Iterator[Document]:
        """Yield every document that has text, from the fields `_id`, `title`, `text` and `queries` or
        `predicted_queries`."""
        return read_jsonl_corpus(self._corpus, self._bad_rows)

    def beside(self) -> list[str]:
        """Return the data files of the folder that hold no documents: queries, judgements and the like."""
        others = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and path != self._corpus)
        return [str(path) for path in others if split_name(path)[1] is not None]

    def queries(self) -> dict[str, str]:
        """Return the text of every query of `queries.jsonl` by its id.

        Raises:
            InputError: If the file is missing, a query has no id or text, or two texts have one id.
        """
        return read_queries(_existing(self.folder / "queries.jsonl"))

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return the judgements of a split: the grade by query id and document id.

        Raises:
            InputError: If there is no such split; the message names the splits that there are.
        """
        return read_qrels(self.qrels_path(split), self._bad_rows)

    def qrels_path(self, split: str) -> Path:
        """Return the file with the judgements of a split.

        Raises:
            InputError: If there is no such split.
        """
        if split not in self._qrels:
            raise InputError(
                f"{self.folder} has no judgements for the split {split!r}",
                f"choose --split from: {', '.join(self.splits)}" if self.splits else "add a file qrels/test.tsv",
            )
        return self._qrels[split]


class FileCollection:
    """Documents without queries: one JSONL or tab-separated file, or anything that the data readers read.

    Args:
        locations: Files, folders or globs.
        bad_rows: Counts the rows that could not be read.
    """

    splits: tuple[str, ...] = ()

    def __init__(self, locations: Sequence[str], bad_rows: BadRows | None = None) -> None:
        self.locations = tuple(locations)
        self.name = ", ".join(Path(location).name for location in self.locations)
        self._bad_rows = bad_rows if bad_rows is not None else BadRows()

    def documents(self) -> Iterator[Document]:
        """Yield every document; its id is the field `id`, `_id` or `docno`, else the place where it was read."""
        from lavra.data.readers.documents import read_rows

        for location in self.locations:
            path = Path(location)
            if path.is_file() and path.name.endswith(_with("jsonl")):
                yield from read_jsonl_corpus(path, self._bad_rows)
            elif path.is_file() and path.name.endswith(_with("tsv")):
                yield from read_tsv_corpus(path, self._bad_rows)
            else:
                for row in read_rows(
                    self._without_queries(location), wanted=(*ID_FIELDS, "title"), bad_rows=self._bad_rows
                ):
                    found = [row.fields[name] for name in ID_FIELDS if row.fields.get(name) not in (None, "")]
                    title = row.fields.get("title")
                    yield Document(
                        id=str(found[0]) if found else row.place,
                        text=row.text,
                        title=title if isinstance(title, str) else "",
                        place=row.place,
                    )

    def _without_queries(self, location: str) -> list[str]:
        """Return the files to read of a location: of a BEIR folder in it the corpus alone, without its queries."""
        if not Path(location).is_dir():
            return [location]
        files = find_files([location])
        corpora = {file.path.parent: file.path for file in files.files if file.path.name in _CORPORA}
        if not corpora:
            return [location]
        kept = []
        for file in files.files:
            home = next((folder for folder in file.path.parents if folder in corpora), None)
            if home is None or corpora[home] == file.path:
                kept.append(str(file.path))
            else:
                files.leave_out(file.path, BESIDE_CORPUS)
        for reason, paths in files.left_out.items():
            for path in paths:
                self._bad_rows.leave_out(path, reason)
        return kept

    def queries(self) -> dict[str, str]:
        """Return an empty dictionary, because plain documents come without queries."""
        return {}

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Raise an InputError, because plain documents come without judgements."""
        raise InputError(f"{self.name} has no judgements", "evaluate on a BEIR folder, or give queries and qrels files")


def open_collection(location: str, bad_rows: BadRows | None = None) -> Collection:
    """Open a collection by its location.

    Args:
        location: A BEIR folder, a file or folder of documents, `installed-docs:` or `ir_datasets:NAME`.
        bad_rows: Counts what could not be read; None for not counting it.

    Returns:
        The collection.

    Raises:
        InputError: If there is nothing at `location`.
    """
    if bad_rows is not None:
        bad_rows.remedies |= WITHOUT_OPTIONS | _REMEDIES
    if location.startswith("installed-docs:"):
        from lavra.search.corpora.installed import DocstringCollection

        return DocstringCollection(location, bad_rows)
    if location.startswith("ir_datasets:"):
        from lavra.search.corpora.installed import IrDatasetsCollection

        return IrDatasetsCollection(location.removeprefix("ir_datasets:"))
    folder = Path(location).expanduser()
    if any((folder / f"corpus.jsonl{ending}").is_file() for ending in _ENDINGS):
        return BeirCollection(folder, bad_rows)
    if not folder.exists() and not glob.has_magic(location) and ":" not in location and location != "-":
        raise InputError(f"{location} does not exist", "check the spelling; relative paths start at the current folder")
    return FileCollection([location], bad_rows)


def read_jsonl_corpus(path: Path, bad_rows: BadRows) -> Iterator[Document]:
    """Yield the documents of a JSONL file with the fields of BEIR (`_id`, `title`, `text`) or of Anserini (`id`,
    `contents`).

    Generated queries are read from `predicted_queries` or `queries`, which is a list or lines of text. Documents
    without text are left out and counted, and so are lines that are not JSON or have no id.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts what is left out, or raises an error for it.

    Raises:
        InputError: If a line cannot be used and bad rows are errors; the message names the line.
    """
    for place, row in json_objects(path, bad_rows):
        identifier = optional_field(row, ID_FIELDS)
        if not identifier:
            bad_rows.add(NO_ID, place)
            continue
        title, text = _plain(row, "title"), next(filter(None, (_plain(row, name) for name in _TEXT_FIELDS)), "")
        if not title.strip() and not text.strip():
            bad_rows.add(*_without_text(row, place, identifier))
            continue
        yield Document(identifier, text, title, tuple(listed_queries(row)), place)


def _without_text(row: Mapping[str, Any], place: str, identifier: str) -> tuple[str, str, str]:
    """Return the kind, the place and the detail of a row without text: empty, in another column, or no text."""
    held = [name for name in _TEXT_FIELDS if name in row]
    if not held:
        return MISSING_COLUMN, place, missing_column(" or ".join(_TEXT_FIELDS), list(row))
    odd = next((name for name in held if not isinstance(row[name], str | None)), None)
    if odd is not None:
        return NOT_TEXT, place, f"{odd!r} holds a {type(row[odd]).__name__}"
    return EMPTY, place, identifier


def listed_queries(row: Mapping[str, Any]) -> list[str]:
    """Return the generated queries in the field `predicted_queries`, `queries` or `querygen` of a row.

    Args:
        row: The row of a JSONL file.

    Examples:
        >>> listed_queries({"queries": "where is it\\nwho made it"})
        ['where is it', 'who made it']
    """
    for name in ("predicted_queries", "queries", "querygen"):
        value = row.get(name)
        if isinstance(value, str):
            value = value.split("\n")
        if isinstance(value, list):
            return [query for query in value if isinstance(query, str) and query.strip()]
    return []


def read_tsv_corpus(path: Path, bad_rows: BadRows) -> Iterator[Document]:
    """Yield the documents of a tab-separated file with id and text, such as `collection.tsv` of MS MARCO.

    A first line that names its columns (`id`, `title`, `text`) is a header. Lines without a tab or without an id, or
    with more or fewer fields than the header, are left out and counted.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts what is left out, or raises an error for it.

    Raises:
        InputError: If a line cannot be used and bad rows are errors; the message names the line.
    """
    names: list[str] = []
    for number, (place, line) in enumerate(numbered_lines(path, bad_rows)):
        identifier, tab, text = line.partition("\t")
        if number == 0 and _is_header(line):
            names = line.strip().lower().split("\t")
            continue
        title = ""
        if names:
            fields = line.split("\t")
            if tab and len(fields) != len(names):
                bad_rows.add(BAD_CSV, place, f"{counted(len(fields), 'field')}, and the header has {len(names)}")
                continue
            row = dict(zip(names, fields, strict=False))
            identifier, title = optional_field(row, ID_FIELDS), row.get("title", "")
            text = optional_field(row, _TEXT_FIELDS)
        if not tab or not identifier:
            bad_rows.add(NO_TAB, place, line[:80])
        elif text.strip() or title.strip():
            yield Document(identifier, text.replace("\t", " "), title, place=place)
        else:
            bad_rows.add(EMPTY, place, identifier)


def _is_header(line: str, ids: Sequence[str] = ID_FIELDS, texts: Sequence[str] = _TEXT_FIELDS) -> bool:
    names = line.strip().lower().split("\t")
    return len(names) > 1 and any(name in ids for name in names) and any(name in texts for name in names)


def read_queries(path: Path) -> dict[str, str]:
    """Read queries from JSONL with `_id` and `text`, or from lines `id<tab>text`, the first of which may be a header.

    Args:
        path: The file, which may be compressed.

    Returns:
        The text of each query by its id.

    Raises:
        InputError: If a query has no id or text, or an id has two different texts; the message names the line.
    """
    queries: dict[str, str] = {}
    for place, identifier, text in _query_lines(path):
        if queries.get(identifier, text) != text:
            raise InputError(
                f"{place}: the query id {identifier!r} has been used for another text", "give each query its own id"
            )
        queries[identifier] = text
    return queries


def _query_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    if path.name.endswith(_with("jsonl")):
        for place, row in json_objects(path):
            yield place, text_field(row, _QUERY_IDS, place, "id"), text_field(row, _QUERY_TEXTS, place, "text")
        return
    for number, (place, line) in enumerate(numbered_lines(path)):
        if number == 0 and _is_header(line, _QUERY_IDS, _QUERY_TEXTS):
            continue
        identifier, _, text = line.partition("\t")
        if not text.strip():
            raise InputError(f"{place} is not `id<tab>text`", "write one query per line: its id, a tab, its text")
        yield place, identifier, text


def _plain(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _with(kind: str) -> tuple[str, ...]:
    return tuple(f".{kind}{ending}" for ending in _ENDINGS)


def _existing(path: Path) -> Path:
    for ending in _ENDINGS:
        candidate = path.with_name(path.name + ending)
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{path} is missing", "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/*.tsv, also as .gz"
    )
