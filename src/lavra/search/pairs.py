"""Pairs of a passage and a query that it answers: what a query generator is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lavra.core.errors import InputError
from lavra.data.bad_rows import BadRows
from lavra.search.formats import Collection
from lavra.search.lines import numbered_lines
from lavra.search.trec import UNKNOWN_DOCUMENT, UNKNOWN_QUERY

NO_PAIR = "line without a passage and a query"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage that answers it.

    Attributes:
        document: id of the passage's document; all pairs of a document belong on one side of a split.
        passage: title and text of the document.
        query: the text of the query.
    """

    document: str
    passage: str
    query: str


def training_pairs(collection: Collection, split: str, bad_rows: BadRows | None = None) -> Iterator[Pair]:
    """Yield a pair for every relevant judgement of a split, in the order of the corpus.

    The corpus is streamed; the queries are kept in memory. Judgements of unknown queries or documents are counted.

    Raises:
        InputError: if the split has no pair at all.
    """
    problems = bad_rows if bad_rows is not None else BadRows()
    queries = collection.queries()
    wanted: dict[str, list[str]] = {}
    for query, judged in collection.qrels(split).items():
        for document, grade in judged.items():
            if grade < 1:
                continue
            if query in queries:
                wanted.setdefault(document, []).append(queries[query])
            else:
                problems.add(UNKNOWN_QUERY, f"{split} judgements", repr(query))
    found = 0
    for document in collection.documents():
        for query in wanted.pop(document.id, ()):
            found += 1
            yield Pair(document.id, document.contents, query)
    for document in wanted:
        problems.add(UNKNOWN_DOCUMENT, f"{split} judgements", repr(document))
    if not found:
        raise InputError(
            f"the {split} judgements of {collection.name} give no pair of passage and query",
            "check that corpus, queries and judgements belong together",
        )


def read_triples(path: Path, bad_rows: BadRows) -> Iterator[Pair]:
    """Yield the pairs of an MS MARCO triples file: `query<tab>relevant passage<tab>other passage`, or the first two.

    The passage's own text serves as the document id, since triples carry none.

    Lines with fewer than two columns, or an empty one of the two, are left out and counted.
    """
    for place, line in numbered_lines(path, bad_rows):
        columns = line.split("\t")
        if len(columns) not in (2, 3) or not columns[0].strip() or not columns[1].strip():
            bad_rows.add(NO_PAIR, place, line[:80])
            continue
        yield Pair(columns[1], columns[1], columns[0])
