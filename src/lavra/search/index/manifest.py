"""The manifest of an index: the one small file that says which files belong to it. Replacing it is the commit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile, InputError
from lavra.text.analyzers import Analyzer

# What an index holds and how it scores.

Fields = Literal["doc", "doc+queries", "queries", "doc+new-terms"]
"""Names of what is indexed: the text of a document, the text with its generated queries, the queries alone, or the text
with the terms of the queries that it lacks."""


@dataclass(frozen=True)
class IndexSettings:
    """The settings of an index. Documents and queries are analyzed in the same way.

    Attributes:
        analyzer: The analyzer, which turns text into terms.
        fields: What is indexed: "doc" is title and text; "doc+queries" adds the generated queries; "queries" is the
            queries alone; "doc+new-terms" adds only the terms of the queries that the document lacks.
        k1: BM25 term-frequency saturation: the higher, the more each further occurrence of a term counts. 0.9 with a b
            of 0.4 is usual for passages (Anserini).
        b: BM25 length normalisation, from 0 (document length does not matter) to 1 (full normalisation).
        query_weight: Weight of a term's occurrence in a generated query; one in the document itself has weight 1.
        keep_queries: Share of the generated queries that is indexed, those with the highest scores; 1 keeps all.
        drop_repeats: Whether generated queries that repeat another query of the document, or copy its text word by
            word, are left out.
        chunk_words: Most words of a chunk; documents are scored by their best chunk (MaxP), and 0 scores them whole.
        chunk_overlap: Most words that consecutive chunks share.

    Raises:
        InputError: If a value is out of its range.
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
            raise InputError(f"{self.fields!r} is not a choice of fields", f"use one of {', '.join(get_args(Fields))}")
        if self.k1 < 0 or not 0 <= self.b <= 1:
            raise InputError(f"BM25 with k1={self.k1} and b={self.b} is not defined", "use k1 >= 0 and b from 0 to 1")
        if self.query_weight <= 0 or not 0 < self.keep_queries <= 1:
            raise InputError(
                "the weight of queries must be above 0, and the share that is kept in (0, 1]", "correct it"
            )
        if self.chunk_words and not 0 <= self.chunk_overlap < self.chunk_words:
            raise InputError("the overlap of chunks must be less than their size", "choose a smaller overlap")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values, for the manifest."""
        plain = {name: value for name, value in vars(self).items() if name != "analyzer"}
        return {"analyzer": self.analyzer.to_json(), **plain}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> IndexSettings:
        """Return the settings from the plain values of `to_json`."""
        return cls(**{**settings, "analyzer": Analyzer.from_json(settings["analyzer"])})


# The manifest of an index: the one small file that says which files belong to it. Replacing it is the commit.

FORMAT = 3
"""Version of the format of an index on disk."""

NAME = "index.json"
"""Name of the manifest in the folder of an index."""

_KINDS = ("segment-", "postings-", "vocabulary-", "vectors-", "dense-")
"""What the names of the files and folders begin with that an index makes, each followed by a number."""

LATER = (NAME, "lock", *(f"{dot}{kind}*" for kind in _KINDS for dot in ("", ".")))
"""Patterns of all files that lavra writes into the folder of an index, by which a foreign file is recognised."""


@dataclass
class Manifest:
    """The contents of an index folder.

    Attributes:
        settings: The settings as plain values, see `IndexSettings`.
        analyzer: The fingerprint of the analyzer that counted the terms.
        segments: The folders of the segments, oldest first, also those of an unfinished update.
        vocabulary: The files whose lines together are the terms, in the order of their numbers.
        postings: The folder of the postings that are searched; an empty string before the first commit.
        searchable: Number of segments that the postings cover; further segments belong to an unfinished update.
        dense_settings: The settings of the vectors as plain values, see `DenseSettings`; None for an index without any.
        dense: The folder of the vectors that are searched; an empty string for none.
        vectors: Folders of vectors that are not searched yet and belong to an unfinished update.
        next_number: Number for the name of the next new file.
        format: Version of the format.
    """

    settings: dict[str, Any]
    analyzer: str
    segments: list[str] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    postings: str = ""
    searchable: int = 0
    dense_settings: dict[str, Any] | None = None
    dense: str = ""
    vectors: list[str] = field(default_factory=list)
    next_number: int = 1
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Args:
            folder: The folder of the index.

        Raises:
            InputError: If the folder is not an index, has another format, or its analyzer has changed since.
            CorruptFile: If the manifest cannot be parsed.
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
            raise CorruptFile(f"{folder / NAME} is damaged: {error}") from error
        if IndexSettings.from_json(manifest.settings).analyzer.fingerprint != manifest.analyzer:
            raise InputError(
                f"{folder} was made with another version of the analyzer (stop words or stemmer have changed)",
                "make the index again with --force",
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Replace the manifest atomically, which is the moment at which a change takes effect."""
        write_json(folder / NAME, asdict(self))

    def new_name(self, kind: str) -> str:
        """Return a name that no file of the index has ever had, such as `segment-000007`."""
        name = f"{kind}-{self.next_number:06d}"
        self.next_number += 1
        return name

    def unused(self, folder: Path) -> list[Path]:
        """Return the files of a killed process: those in the folder that belong to no committed state."""
        used = {NAME, "lock", self.postings, self.dense, *self.segments, *self.vocabulary, *self.vectors}
        kinds = (*_KINDS, *(f".{kind}" for kind in _KINDS), f".{NAME}.")
        return [path for path in folder.iterdir() if path.name not in used and path.name.startswith(kinds)]
