"""The token store: a corpus as one flat array of token ids on disk, read by memory map.

The store is a folder with these files, whose numbers are little-endian:

- `tokens.bin`: uint16 or uint32 ids, with an end-of-document token after each document, and a beginning-of-document
  token before each where the manifest names one,
- `offsets.bin`: the uint64 index of each document's first token, and the number of tokens,
- `document_bytes.bin`: the uint32 number of bytes of each original text,
- `tokenizer/`: a copy of the tokenizer,
- `texts.jsonl.zst`: the original texts, for validation data only,
- `manifest.json`: the description of the store, with a hash of each file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from lavra.core.errors import CorruptFile
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
    """A token store opened for reading by memory map; nothing is loaded before it is used.

    Args:
        folder: Path of the store; `open` also reads its manifest.
        manifest: Description of the store.

    Attributes:
        folder: Path of the store.
        manifest: Description of the store.
        tokens: (tokens,) uint16 or uint32 ids of all documents, flat.
        offsets: (documents + 1,) uint64; document d is `tokens[offsets[d]:offsets[d + 1]]`, its end token included.
        document_bytes: (documents,) uint32 number of bytes of each document's original UTF-8 text.

    Examples:
        >>> store = TokenStore.open("prepared/train")  # doctest: +SKIP
        >>> store.tokenizer.decode(store.document(0))  # doctest: +SKIP
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokens = map_array(folder / TOKENS, manifest.dtype, manifest.tokens, _REMEDY)
        self.offsets = map_array(folder / OFFSETS, "uint64", manifest.documents + 1, _REMEDY)
        self.document_bytes = map_array(folder / DOCUMENT_BYTES, "uint32", manifest.documents, _REMEDY)

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """Return the token store in `folder`, after checking that every file has its size.

        Raises:
            CorruptFile: if a file is missing or cut short; the message names it. The contents are checked by `verify`.
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
        """Return the number of the document to which each position of the token stream belongs.

        Args:
            positions: (n,) positions in the token stream.

        Returns:
            (n,) int64 numbers of documents.
        """
        return np.searchsorted(self.offsets, np.asarray(positions, np.uint64), side="right").astype(np.int64) - 1

    @cached_property
    def source_bounds(self) -> np.ndarray:
        """The (sources + 1,) int64 position of the first token of each source, and the number of tokens."""
        return np.concatenate([[0], np.cumsum([source.tokens for source in self.manifest.sources])]).astype(np.int64)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids.

        Raises:
            CorruptFile: if the copy in the store is another tokenizer.
        """
        tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise CorruptFile(f"{self.folder / TOKENIZER} is not the tokenizer that the store was made with", _REMEDY)
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
            CorruptFile: if a file is not what was written; the message names the first such file.
        """
        verify_files(self.folder, self.manifest.hashes, _REMEDY)
