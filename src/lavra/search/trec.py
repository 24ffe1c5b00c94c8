"""Judgements and runs: TREC's columns, and the tab-separated judgements of BEIR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lavra.core.errors import InputError
from lavra.data.bad_rows import BadRows
from lavra.evaluation.retrieval import Qrels, Run, ranking
from lavra.search.lines import numbered_lines

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


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Write judgements in TREC's layout."""
    lines = (f"{query} 0 {name} {grade}\n" for query, judged in qrels.items() for name, grade in judged.items())
    path.write_text("".join(lines), encoding="utf8")


def check_judgements(
    path: Path, known_query: Callable[[str], bool], known_document: Callable[[str], bool], bad_rows: BadRows
) -> None:
    """Count judgements that name a query or a document which the collection does not have, with file and line.

    They are kept in the evaluation (a relevant document that is not in the index cannot be found), as trec_eval does.

    Raises:
        InputError: if no judgement names a known query and a known document: then the files do not belong together.
    """
    fitting, first = 0, ""
    for place, query, document, _ in judgement_lines(path):
        first = first or f"{place} (query {query!r}, document {document!r})"
        has_query, has_document = known_query(query), known_document(document)
        if not has_query:
            bad_rows.add(UNKNOWN_QUERY, place, repr(query))
        if not has_document:
            bad_rows.add(UNKNOWN_DOCUMENT, place, repr(document))
        fitting += has_query and has_document
    if not fitting:
        raise InputError(
            f"no judgement of {path} names a known query and a known document, e.g. {first}",
            "check that corpus, queries and judgements belong to the same collection",
        )


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """Read a run: TREC's `query Q0 document rank score tag`, or MS MARCO's `query<tab>document<tab>rank`.

    As trec_eval does, the rank column of a TREC run is ignored: scores give the order. MS MARCO runs have no score, so
    the score becomes one over the rank.

    Raises:
        InputError: for a line that is neither, or a document that a query has twice, naming the line.
    """
    run: dict[str, dict[str, float]] = {}
    for place, line in numbered_lines(path):
        columns = line.split()
        try:
            if len(columns) == 6:
                query, document, score = columns[0], columns[2], float(columns[4])
            elif len(columns) == 3:
                query, document, score = columns[0], columns[1], 1.0 / int(columns[2])
            else:
                raise ValueError
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"{place} is no line of a run: {line[:80]!r}", "write: query Q0 document rank score tag"
            ) from error
        results = run.setdefault(query, {})
        if document in results:
            raise InputError(
                f"{place}: query {query!r} has document {document!r} twice", "each document may appear once per query"
            )
        results[document] = score
    return run


def run_lines(run: Run, tag: str = "lavra") -> Iterator[str]:
    """Yield the lines of a run in TREC's layout, ranked from 1 in trec_eval's own order."""
    for query, results in run.items():
        for rank, document in enumerate(ranking(results), start=1):
            yield f"{query} Q0 {document} {rank} {results[document]:.9g} {tag}\n"


def write_run(path: Path, run: Run, tag: str = "lavra") -> None:
    """Write a run in TREC's layout; scores keep nine digits, enough to give the same 32-bit float back."""
    with path.open("w", encoding="utf8") as handle:
        handle.writelines(run_lines(run, tag))


def restrict(qrels: Qrels, queries: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the judgements of these queries only."""
    wanted = set(queries)
    return {query: dict(judged) for query, judged in qrels.items() if query in wanted}
