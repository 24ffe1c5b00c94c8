"""Collections from installed packages: docstrings with their summaries as queries, and those of `ir_datasets`."""

from __future__ import annotations

import hashlib
import importlib
import sysconfig
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from lavra.core.errors import InputError
from lavra.data.readers.documents import INSTALLED_DOCS, read_rows
from lavra.data.readers.installed_docs import read_installed_docs
from lavra.data.readers.rows import BadRows, SourceDocument
from lavra.search.corpora.documents import Document

FEWEST_BODY_WORDS = 20
"""Fewest words of a docstring without its summary, for it to be a passage."""

SUMMARY_WORDS = (3, 25)
"""Fewest and most words of a summary, for it to serve as a query."""

_TENTHS = {"train": range(8), "dev": range(8, 9), "test": range(9, 10)}
"""The tenths of the passages, by a hash of their text, that belong to each split."""


class _Entry(NamedTuple):
    id: str
    body: str
    summary: str


class DocstringCollection:
    """Docstrings of the installed packages: the summary is the query, and the rest is the passage that answers it.

    A docstring is used when its summary (its first paragraph) has 3 to 25 words and the rest has at least 20; a passage
    that occurs twice is used once. Queries of equal text are one query with several relevant passages. A hash of their
    text assigns the passages to "train", "dev" and "test", 8:1:1; all of them are searched.

    Args:
        location: `installed-docs:`, or with the names of packages, `installed-docs:numpy,torch`.
        bad_rows: Counts what could not be read.
    """

    splits: tuple[str, ...] = tuple(_TENTHS)

    def __init__(self, location: str = INSTALLED_DOCS, bad_rows: BadRows | None = None) -> None:
        self._packages = [name for name in location.removeprefix(INSTALLED_DOCS).split(",") if name]
        self.name = " ".join(
            ["installed documentation", *(["of", ", ".join(self._packages)] if self._packages else [])]
        )
        self._bad_rows = bad_rows if bad_rows is not None else BadRows()

    def documents(self) -> Iterator[Document]:
        """Yield the passages as documents."""
        for entry in self._entries:
            yield Document(entry.id, entry.body, place=entry.id)

    def queries(self) -> dict[str, str]:
        """Return the summaries as queries: the text by the id."""
        return {_query_id(entry.summary): entry.summary for entry in self._entries}

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return the judgements of a split: grade 1 for the passages of each query.

        Raises:
            InputError: If the split is not train, dev or test.
        """
        if split not in _TENTHS:
            raise InputError(f"there is no split {split!r} of the installed documentation", "use train, dev or test")
        qrels: dict[str, dict[str, int]] = {}
        for entry in self._entries:
            if _digest(entry.body) % 10 in _TENTHS[split]:
                qrels.setdefault(_query_id(entry.summary), {})[entry.id] = 1
        return qrels

    def _every_row(self) -> Iterator[SourceDocument]:
        return read_rows([INSTALLED_DOCS], bad_rows=self._bad_rows)

    @cached_property
    def _entries(self) -> list[_Entry]:
        root = sysconfig.get_paths()["purelib"].rstrip("/") + "/"
        seen: set[int] = set()
        names: Counter[str] = Counter()
        entries = []
        rows = (
            read_installed_docs(packages=self._packages, bad_rows=self._bad_rows)
            if self._packages
            else self._every_row()
        )
        for row in rows:
            summary, body = summary_and_body(row.text)
            fewest, most = SUMMARY_WORDS
            if not fewest <= len(summary.split()) <= most or len(body.split()) < FEWEST_BODY_WORDS:
                continue
            digest = _digest(body)
            if digest not in seen:
                seen.add(digest)
                name = row.place.removeprefix(root)
                names[name] += 1  # a property and its setter share their name
                entries.append(_Entry(name if names[name] == 1 else f"{name}~{names[name]}", body, summary))
        return entries


def summary_and_body(docstring: str) -> tuple[str, str]:
    """Split a docstring into its summary and the rest.

    Args:
        docstring: The docstring.

    Returns:
        The first paragraph on one line and without its full stop, and the text after it.

    >>> summary_and_body("Return the area.\\n\\nThe sides are lengths.")
    ('Return the area', 'The sides are lengths.')
    """
    first, _, rest = docstring.strip().partition("\n\n")
    return " ".join(first.split()).removesuffix("."), rest.strip()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf8", "surrogatepass"), digest_size=8).digest(), "little")


def _query_id(summary: str) -> str:
    return f"{_digest(summary):016x}"


class IrDatasetsCollection:
    """One collection of `ir_datasets`; its judgements are one split with the last part of the name.

    Args:
        name: The name of the collection in `ir_datasets`, such as `beir/scifact/test`.

    Raises:
        InputError: If the package is not installed or has no such collection.
    """

    def __init__(self, name: str) -> None:
        try:
            package = importlib.import_module("ir_datasets")
        except ImportError as error:
            raise InputError(f"{name} needs the package ir_datasets", "pip install ir_datasets") from error
        try:
            self._dataset: Any = package.load(name)
        except KeyError as error:
            raise InputError(f"ir_datasets has no collection {name!r}", "see https://ir-datasets.com") from error
        self.name = name
        self.splits = (name.rpartition("/")[2],) if self._dataset.has_qrels() else ()

    def documents(self) -> Iterator[Document]:
        """Yield every document, with its fields `title` and `text`; all of its text where it has no field `text`."""
        for row in self._dataset.docs_iter():
            title = getattr(row, "title", "") or ""
            text = getattr(row, "text", None)
            yield Document(row.doc_id, row.default_text() if text is None else text, title if text is not None else "")

    def queries(self) -> dict[str, str]:
        """Return the text of every query by its id."""
        return {row.query_id: row.default_text() for row in self._dataset.queries_iter()}

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return the judgements: the grade by query id and document id.

        Raises:
            InputError: If the split is not the one in `splits`.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.name} has no split {split!r}", f"its judgements are {', '.join(self.splits) or 'none'}"
            )
        qrels: dict[str, dict[str, int]] = {}
        for row in self._dataset.qrels_iter():
            qrels.setdefault(row.query_id, {})[row.doc_id] = row.relevance
        return qrels
