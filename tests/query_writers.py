"""A stand-in for a generator: its queries are a function of passage, count and seed, and it notes what it was given."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.byte_level import ByteTokenizer


class NotingWriter:
    """Writes queries that name the first word of the passage.

    Args:
        room: tokens (bytes) that it reads.
        log: gets a line for each passage that is written for, at once.
        killed_after: Number of passages after which the process kills itself; None for never.
        name: stands for its weights.
    """

    def __init__(
        self, room: int = 60, log: Path | None = None, killed_after: int | None = None, name: str = "noting"
    ) -> None:
        self.room, self.fingerprint = room, name
        self.tokenizer: Any = ByteTokenizer()
        self.passages: list[str] = []
        self._log, self._killed_after = log, killed_after

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """Return `count` queries for each passage."""
        made = []
        for passage in passages:
            assert len(self.tokenizer.encode(passage)) <= self.room
            self.passages.append(passage)
            if self._log is not None:
                with self._log.open("a", encoding="utf8") as handle:
                    handle.write(hashlib.md5(passage.encode()).hexdigest() + "\n")
            if len(self.passages) == self._killed_after:
                os.kill(os.getpid(), signal.SIGKILL)
            made.append([f"{passage.split()[0]} {seed} {number}" for number in range(count)])
        return made


class LengthScorer:
    """Scores a query by how much longer the chunk is."""

    fingerprint = "length"

    def __init__(self) -> None:
        self.chunks: list[str] = []

    def score(self, chunks: Sequence[str], queries: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the score of each query of each chunk."""
        self.chunks += chunks
        return [[float(len(chunk) - len(query)) for query in some] for chunk, some in zip(chunks, queries, strict=True)]
