"""What a query generator learns from: passages that it can read, each with the queries that people asked of it."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from lavra.core.errors import InputError
from lavra.core.seeds import derive_seed
from lavra.core.units import counted
from lavra.data.readers.lines import json_objects, numbered_lines, optional_field
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import UNKNOWN_DOCUMENT, UNKNOWN_QUERY
from lavra.search.corpora.formats import Collection, open_collection
from lavra.search.expansion.prompts import QueryPrompt
from lavra.text.chunking import cut_into_chunks

# Pairs of a passage and a query that it answers: what a query generator is trained on.

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


# What a query generator learns from: passages that it can read, each with the queries that people asked of it.

PASSAGE_WORDS = 160
"""Longest passage to learn from; of a longer one, the chunk that shares most words with a query is its passage."""

MOST_QUERIES = 8
"""Queries of one passage that are learned together; the rest come in a second row."""

_WORD = re.compile(r"\w{3,}")
_TSV = (".tsv", ".tsv.gz", ".tsv.zst", ".tsv.xz")
_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz")


@dataclass(frozen=True, slots=True)
class AskedPassage:
    """A passage with its queries.

    Attributes:
        document: id of its document.
        passage: of at most `PASSAGE_WORDS` words.
        queries: that it answers.
    """

    document: str
    passage: str
    queries: tuple[str, ...]


def read_pairs(location: str, split: str, bad_rows: BadRows) -> Iterator[Pair]:
    """Yield the pairs of a collection's split, of an MS MARCO triples file, or of a JSONL file (`passage`, `query`).

    Raises:
        InputError: if there is nothing at `location`, or it holds no pairs.
    """
    path = Path(location)
    if path.is_file() and path.name.endswith(_TSV):
        yield from read_triples(path, bad_rows)
    elif path.is_file() and path.name.endswith(_JSONL):
        yield from _read_jsonl_pairs(path, bad_rows)
    else:
        yield from training_pairs(open_collection(location, bad_rows), split, bad_rows)


def _read_jsonl_pairs(path: Path, bad_rows: BadRows) -> Iterator[Pair]:
    for place, row in json_objects(path, bad_rows):
        passage = optional_field(row, ("passage", "text", "prompt", "source"))
        query = optional_field(row, ("query", "completion", "target"))
        if passage and query:
            yield Pair(passage, passage, query)
        else:
            bad_rows.add(NO_PAIR, place)


def asked_passages(pairs: Iterable[Pair]) -> Iterator[AskedPassage]:
    """Put consecutive pairs of a document together, and each query of a long one with the chunk that fits it best."""
    for document, group in groupby(pairs, key=lambda pair: pair.document):
        mine = list(group)
        chunks = _chunks(mine[0].passage)
        asked: dict[int, dict[str, None]] = {}
        for pair in mine:
            query = " ".join(pair.query.split())
            if query:
                asked.setdefault(_best(chunks, query), {})[query] = None
        for number, queries in sorted(asked.items()):
            yield AskedPassage(document, chunks[number], tuple(queries))


def _chunks(text: str) -> list[str]:
    pieces = cut_into_chunks(text, PASSAGE_WORDS)
    return [text[piece.start : piece.end].strip() for piece in pieces] or [""]


def _best(chunks: list[str], query: str) -> int:
    if len(chunks) == 1:
        return 0
    words = set(_WORD.findall(query.lower()))
    shared = [len(words & set(_WORD.findall(chunk.lower()))) for chunk in chunks]
    return shared.index(max(shared))


def is_held_out(document: str, share: float) -> bool:
    """Say by a hash of its id whether a document is kept for validation, all of its passages with it."""
    digest = hashlib.blake2b(document.encode("utf8", "surrogatepass"), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "little") < share * 2**64


def example_row(asked: AskedPassage, prompt: QueryPrompt, *, whole: bool, seed: int) -> Iterator[dict[str, str]]:
    """Yield rows to learn from: a passage, and its queries one after the other in random order.

    Several queries after one passage cost little more than one, and each is learned as an answer to the passage: a
    generator asked for one stops at the separator.

    Args:
        asked: the passage.
        prompt: how it is put.
        whole: learn the passage too, as a text (for a model that knows no language yet); else the queries alone.
        seed: of the order.
    """
    queries = list(asked.queries)
    random.Random(derive_seed(seed, "queries", asked.passage)).shuffle(queries)
    at_once = MOST_QUERIES if prompt.separator else 1
    for start in range(0, len(queries), at_once):
        before, answer = prompt.fill(asked.passage), prompt.joined(queries[start : start + at_once])
        yield {"prompt": "", "completion": before + answer} if whole else {"prompt": before, "completion": answer}


def check_pairs(rows: int, location: str) -> None:
    """Refuse pairs that are too few to train on."""
    if rows < 10:
        raise InputError(
            f"{location} gives {counted(rows, 'passage')} with queries to train on; 10 are needed", "give more pairs"
        )
