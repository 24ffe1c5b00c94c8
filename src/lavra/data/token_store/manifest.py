"""What a token store says about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json
from lavra.core.errors import Damaged

FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Source:
    """One source of a token store: consecutive documents of one corpus or file.

    Attributes:
        name: as the reader gave it; a source met again later has a number added.
        documents: how many.
        tokens: with an end-of-document token for each document.
        bytes: of the original UTF-8 text.
        characters: Unicode code points of the text.
        words: what white space separates.
        fingerprint: a hash of the texts, in order.
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
        tokenizer_fingerprint: of the tokenizer that made the ids.
        vocabulary_size: of that tokenizer.
        end_of_document: the id after every document.
        document_bos: the id that a causal model reads before a document's first token; it is not among the tokens,
            except where it is the end-of-document token, which ends the document before.
        begin_of_document: the id that is stored before every document, for encoders; None for none.
        dtype: of an id on disk: "uint16" or "uint32".
        documents, tokens, bytes, characters, words: sums over the sources.
        sources: in the order of the documents.
        hashes: xxh3-128 of each file.
        texts: whether the original texts are kept too.
        format_version: of the folder's layout.
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
        """Bytes of original text per token, end-of-document tokens included."""
        return self.bytes / self.tokens

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            Damaged: if the file is missing, no manifest, or written by a later version.
        """
        values = read_json(path)
        remedy = "prepare the data again"
        if not isinstance(values, dict) or "format_version" not in values:
            raise Damaged(f"{path} is no manifest of a token store", remedy)
        if values["format_version"] != FORMAT_VERSION:
            found = values["format_version"]
            raise Damaged(f"{path} has format version {found}, and this lavra reads {FORMAT_VERSION}", remedy)
        try:
            return cls(**{**values, "sources": tuple(Source(**source) for source in values["sources"])})
        except (TypeError, KeyError) as error:
            raise Damaged(f"{path} is damaged: {error}", remedy) from error
