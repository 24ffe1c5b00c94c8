"""Documents, and relevance judgements in the layout of TREC or of BEIR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lavra.core.errors import InputError
from lavra.data.readers.lines import numbered_lines
from lavra.data.readers.rows import BadRows
from lavra.evaluation.retrieval import Qrels


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a collection.

    Attributes:
        id: The name of the document in judgements; unique in the collection.
        text: The body of the document.
        title: The title, an empty string where there is none; title and body are indexed together.
        queries: Queries that were generated for the document (document expansion).
        place: Where the document was read, for messages, such as `corpus.jsonl:17`.

    Examples:
        >>> Document("1", "It runs into the sea.", title="The river").contents
        'The river It runs into the sea.'
    """

    id: str
    text: str
    title: str = ""
    queries: tuple[str, ...] = ()
    place: str = ""

    @property
    def contents(self) -> str:
        """The title, if any, and the text: what BEIR and Anserini call the flat document."""
        return f"{self.title} {self.text}" if self.title else self.text


JUDGED_TWICE = "judgement given twice with different grades (the last one counts)"
UNKNOWN_QUERY = "judgement of a query that the collection does not have"
UNKNOWN_DOCUMENT = "judgement of a document that is not in the corpus"

_HEADER_NAMES = frozenset(
    ("query-id", "qid", "query", "topic", "score", "grade", "rel", "relevance", "label", "rating")
)
"""Usual names of the first or last column of a file of judgements, by which a header line is recognised."""


def judgement_lines(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield the judgements of a file in either layout.

    The layout of BEIR is `query-id<tab>corpus-id<tab>score` with that header; the layout of TREC is
    `query 0 document grade`, separated by white space. The first line is a header when one of these names is its first
    or last column and no column has a digit. A grade of `1.0` is 1.

    Args:
        path: The file, which may be compressed.

    Yields:
        The place of the line for messages, the query id, the document id and the grade.

    Raises:
        InputError: If a line has neither layout; the message names the line.
    """
    for number, (place, line) in enumerate(numbered_lines(path)):
        columns = line.split("\t") if line.count("\t") == 2 else line.split()
        if len(columns) not in (3, 4):
            raise InputError(
                f"{place} is no judgement: {line[:80]!r}",
                "write query, document and grade separated by tabs, or TREC's four columns: query 0 document grade",
            )
        query, document, grade = columns[0], columns[-2], columns[-1]
        if number == 0 and _is_header(columns):
            continue
        yield place, query, document, _grade(grade, place)


def _is_header(columns: list[str]) -> bool:
    """Return whether a line names columns: words without digits, with a usual name in the first or last column."""
    names = [column.strip().lower().replace("_", "-") for column in columns]
    if any(not name or any(letter.isdigit() for letter in name) for name in names):
        return False
    return any(name in _HEADER_NAMES for name in names[-1:]) or names[0] in _HEADER_NAMES


def _grade(text: str, place: str) -> int:
    try:
        value = float(text)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise InputError(f"{place}: the grade {text!r} is not a whole number", "use 0, 1, 2, …")


def read_qrels(path: Path, bad_rows: BadRows | None = None) -> dict[str, dict[str, int]]:
    """Read relevance judgements (qrels) in the layout of TREC or of BEIR.

    A pair that is judged twice counts with its last grade, and is counted as a problem when the grades differ.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts the pairs with two different grades; None for not counting them.

    Returns:
        The grade of each judged document, by query id and document id.

    Raises:
        InputError: If a line has neither layout, or the file holds no judgement.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, query, document, grade in judgement_lines(path):
        judged = qrels.setdefault(query, {})
        if bad_rows is not None and judged.get(document, grade) != grade:
            bad_rows.add(JUDGED_TWICE, place)
        judged[document] = grade
    if not qrels:
        raise InputError(f"{path} holds no judgement", "check that it is the right file")
    return qrels


def restrict(qrels: Qrels, queries: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the judgements of some queries.

    Args:
        qrels: The judgements, by query id and document id.
        queries: The ids of the queries to keep.

    Examples:
        >>> restrict({"q1": {"d1": 1}, "q2": {"d2": 1}}, ["q2"])
        {'q2': {'d2': 1}}
    """
    wanted = set(queries)
    return {query: dict(judged) for query, judged in qrels.items() if query in wanted}
