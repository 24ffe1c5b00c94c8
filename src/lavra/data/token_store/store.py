"""The token store: a corpus as one flat array of token ids on disk, read by memory map.

A folder with `tokens.bin` (uint16 or uint32; an end-of-document token after each document, and a beginning token before
each where the manifest names one), `offsets.bin` (uint64, one more than there are documents), `document_bytes.bin`
(uint32, the bytes of each original text), `tokenizer/`, `manifest.json`, and for held-out text `texts.jsonl.zst`. All
numbers are little-endian.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from lavra.core.errors import Damaged
from lavra.data.token_store.files import map_array, verify_files
from lavra.data.token_store.manifest import Manifest
from lavra.data.tokenizers.tokenizer import Tokenizer

MANIFEST = "manifest.json"
TOKENS = "tokens.bin"
OFFSETS = "offsets.bin"
DOCUMENT_BYTES = "document_bytes.bin"
TEXTS = "texts.jsonl.zst"
TOKENIZER = "tokenizer"

_REMEDY = "the store is made anew by `lavra prepare`, or copy it again from where it is whole"


class TokenStore:
    """A token store opened for reading; nothing is loaded before it is used.

    Attributes:
        folder: where it is.
        manifest: what it holds.
        tokens: (tokens,) uint16 or uint32 ids of all documents, flat.
        offsets: (documents + 1,) uint64; document d is `tokens[offsets[d]:offsets[d + 1]]`, its end token included.
        document_bytes: (documents,) uint32 bytes of each document's original UTF-8 text.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokens = map_array(folder / TOKENS, manifest.dtype, manifest.tokens, _REMEDY)
        self.offsets = map_array(folder / OFFSETS, "uint64", manifest.documents + 1, _REMEDY)
        self.document_bytes = map_array(folder / DOCUMENT_BYTES, "uint32", manifest.documents, _REMEDY)

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """Open the token store in `folder`, after checking that every file has its size.

        Raises:
            Damaged: naming the file that is missing or cut short; contents are checked by `verify`.
        """
        folder = Path(folder)
        return cls(folder, Manifest.read(folder / MANIFEST))

    def __len__(self) -> int:
        """The number of documents."""
        return self.manifest.documents

    def document(self, number: int) -> np.ndarray:
        """Return the ids of one document, its end-of-document token included."""
        return self.tokens[int(self.offsets[number]) : int(self.offsets[number + 1])]

    def documents_at(self, positions: np.ndarray) -> np.ndarray:
        """Return the int64 number of the document that each position of the token stream belongs to."""
        return np.searchsorted(self.offsets, np.asarray(positions, np.uint64), side="right").astype(np.int64) - 1

    @cached_property
    def source_bounds(self) -> np.ndarray:
        """(sources + 1,) int64 position of the first token of each source, and the end of the last."""
        return np.concatenate([[0], np.cumsum([source.tokens for source in self.manifest.sources])]).astype(np.int64)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids.

        Raises:
            Damaged: if the copy in the store is another one.
        """
        tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise Damaged(f"{self.folder / TOKENIZER} is not the tokenizer that the store was made with", _REMEDY)
        return tokenizer

    def texts(self) -> Iterator[str]:
        """Yield the text of every document: the original where it is kept, else decoded from the tokens."""
        if not self.manifest.texts:
            for number in range(len(self)):
                yield self.tokenizer.decode(self.document(number)[:-1])
            return
        from lavra.data.readers.compressed import open_binary

        with open_binary(self.folder / TEXTS) as lines:
            for line in lines:
                yield json.loads(line)

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest's.

        Raises:
            Damaged: naming the first file that is not what was written.
        """
        verify_files(self.folder, self.manifest.hashes, _REMEDY)
