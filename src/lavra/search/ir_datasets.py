"""Collections of the `ir_datasets` package, when it is installed: `ir_datasets:beir/scifact/test`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from lavra.core.errors import InputError
from lavra.search.documents import Document


class IrDatasetsCollection:
    """One collection of `ir_datasets`; its judgements are one split, named after the last part of the name.

    Args:
        name: its name there, e.g. `beir/scifact/test`.

    Raises:
        InputError: if the package is not installed or has no such collection.
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
        """Yield every document; the title is its field `title`, the text its `text` or else all its text."""
        for row in self._dataset.docs_iter():
            title = getattr(row, "title", "") or ""
            text = getattr(row, "text", None)
            yield Document(row.doc_id, row.default_text() if text is None else text, title if text is not None else "")

    def queries(self) -> dict[str, str]:
        """Return every query: id -> text."""
        return {row.query_id: row.default_text() for row in self._dataset.queries_iter()}

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        """Return the judgements; `split` must be the one in `splits`."""
        if split not in self.splits:
            raise InputError(
                f"{self.name} has no split {split!r}", f"its judgements are {', '.join(self.splits) or 'none'}"
            )
        qrels: dict[str, dict[str, int]] = {}
        for row in self._dataset.qrels_iter():
            qrels.setdefault(row.query_id, {})[row.doc_id] = row.relevance
        return qrels
