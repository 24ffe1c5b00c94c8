"""Building an index from a collection and its generated queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from lavra.core.errors import InputError
from lavra.core.progress import track
from lavra.data.readers.lines import warning_lines
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import Collection
from lavra.search.expansion.queries import ExpansionFile, expanded
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.search.index.update import Changes
from lavra.text.languages import language_warning

_SAMPLE = 500
"""Documents from which the language of the collection is guessed, for a warning."""


def build_index(
    collection: Collection,
    folder: Path,
    settings: IndexSettings,
    *,
    expansions: Path | None = None,
    complete: bool = True,
    vectorizer: Vectorizer | None = None,
    bad_rows: BadRows | None = None,
) -> tuple[Index, Changes, list[str]]:
    """Make an index of a collection, or bring an existing one up to date; after a kill, another call continues.

    Args:
        collection: The documents, which are not held in memory all at once.
        folder: The folder of the index, which is made where there is none.
        settings: The settings. An existing index must have the same analyzer and chunks; its other settings are changed
            to these.
        expansions: File of generated queries, see `ExpansionFile`; None for those that the documents bring along.
        complete: Whether documents of an existing index that the collection does not have are deleted.
        vectorizer: What makes the vectors of the index; None for an index without any, whose vectors are dropped.
        bad_rows: Counts what is wrong with the input; give the one of the collection to have all counts in one.

    Returns:
        The index, the number of changed documents, and warnings.

    Raises:
        InputError: If an existing index has another analyzer or other chunks, or the collection has no document.
    """
    problems = bad_rows if bad_rows is not None else BadRows()
    sample: list[str] = []
    with ExitStack() as stack:
        documents = _sampled(_some(collection, problems), sample)
        pairs: Iterable[tuple[Document, tuple[float, ...]]] = ((one, ()) for one in documents)
        found = None
        if expansions is not None:
            found = stack.enter_context(ExpansionFile(expansions))
            pairs = expanded(documents, found)
        index = _open_or_create(folder, settings)
        update = stack.enter_context(index.update(complete=complete, bad_rows=problems))
        update.settings, update.vectorizer = settings, vectorizer
        for document, scores in track(pairs, "indexing", unit="documents"):
            update.put(document, scores)
        if found is not None:
            found.count_unused(problems)
    warnings = warning_lines(problems)
    language = language_warning(sample, settings.analyzer.language)
    warnings += [language] if language else []
    return Index(folder), update.changes, [*warnings, *(vectorizer.warnings() if vectorizer else [])]


def _some(collection: Collection, problems: BadRows) -> Iterator[Document]:
    """Return the documents; a collection without any is refused before an index is made."""
    documents = collection.documents()
    first = next(documents, None)
    if first is None:
        raise without_documents(collection.name, problems)
    return chain([first], documents)


def without_documents(name: str, problems: BadRows) -> InputError:
    """Return the error that a collection has no document, with what was wrong with its rows.

    Args:
        name: The name of the collection.
        problems: What was counted while it was read.
    """
    reason = "\n".join(warning_lines(problems))
    return InputError(
        f"{name} has no document with text" + (f"\n{reason}" if reason else ""),
        problems.remedy() or "check the corpus file",
    )


def _open_or_create(folder: Path, settings: IndexSettings) -> Index:
    if not Index.exists(folder):
        try:
            return Index.create(folder, settings)
        except InputError:
            if not Index.exists(folder):  # else another process has made it just now
                raise
    index = Index(folder)
    if index.settings.analyzer.language != settings.analyzer.language:
        raise InputError(
            f"{folder} was made with --language {index.settings.analyzer.language}, not {settings.analyzer.language}",
            "give the same language or none, or make the index again with --force",
        )
    for name in ("analyzer", "chunk_words", "chunk_overlap"):
        if getattr(index.settings, name) != getattr(settings, name):
            raise InputError(
                f"{folder} was made with {name} {getattr(index.settings, name)}, not {getattr(settings, name)}",
                "give the same settings, or make the index again with --force",
            )
    return index


def _sampled(documents: Iterable[Document], sample: list[str]) -> Iterator[Document]:
    for document in documents:
        if len(sample) < _SAMPLE:
            sample.append(document.contents)
        yield document
