"""The manifest of a token store: what it holds, from which sources, and made by which tokenizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json
from lavra.core.errors import CorruptFile

FORMAT_VERSION = 2
"""Version of the folder's layout; stores of other versions are refused."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source of a token store: consecutive documents of one corpus or file.

    Attributes:
        name: Name that the reader gave; a source that comes again later has a number added.
        documents: Number of documents.
        tokens: Number of tokens, with an end-of-document token for each document.
        bytes: Bytes of the original text as UTF-8.
        characters: Unicode code points of the text.
        words: Number of words, separated by white space.
        fingerprint: Hash of the texts, in order.
    """

    name: str
    documents: int
    tokens: int
    bytes: int
    characters: int
    words: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a token store, kept in its `manifest.json`.

    Attributes:
        tokenizer_fingerprint: Fingerprint of the tokenizer that made the ids.
        vocabulary_size: Size of that tokenizer's vocabulary.
        end_of_document: Id after every document.
        document_bos: Id that a causal model reads before a document's first token. It is not among the tokens, except
            where it is the end-of-document token, which ends the document before.
        dtype: Type of an id on disk: "uint16" or "uint32".
        documents: Number of documents.
        tokens: Number of tokens.
        bytes: Bytes of the original text as UTF-8.
        characters: Unicode code points of the text.
        words: Number of words, separated by white space.
        sources: The sources in the order of the documents.
        hashes: The xxh3-128 hash of each file.
        texts: Whether the original texts are kept too.
        begin_of_document: Id that is stored before every document, for encoders; None where none is.
        format_version: Version of the folder's layout.
    """

    tokenizer_fingerprint: str
    vocabulary_size: int
    end_of_document: int
    document_bos: int
    dtype: str
    documents: int
    tokens: int
    bytes: int
    characters: int
    words: int
    sources: tuple[Source, ...]
    hashes: dict[str, str] = field(default_factory=dict)
    texts: bool = False
    begin_of_document: int | None = None
    format_version: int = FORMAT_VERSION

    @property
    def bytes_per_token(self) -> float:
        """Bytes of original text per token, with end-of-document tokens counted."""
        return self.bytes / self.tokens

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest in a file.

        Raises:
            CorruptFile: if the file is missing, no manifest, or of another format version.
        """
        values = read_json(path)
        remedy = "prepare the data again"
        if not isinstance(values, dict) or "format_version" not in values:
            raise CorruptFile(f"{path} is no manifest of a token store", remedy)
        if values["format_version"] != FORMAT_VERSION:
            found = values["format_version"]
            raise CorruptFile(f"{path} has format version {found}, and this lavra reads {FORMAT_VERSION}", remedy)
        try:
            return cls(**{**values, "sources": tuple(Source(**source) for source in values["sources"])})
        except (TypeError, KeyError) as error:
            raise CorruptFile(f"{path} is damaged: {error}", remedy) from error
