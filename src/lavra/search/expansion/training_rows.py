"""The training data of a query generator: passages, each with the queries that people asked of it."""

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

# Pairs of a passage and a query that it answers.

NO_PAIR = "line without a passage and a query"


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage that answers it.

    Attributes:
        document: The id of the document; all pairs of a document belong to the same side of a split.
        passage: Title and text of the document.
        query: The text of the query.
    """

    document: str
    passage: str
    query: str


def training_pairs(collection: Collection, split: str, bad_rows: BadRows | None = None) -> Iterator[Pair]:
    """Yield a pair for every relevant judgement of a split, in the order of the corpus.

    The queries are held in memory, the documents are not. Judgements of unknown queries or documents are counted.

    Args:
        collection: The collection.
        split: The split of the judgements.
        bad_rows: Counts what could not be used; None for not counting it.

    Raises:
        InputError: If the split has no pair at all.
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


# Names of columns by which the header of a file of triples is recognised.
_HEADER = frozenset(("query", "question", "passage", "text", "positive", "negative", "pos", "neg"))


def read_triples(path: Path, bad_rows: BadRows) -> Iterator[Pair]:
    """Yield the pairs of an MS MARCO triples file: `query<tab>relevant passage<tab>other passage`, or the first two.

    A first line that names these columns is a header. The text of the passage serves as the document id, because
    triples have none. Lines with fewer than two columns, or with an empty one, are left out and counted.

    Args:
        path: The file, which may be compressed.
        bad_rows: Counts what is left out.
    """
    for number, (place, line) in enumerate(numbered_lines(path, bad_rows)):
        columns = line.split("\t")
        if number == 0 and _HEADER.issuperset(column.strip().lower() for column in columns):
            continue
        if len(columns) not in (2, 3) or not columns[0].strip() or not columns[1].strip():
            bad_rows.add(NO_PAIR, place, line[:80])
            continue
        yield Pair(columns[1], columns[1], columns[0])


# Passages of a limited length, each with all of its queries.

PASSAGE_WORDS = 160
"""Most words of a training passage; of a longer one, each query is given the chunk that shares most words with it."""

MOST_QUERIES = 8
"""Most queries of a passage in one training row; further ones come in another row."""

_WORD = re.compile(r"\w{3,}")
_TSV = (".tsv", ".tsv.gz", ".tsv.zst", ".tsv.xz")
_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz")


@dataclass(frozen=True, slots=True)
class TrainingPassage:
    """A passage with its queries.

    Attributes:
        document: The id of the document.
        passage: The passage, of at most `PASSAGE_WORDS` words.
        queries: The queries that the passage answers.
    """

    document: str
    passage: str
    queries: tuple[str, ...]


def read_pairs(location: str, split: str, bad_rows: BadRows) -> Iterator[Pair]:
    """Yield the pairs of a collection, of an MS MARCO triples file, or of a JSONL file with `passage` and `query`.

    Args:
        location: The location of the pairs.
        split: The split of the judgements, for a collection.
        bad_rows: Counts what could not be used.

    Raises:
        InputError: If there is nothing at `location`, or it holds no pairs.
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


def training_passages(pairs: Iterable[Pair]) -> Iterator[TrainingPassage]:
    """Yield passages with all of their queries, from consecutive pairs of the same document.

    A long document is split into chunks, and each query goes to the chunk that shares most words with it.

    Args:
        pairs: The pairs, those of a document one after the other.
    """
    for document, group in groupby(pairs, key=lambda pair: pair.document):
        mine = list(group)
        chunks = _chunks(mine[0].passage)
        asked: dict[int, dict[str, None]] = {}
        for pair in mine:
            query = " ".join(pair.query.split())
            if query:
                asked.setdefault(_best(chunks, query), {})[query] = None
        for number, queries in sorted(asked.items()):
            yield TrainingPassage(document, chunks[number], tuple(queries))


def _chunks(text: str) -> list[str]:
    pieces = cut_into_chunks(text, PASSAGE_WORDS)
    return [text[piece.start : piece.end].strip() for piece in pieces] or [""]


def _best(chunks: list[str], query: str) -> int:
    if len(chunks) == 1:
        return 0
    words = set(_WORD.findall(query.lower()))
    shared = [len(words & set(_WORD.findall(chunk.lower()))) for chunk in chunks]
    return shared.index(max(shared))


def is_validation(document: str, share: float) -> bool:
    """Return whether a document, with all of its passages, is kept for validation, by a hash of its id.

    Args:
        document: The id of the document.
        share: The expected share of the documents for validation, from 0 to 1.
    """
    digest = hashlib.blake2b(document.encode("utf8", "surrogatepass"), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "little") < share * 2**64


def example_row(asked: TrainingPassage, prompt: QueryPrompt, *, whole: bool, seed: int) -> Iterator[dict[str, str]]:
    """Yield training rows of a passage, with its queries one after the other in random order.

    Several queries after one passage cost little more than one. Each is learned as an answer to the passage, and a
    generator that is asked for one query stops at the separator.

    Args:
        asked: The passage and its queries.
        prompt: The prompt.
        whole: Whether the passage is predicted too, for a model that is trained from scratch; else only the queries.
        seed: Seed of the order of the queries.

    Yields:
        Rows with "prompt" and "completion".
    """
    queries = list(asked.queries)
    random.Random(derive_seed(seed, "queries", asked.passage)).shuffle(queries)
    at_once = MOST_QUERIES if prompt.separator else 1
    for start in range(0, len(queries), at_once):
        before, answer = prompt.fill(asked.passage), prompt.joined(queries[start : start + at_once])
        yield {"prompt": "", "completion": before + answer} if whole else {"prompt": before, "completion": answer}


def check_pairs(rows: int, location: str) -> None:
    """Raise an error where there are too few pairs to train on.

    Args:
        rows: Number of passages with queries.
        location: The location of the pairs, for the message.

    Raises:
        InputError: If there are fewer than ten.
    """
    if rows < 10:
        raise InputError(
            f"{location} gives {counted(rows, 'passage')} with queries to train on; 10 are needed", "give more pairs"
        )
