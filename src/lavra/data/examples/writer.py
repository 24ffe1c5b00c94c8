"""Writes an example store example by example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from lavra.core.disk.files import write_json
from lavra.core.errors import InputError
from lavra.data.examples.store import (
    LABEL_OFFSETS,
    LABELS,
    LEARNED,
    MANIFEST,
    OFFSETS,
    SOURCE_OFFSETS,
    SOURCE_TOKENS,
    TOKENS,
    ExampleGroup,
    ExampleManifest,
    ExampleStore,
    Kind,
)
from lavra.data.token_store.files import FolderWriter, hash_file
from lavra.data.tokenizers.tokenizer import Tokenizer


class ExampleWriter(FolderWriter):
    """Writes an example store in a `with` block; the folder appears whole when the block ends without an error.

    Args:
        folder: The folder to make.
        tokenizer: Tokenizer that makes the ids.
        kind: Kind of the model that the examples are for.
        force: Replace an existing folder; false by default.

    Attributes:
        examples: Number of examples added so far.
        tokens: Number of their tokens on the decoder's side.
        learned: Number of their tokens that are learned.
        manifest: Manifest of the finished store, once the block has ended.

    Raises:
        InputError: if the folder exists, or no example was added.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, kind: Kind, *, force: bool = False) -> None:
        super().__init__(folder, force=force)
        self.tokenizer = tokenizer
        self.kind: Kind = kind
        self.dtype = np.dtype("<u2" if tokenizer.vocabulary_size <= 1 << 16 else "<u4")
        self.examples = self.tokens = self.learned = self.source_tokens = self.learned_bytes = self.label_bytes = 0
        self._bits: list[np.ndarray] = []
        self._groups: list[ExampleGroup] = []
        self._open: tuple[str, Any, int, int, int] | None = None

    def _open_files(self) -> dict[str, IO[Any]]:
        files: dict[str, IO[Any]] = {
            name: self._stack.enter_context((self._building / name).open("wb"))
            for name in (TOKENS, LEARNED, OFFSETS, SOURCE_TOKENS, SOURCE_OFFSETS, LABELS, LABEL_OFFSETS)
        }
        for name in (OFFSETS, SOURCE_OFFSETS, LABEL_OFFSETS):
            files[name].write(np.zeros(1, "<u8").tobytes())
        return files

    def add(
        self,
        group: str,
        texts: Sequence[str],
        tokens: np.ndarray,
        learned: np.ndarray,
        source: np.ndarray | None = None,
        learned_bytes: int = 0,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one example.

        Args:
            group: Name under which the example is counted; consecutive examples of one name are one group.
            texts: The original texts, for the group's fingerprint.
            tokens: (n,) ids, as in `Example`.
            learned: (n,) bool; whether each token is learned.
            source: (m,) ids that the encoder reads; None for a decoder.
            learned_bytes: Bytes of the text that is learned, as UTF-8; of a labelled row those of its text.
            labels: The further columns of a labelled row, as plain values; None for other examples.

        Raises:
            ValueError: if nothing is learned, or `source` or `labels` is missing or given against the kind of model.
        """
        if self.kind == "labelled":
            targets = np.ones(1, bool)  # a labelled row is one target
        else:
            targets = learned if self.kind == "encoder-decoder" else learned[1:]
        if len(learned) != len(tokens) or not targets.any():
            raise ValueError("an example needs a token to learn, after the first one, and one bit for each token")
        if (labels is not None) != (self.kind == "labelled"):
            raise ValueError(f"an example for a {self.kind} model {'needs' if labels is None else 'has no'} labels")
        if (source is not None) != (self.kind == "encoder-decoder"):
            raise ValueError(f"an example for a {self.kind} {'needs a' if source is None else 'has no'} source")
        source = np.empty(0, np.int64) if source is None else source
        self._files[TOKENS].write(tokens.astype(self.dtype).tobytes())
        self._files[SOURCE_TOKENS].write(source.astype(self.dtype).tobytes())
        encoded = b"" if labels is None else json.dumps(dict(labels), ensure_ascii=False).encode()
        self._files[LABELS].write(encoded)
        self.label_bytes += len(encoded)
        self._files[LABEL_OFFSETS].write(np.array([self.label_bytes], "<u8").tobytes())
        self._write_bits(learned)
        self.examples += 1
        self.tokens += len(tokens)
        self.source_tokens += len(source)
        self.learned += int(targets.sum())
        self.learned_bytes += learned_bytes
        self._files[OFFSETS].write(np.array([self.tokens], "<u8").tobytes())
        self._files[SOURCE_OFFSETS].write(np.array([self.source_tokens], "<u8").tobytes())
        self._account(group, texts, len(tokens), int(targets.sum()))

    def _write_bits(self, learned: np.ndarray) -> None:
        """Write the bits so far in whole bytes, and keep the rest for the next call."""
        bits = np.concatenate([*self._bits, learned])
        whole = len(bits) // 8 * 8
        self._files[LEARNED].write(np.packbits(bits[:whole], bitorder="little").tobytes())
        self._bits = [bits[whole:]]

    def _account(self, name: str, texts: Sequence[str], tokens: int, learned: int) -> None:
        if self._open is None or self._open[0] != name:
            import xxhash

            self._close_group()
            self._open = name, xxhash.xxh3_128(), 0, 0, 0
        _, digest, examples, all_tokens, all_learned = self._open
        for text in texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        self._open = name, digest, examples + 1, all_tokens + tokens, all_learned + learned

    def _close_group(self) -> None:
        if self._open is not None:
            name, digest, examples, tokens, learned = self._open
            self._groups.append(ExampleGroup(name, examples, tokens, learned, digest.hexdigest()))

    def _finish(self) -> None:
        if not self.examples:
            raise InputError(f"no example for {self.folder}", "give rows with a part to learn")
        self._close_group()
        if self._bits and len(self._bits[0]):
            self._files[LEARNED].write(np.packbits(self._bits[0], bitorder="little").tobytes())
        for file in self._files.values():
            file.close()
        self.manifest = ExampleManifest(
            kind=self.kind,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            vocabulary_size=self.tokenizer.vocabulary_size,
            end_of_document=self.tokenizer.end_of_document,
            dtype=self.dtype.name,
            examples=self.examples,
            tokens=self.tokens,
            learned=self.learned,
            source_tokens=self.source_tokens,
            learned_bytes=self.learned_bytes,
            label_bytes=self.label_bytes,
            groups=tuple(self._groups),
            hashes={name: hash_file(self._building / name) for name in self._files},
        )
        write_json(self._building / MANIFEST, self.manifest.to_json())

    def opened(self) -> ExampleStore:
        """Return the finished store, opened for reading."""
        return ExampleStore.open(self.folder)
