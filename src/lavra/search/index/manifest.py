"""The manifest of an index: the one small file that says which files belong to it. Replacing it is the commit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import Damaged, InputError
from lavra.text.analyzers import Analyzer

# What an index holds and how it scores.

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


# The manifest of an index: the one small file that says which files belong to it. Replacing it is the commit.

FORMAT = 2
NAME = "index.json"

LATER = (NAME, "lock", "segment-*", "postings-*", "vocabulary-*", ".segment-*", ".postings-*", ".vocabulary-*")
"""All that is ever written into the folder of an index, as patterns for its mark."""


@dataclass
class Manifest:
    """What an index folder holds.

    Attributes:
        settings: as JSON, see `IndexSettings`.
        analyzer: fingerprint of the analyzer that counted the terms.
        segments: folders of the segments, oldest first; also those of an update that did not finish.
        vocabulary: files whose lines together are the terms, in the order of their numbers.
        postings: folder of the postings that are searched; empty before the first commit.
        searchable: number of segments that the postings cover; the others belong to an update that did not finish.
        next_number: for the names of new files.
    """

    settings: dict[str, Any]
    analyzer: str
    segments: list[str] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    postings: str = ""
    searchable: int = 0
    next_number: int = 1
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Raises:
            InputError: if `folder` is no index, was written by a newer lavra, or its analysis has changed since.
            Damaged: if the manifest does not parse.
        """
        if not (folder / NAME).is_file():
            raise InputError(f"{folder} is no search index", "make one with `lavra index`")
        fields = read_json(folder / NAME)
        if fields.get("format") != FORMAT:
            raise InputError(
                f"{folder} has the index format {fields.get('format')}, this lavra reads {FORMAT}",
                "make the index again, or install the lavra that wrote it",
            )
        try:
            manifest = cls(**fields)
        except TypeError as error:
            raise Damaged(f"{folder / NAME} is damaged: {error}") from error
        if IndexSettings.from_json(manifest.settings).analyzer.fingerprint != manifest.analyzer:
            raise InputError(
                f"{folder} was made with another version of the analyzer (stop words or stemmer have changed)",
                "make the index again with --force",
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Replace the manifest in one step; this is the moment at which a change takes effect."""
        write_json(folder / NAME, asdict(self))

    def new_name(self, kind: str) -> str:
        """Return a name that no file of the index has had."""
        name = f"{kind}-{self.next_number:06d}"
        self.next_number += 1
        return name

    def unused(self, folder: Path) -> list[Path]:
        """Return what lies in the folder but belongs to no committed state: leftovers of a killed process."""
        used = {NAME, "lock", self.postings, *self.segments, *self.vocabulary}
        kinds = ("segment-", "postings-", "vocabulary-", ".segment-", ".postings-", ".vocabulary-", f".{NAME}.")
        return [path for path in folder.iterdir() if path.name not in used and path.name.startswith(kinds)]
