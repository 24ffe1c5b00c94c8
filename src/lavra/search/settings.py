"""What an index holds and how it scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lavra.core.errors import InputError
from lavra.search.analyzers import Analyzer

Fields = Literal["doc", "doc+queries", "queries", "doc+new-terms"]
"""What is indexed: a document's own text, with its generated queries, these alone, or with their new terms only."""


@dataclass(frozen=True)
class IndexSettings:
    """Settings of an index. Documents and queries are analyzed alike.

    Attributes:
        analyzer: from text to terms.
        fields: "doc" is title and text; "doc+queries" adds the generated queries; "queries" is these alone;
            "doc+new-terms" adds only the terms of the queries that the document does not have.
        k1: how slowly repeats of a term stop counting; 0.9 and b=0.4 are the usual values for passages (Anserini).
        b: how much long documents are held back, 0 to 1.
        query_weight: a term in a generated query counts as this many in the document.
        keep_queries: share of the generated queries that is indexed, the best by their score; 1 keeps all.
        drop_repeats: leave out generated queries that repeat another of the document, or copy its text word by word.
        chunk_words: documents are scored by their best piece of at most this many words (MaxP); 0 scores them whole.
        chunk_overlap: words that consecutive pieces share at most.
    """

    analyzer: Analyzer
    fields: Fields = "doc+queries"
    k1: float = 0.9
    b: float = 0.4
    query_weight: float = 1.0
    keep_queries: float = 1.0
    drop_repeats: bool = False
    chunk_words: int = 0
    chunk_overlap: int = 0

    def __post_init__(self) -> None:
        if self.fields not in get_args(Fields):
            raise InputError(f"{self.fields!r} is no choice of fields", f"use one of {', '.join(get_args(Fields))}")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise InputError(f"BM25 with k1={self.k1} and b={self.b} is not defined", "use k1 >= 0 and b from 0 to 1")
        if self.query_weight <= 0 or not 0 < self.keep_queries <= 1:
            raise InputError(
                "the weight of queries must be above 0, and the share that is kept in (0, 1]", "correct it"
            )
        if self.chunk_words and not 0 <= self.chunk_overlap < self.chunk_words:
            raise InputError("the overlap of chunks must be less than their size", "choose a smaller overlap")

    def to_json(self) -> dict[str, Any]:
        """Return the settings for the manifest."""
        plain = {name: value for name, value in vars(self).items() if name != "analyzer"}
        return {"analyzer": self.analyzer.to_json(), **plain}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> IndexSettings:
        """Make the settings that `to_json` described."""
        return cls(**{**settings, "analyzer": Analyzer.from_json(settings["analyzer"])})
