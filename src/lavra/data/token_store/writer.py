"""Writes a token store document by document."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lavra.core.disk.files import write_json
from lavra.core.errors import InputError
from lavra.data.token_store.files import FolderWriter, hash_file
from lavra.data.token_store.manifest import Manifest, Source
from lavra.data.token_store.store import DOCUMENT_BYTES, MANIFEST, OFFSETS, TEXTS, TOKENIZER, TOKENS, TokenStore
from lavra.data.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import xxhash


@dataclass(slots=True)
class _OpenSource:
    """The source to which documents are being added."""

    name: str
    digest: xxhash.xxh3_128
    counts: Counter[str] = field(default_factory=Counter)

    def closed(self) -> Source:
        names = ("documents", "tokens", "bytes", "characters", "words")
        return Source(self.name, **{name: self.counts[name] for name in names}, fingerprint=self.digest.hexdigest())


class StoreWriter(FolderWriter):
    """Writes a token store in a `with` block; the folder appears whole when the block ends without an error.

    Args:
        folder: The folder to make.
        tokenizer: Tokenizer that makes the ids; a copy goes into the store.
        keep_texts: Keep the original texts too, for measurements that need them; false by default.
        force: Replace an existing folder; false by default.
        begin: Id to put before every document, for encoders; by default none is put there.

    Attributes:
        documents: Number of documents added so far.
        tokens: Number of their tokens, with the end-of-document token and `begin`, where there is one, for each.
        text_bytes: Bytes of their original text.
        manifest: Manifest of the finished store, once the block has ended.

    Raises:
        InputError: if the folder exists, or no document was added.

    Examples:
        >>> with StoreWriter(Path("store"), tokenizer) as writer:  # doctest: +SKIP
        ...     for text in texts:
        ...         writer.add("poems", text, tokenizer.encode_many([text])[0])
        >>> store = writer.opened()  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        keep_texts: bool = False,
        force: bool = False,
        begin: int | None = None,
    ) -> None:
        super().__init__(folder, force=force)
        self.tokenizer = tokenizer
        self.dtype = np.dtype("<u2" if tokenizer.vocabulary_size <= 1 << 16 else "<u4")
        self.documents = self.tokens = self.text_bytes = 0
        self._keep_texts = keep_texts
        self.begin = begin
        self._begin = np.array([] if begin is None else [begin], self.dtype)
        self._end = np.array([tokenizer.end_of_document], self.dtype)
        self._sources: list[Source] = []
        self._names: Counter[str] = Counter()
        self._open: _OpenSource | None = None
        self._read_name = ""

    def _open_files(self) -> dict[str, IO[Any]]:
        files: dict[str, IO[Any]] = {
            name: self._stack.enter_context((self._building / name).open("wb"))
            for name in (TOKENS, OFFSETS, DOCUMENT_BYTES)
        }
        if self._keep_texts:
            import zstandard

            files[TEXTS] = self._stack.enter_context(zstandard.open(self._building / TEXTS, "wb"))
        files[OFFSETS].write(np.zeros(1, "<u8").tobytes())
        return files

    def add(self, source: str, text: str, ids: np.ndarray) -> None:
        """Add one document.

        Args:
            source: Name under which the document is counted; consecutive documents of one name are one source.
            text: The original text.
            ids: (tokens,) ids of the text, without an end-of-document token.

        Raises:
            ValueError: if the end-of-document token is among the ids, because documents could not be told apart.
        """
        if (ids == self.tokenizer.end_of_document).any():
            raise ValueError("the end-of-document token lies within a document")
        encoded = text.encode()
        self._files[TOKENS].write(self._begin.tobytes())
        self._files[TOKENS].write(ids.astype(self.dtype).tobytes())
        self._files[TOKENS].write(self._end.tobytes())
        added_tokens = len(self._begin) + len(ids) + 1
        self.tokens += added_tokens
        self.documents += 1
        self.text_bytes += len(encoded)
        self._files[OFFSETS].write(np.array([self.tokens], "<u8").tobytes())
        self._files[DOCUMENT_BYTES].write(np.array([len(encoded)], "<u4").tobytes())
        if self._keep_texts:
            self._files[TEXTS].write(json.dumps(text).encode() + b"\n")
        added = self._source(source)
        added.digest.update(len(encoded).to_bytes(8, "little") + encoded)
        added.counts["documents"] += 1
        added.counts["tokens"] += added_tokens
        added.counts["bytes"] += len(encoded)
        added.counts["characters"] += len(text)
        added.counts["words"] += len(text.split())

    def _source(self, name: str) -> _OpenSource:
        if self._open is not None and self._read_name == name:
            return self._open
        import xxhash

        if self._open is not None:
            self._sources.append(self._open.closed())
        self._names[name] += 1
        again = self._names[name]
        self._read_name = name
        self._open = _OpenSource(name if again == 1 else f"{name} ({again})", xxhash.xxh3_128())
        return self._open

    def _finish(self) -> None:
        if self._open is None:
            raise InputError(f"no document for {self.folder}", "give data that holds text")
        self._sources.append(self._open.closed())
        for file in self._files.values():
            file.close()
        self.tokenizer.save(self._building / TOKENIZER)
        totals = {
            name: sum(getattr(source, name) for source in self._sources) for name in ("bytes", "characters", "words")
        }
        self.manifest = Manifest(
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            vocabulary_size=self.tokenizer.vocabulary_size,
            end_of_document=self.tokenizer.end_of_document,
            document_bos=self.tokenizer.document_bos,
            dtype=self.dtype.name,
            documents=self.documents,
            tokens=self.tokens,
            **totals,
            sources=tuple(self._sources),
            hashes={name: hash_file(self._building / name) for name in self._files},
            texts=self._keep_texts,
            begin_of_document=self.begin,
        )
        write_json(self._building / MANIFEST, self.manifest.to_json())

    def opened(self) -> TokenStore:
        """Return the finished store, opened for reading, once the block has ended."""
        return TokenStore.open(self.folder)
