"""Expanding documents: every chunk is read, no query is generated twice, and memory does not grow with the corpus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from lavra.core.errors import InputError
from lavra.search.corpora.documents import Document
from lavra.search.expansion.cache import ExpansionCache, key_of_content
from lavra.search.expansion.query_generator import QueryGenerator
from lavra.search.expansion.scorers import QueryScorer
from lavra.text.chunking import Chunk, cut_into_chunks

_WINDOW = 1024
"""Documents whose chunks are sorted by length together, so that batches need little padding."""

_GROUP = 64
"""Chunks of a batch. What some engines sample depends on the chunks of the batch, so batches depend on the documents
alone, never on the clock or on what an interrupted run has left in the cache."""


@dataclass(frozen=True, slots=True)
class ExpandedDocument:
    """The generated queries of a document.

    Attributes:
        id: The id of the document.
        queries: The queries of the chunks, in the order of the chunks; empty ones are left out.
        scores: The score of each query; empty when they were not scored.
        chunks: Number of chunks that were read.
        tokens: Tokens of the document, by the generator's tokenizer.
        characters: Characters of the document.
        read: Characters of the document that lie in a chunk.
    """

    id: str
    queries: tuple[str, ...]
    scores: tuple[float, ...]
    chunks: int
    tokens: int
    characters: int
    read: int

    def to_json(self) -> dict[str, object]:
        """Return the row of an expansions file."""
        row: dict[str, object] = {"id": self.id, "predicted_queries": list(self.queries)}
        return row | {"scores": list(self.scores)} if self.scores else row


@dataclass
class Work:
    """The work that was done, as opposed to what was found in the cache.

    Attributes:
        written: Number of chunks for which queries were generated.
        found: Number of chunks whose queries were in the cache, or that occur twice.
        scored: Number of chunks whose queries were scored.
        seconds: Seconds of generating and scoring.
    """

    written: int = 0
    found: int = 0
    scored: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Piece:
    """A chunk that is being expanded: its place and text, the key of its queries, its queries and their scores."""

    chunk: Chunk
    text: str
    key: bytes
    queries: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class Expander:
    """Generates queries for documents.

    Args:
        writer: The query generator.
        cache: The cache of generated queries, which is asked before anything is generated.
        scorer: Scores every query against its chunk; None for no scores.
        count: Number of queries for each chunk.
        seed: Seed of the sampling.
        chunk_tokens: Most tokens of a chunk; 0 for as many as the generator can read.
        overlap: Most tokens that consecutive chunks share.
        stop: Is called between batches and returns whether to stop; what was generated until then is in the cache.

    Attributes:
        work: The work that was done so far.

    Raises:
        InputError: If `count` is below 1, or chunks are longer than the generator can read.
    """

    def __init__(
        self,
        writer: QueryGenerator,
        cache: ExpansionCache,
        scorer: QueryScorer | None = None,
        *,
        count: int = 10,
        seed: int = 0,
        chunk_tokens: int = 0,
        overlap: int = 0,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if count < 1:
            raise InputError(f"--queries is {count}; it must be at least 1", "ask for one or more queries")
        if chunk_tokens > writer.room:
            raise InputError(
                f"chunks of {chunk_tokens} tokens are more than the model can read, which is {writer.room}",
                f"say --chunk-tokens {writer.room} or less, or leave it out",
            )
        self.writer, self.cache, self.scorer = writer, cache, scorer
        self.count, self.seed, self.overlap = count, seed, overlap
        self.chunk_tokens = chunk_tokens or writer.room
        self.work = Work()
        self._stop = stop
        self.restart(lambda _: None)

    def restart(self, on_progress: Callable[[float], None]) -> None:
        """Start a pass over documents.

        Args:
            on_progress: Is called after each batch of chunks with the number of documents that are done.
        """
        self._on_progress, self._done = on_progress, 0

    def expand(self, documents: Iterable[Document]) -> Iterator[ExpandedDocument]:
        """Yield every document with its queries, in order; ends early when it is asked to stop.

        Args:
            documents: The documents, which are read a thousand at a time.
        """
        waiting = iter(documents)
        while window := list(islice(waiting, _WINDOW)):
            cut = [self._pieces(document.contents) for document in window]
            if not self._make([piece for pieces, _ in cut for piece in pieces], len(window)):
                return
            for document, (pieces, tokens) in zip(window, cut, strict=True):
                yield _assembled(document, pieces, tokens)
            self._done += len(window)
            self._on_progress(self._done)

    def passages(self, text: str) -> list[str]:
        """Return the chunks of a text that the generator reads whole, which is the text itself where it is short.

        Args:
            text: The text of a document.
        """
        return [piece.text for piece in self._pieces(text)[0]]

    def _pieces(self, text: str) -> tuple[list[_Piece], int]:
        """Split a text into chunks that the generator can read whole; return them and the tokens of the text."""
        tokens = self._tokens(text)
        chunks = self._cut(text) if tokens > self.chunk_tokens else [Chunk(0, len(text))]
        made = ((chunk, text[chunk.start : chunk.end].strip()) for chunk in chunks)
        named = ("queries", self.writer.fingerprint, self.count, self.seed)
        return [_Piece(chunk, piece, key_of_content(*named, piece)) for chunk, piece in made if piece], tokens

    def _cut(self, text: str) -> list[Chunk]:
        """Split a text into chunks of at most `chunk_tokens` tokens.

        Tokens are counted sentence by sentence, and a whole chunk may have more of them than its sentences apart. All
        chunks are then made shorter, by a tenth at a time, until every one fits.
        """
        limit = self.chunk_tokens
        while True:
            chunks = cut_into_chunks(text, limit, overlap=min(self.overlap, limit - 1), count=self._tokens)
            if limit == 1 or max(self._tokens(text[one.start : one.end]) for one in chunks) <= self.chunk_tokens:
                return chunks
            limit = max(1, limit * 9 // 10)

    def _tokens(self, text: str) -> int:
        return len(self.writer.tokenizer.encode(text))

    def _make(self, pieces: list[_Piece], documents: int) -> bool:
        """Find or generate the queries of the chunks of some documents, and score them; False when asked to stop."""
        found = self.cache.get(list({piece.key for piece in pieces}))
        missing = {piece.key: piece for piece in pieces if piece.key not in found}
        self.work.found += len(pieces) - len(missing)
        order = sorted({piece.key: piece for piece in pieces}.values(), key=lambda piece: len(piece.text))
        done = 0
        for whole in _groups(order):
            group = [piece for piece in whole if piece.key in missing]
            if not group:
                continue
            if self._stop():
                return False
            started = time.perf_counter()
            written = self.writer.write([piece.text for piece in group], self.count, self.seed)
            values = {piece.key: queries for piece, queries in zip(group, written, strict=True)}
            self.cache.put(values)
            found |= values
            self.work.seconds += time.perf_counter() - started
            self.work.written += len(group)
            done += len(group)
            self._on_progress(self._done + documents * done / len(missing))
        for piece in pieces:
            piece.queries = found[piece.key]
        return self._score(pieces)

    def _score(self, pieces: list[_Piece]) -> bool:
        if self.scorer is None:
            return True
        fingerprint = self.scorer.fingerprint
        keys = {piece.key: key_of_content("scores", fingerprint, piece.key.hex()) for piece in pieces}
        found = self.cache.get(list(keys.values()))
        order = sorted({piece.key: piece for piece in pieces}.values(), key=lambda piece: len(piece.text))
        for whole in _groups(order):
            group = [piece for piece in whole if keys[piece.key] not in found]
            if not group:
                continue
            if self._stop():
                return False
            started = time.perf_counter()
            scores = self.scorer.score([piece.text for piece in group], [piece.queries for piece in group])
            values = {keys[piece.key]: some for piece, some in zip(group, scores, strict=True)}
            self.cache.put(values)
            found |= values
            self.work.seconds += time.perf_counter() - started
            self.work.scored += len(group)
        for piece in pieces:
            piece.scores = found[keys[piece.key]]
        return True


def _groups(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    for start in range(0, len(pieces), _GROUP):
        yield pieces[start : start + _GROUP]


def _assembled(document: Document, pieces: list[_Piece], tokens: int) -> ExpandedDocument:
    scored = bool(pieces) and all(len(piece.scores) == len(piece.queries) for piece in pieces)
    places = [(piece, number) for piece in pieces for number, query in enumerate(piece.queries) if query]
    return ExpandedDocument(
        document.id,
        tuple(piece.queries[number] for piece, number in places),
        tuple(piece.scores[number] for piece, number in places) if scored else (),
        len(pieces),
        tokens,
        len(document.contents),
        _read(pieces, document.contents),
    )


def _read(pieces: Sequence[_Piece], text: str) -> int:
    """Count the characters of a text that lie in a chunk; white space between chunks counts as read."""
    read = end = 0
    for chunk in (piece.chunk for piece in pieces):
        between = 0 if text[end : chunk.start].strip() else max(0, chunk.start - end)
        read += between + chunk.end - max(end, chunk.start)
        end = max(end, chunk.end)
    return read + (0 if text[end:].strip() else len(text) - end)
