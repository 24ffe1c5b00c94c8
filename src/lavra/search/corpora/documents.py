"""What is searched and what is judged: documents, and judgements in the columns of TREC or BEIR."""

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
        id: its name in runs and judgements; unique in the collection.
        text: its body.
        title: its title, empty when it has none; title and body are indexed together.
        queries: queries generated for it (document expansion).
        place: where it was read, for messages: `corpus.jsonl:17`.
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
_HEADER_NAMES = frozenset(
    ("query-id", "qid", "query", "topic", "score", "grade", "rel", "relevance", "label", "rating")
)
UNKNOWN_DOCUMENT = "judgement of a document that is not in the corpus"


def judgement_lines(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield (place, query, document, grade) of a judgements file, in either layout.

    BEIR: `query-id<tab>corpus-id<tab>score` with that header. TREC: `query 0 document grade`, white space between. The
    first line is a header when it has these names, or one of them and no digit in any column. A grade of `1.0` is 1.

    Raises:
        InputError: for a line that is neither, naming it.
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
    """Whether a line names columns: nothing but words, one of which is a name that people give to such a column."""
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
    """Read judgements, TREC's or BEIR's, as query -> document -> grade.

    A pair that is judged twice counts with its last grade, and is counted as a problem when the grades differ.

    Raises:
        InputError: see `judgement_lines`; also if the file holds no judgement.
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
    """Return the judgements of these queries only."""
    wanted = set(queries)
    return {query: dict(judged) for query, judged in qrels.items() if query in wanted}
