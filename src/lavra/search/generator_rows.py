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
from lavra.data.bad_rows import BadRows
from lavra.search.chunking import cut_into_chunks
from lavra.search.formats import open_collection
from lavra.search.lines import json_objects, optional_field
from lavra.search.pairs import NO_PAIR, Pair, read_triples, training_pairs
from lavra.search.prompts import QueryPrompt

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
        raise InputError(f"{location} gives {rows} passages with queries to train on", "give more pairs")
