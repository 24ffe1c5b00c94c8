"""The example store: examples with a part to learn and a part that is only read, on disk and by their number in a run.

The store is a folder with these files, whose numbers are little-endian:

- `tokens.bin`: the uint16 or uint32 ids of all examples, flat,
- `learned.bin`: one bit for each token, whether it is learned,
- `offsets.bin`: the uint64 index of each example's first token, and the number of tokens,
- `source_tokens.bin` and `source_offsets.bin`: the same for what an encoder reads; empty for decoders,
- `labels.bin` and `label_offsets.bin`: the further columns of labelled rows as JSON, one object for each; else empty,
- `manifest.json`: the description of the store, with a hash of each file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lavra.core.disk.files import read_json
from lavra.core.errors import CorruptFile, InputError
from lavra.data.examples.packing import pack_examples
from lavra.data.shuffle import WindowShuffle
from lavra.data.token_store.files import map_array, verify_files

Kind = Literal["decoder", "encoder-decoder", "labelled"]
"""What examples are made for: a decoder, an encoder-decoder, or a model with a head that learns the row's labels."""

FORMAT_VERSION = 2
"""Version of the folder's layout; stores of other versions are refused."""

MANIFEST = "manifest.json"
TOKENS = "tokens.bin"
LEARNED = "learned.bin"
OFFSETS = "offsets.bin"
SOURCE_TOKENS = "source_tokens.bin"
SOURCE_OFFSETS = "source_offsets.bin"
LABELS = "labels.bin"
LABEL_OFFSETS = "label_offsets.bin"

_REMEDY = "prepare the examples again, or copy the folder again from where it is whole"


@dataclass(frozen=True, slots=True)
class Example:
    """One example as ids.

    Attributes:
        number: Number of the example in its store.
        tokens: (n,) int64 ids. For a decoder they are the whole text: beginning-of-text token, prompt, completion, end
            token; position i reads `tokens[i]` and predicts `tokens[i + 1]`. For an encoder-decoder they are what the
            decoder writes, its end token included.
        learned: (n,) bool; whether each token is learned. The first token of a decoder's example never is.
        source: (m,) int64 ids that the encoder reads, its end token included; None for a decoder.
        labels: The further columns of a labelled row, whose tokens are its text and are all only read.

    Examples:
        >>> import numpy as np
        >>> from lavra.data.examples.store import Example
        >>> Example(0, np.array([5, 6, 7, 0]), np.array([False, False, True, True])).length
        3
    """

    number: int
    tokens: np.ndarray
    learned: np.ndarray
    source: np.ndarray | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of positions that the example takes in a row: of a decoder that predicts, all but the last token."""
        return len(self.tokens) - (self.source is None and not self.labels)


@dataclass(frozen=True, slots=True)
class ExampleGroup:
    """Consecutive examples of one file or corpus.

    Attributes:
        name: Name that the reader gave.
        examples: Number of examples.
        tokens: Number of their tokens on the decoder's side.
        learned: Number of their tokens that are learned.
        fingerprint: Hash of the texts, in order.
    """

    name: str
    examples: int
    tokens: int
    learned: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ExampleManifest:
    """The description of an example store, kept in its `manifest.json`.

    Attributes:
        kind: Kind of the model that the examples are made for.
        tokenizer_fingerprint: Fingerprint of the tokenizer that made the ids.
        vocabulary_size: Size of that tokenizer's vocabulary.
        end_of_document: Id after what is learned.
        dtype: Type of an id on disk: "uint16" or "uint32".
        examples: Number of examples.
        tokens: Number of tokens on the decoder's side.
        learned: Number of tokens that are learned, end tokens included.
        source_tokens: Number of tokens on the encoder's side.
        learned_bytes: Bytes of the original text that is learned, as UTF-8.
        label_bytes: Bytes of the further columns of labelled rows.
        groups: The groups in the order of the examples.
        hashes: The xxh3-128 hash of each file.
        format_version: Version of the folder's layout.
    """

    kind: Kind
    tokenizer_fingerprint: str
    vocabulary_size: int
    end_of_document: int
    dtype: str
    examples: int
    tokens: int
    learned: int
    source_tokens: int
    learned_bytes: int
    label_bytes: int
    groups: tuple[ExampleGroup, ...]
    hashes: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def bytes_per_token(self) -> float:
        """Bytes of learned text per learned token, which turns nats per target into bits per byte."""
        return self.learned_bytes / self.learned

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain values."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> ExampleManifest:
        """Return the manifest in a file.

        Raises:
            CorruptFile: if the file is missing, no manifest of examples, or of another format version.
        """
        values = read_json(path)
        remedy = "prepare the examples again"
        if not isinstance(values, dict) or "examples" not in values or "format_version" not in values:
            raise CorruptFile(f"{path} is no manifest of an example store", remedy)
        if values["format_version"] != FORMAT_VERSION:
            found = values["format_version"]
            raise CorruptFile(f"{path} has format version {found}, and this lavra reads {FORMAT_VERSION}", remedy)
        try:
            return cls(**{**values, "groups": tuple(ExampleGroup(**group) for group in values["groups"])})
        except (TypeError, KeyError) as error:
            raise CorruptFile(f"{path} is damaged: {error}", remedy) from error


class ExampleStore:
    """An example store opened for reading by memory map; nothing is loaded before it is used.

    `len(store)` is the number of examples, and `store[number]` is an `Example`.

    Args:
        folder: Path of the store; `open` also reads its manifest.
        manifest: Description of the store.

    Attributes:
        folder: Path of the store.
        manifest: Description of the store.
    """

    def __init__(self, folder: Path, manifest: ExampleManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._tokens = map_array(folder / TOKENS, manifest.dtype, manifest.tokens, _REMEDY)
        self._learned = map_array(folder / LEARNED, "uint8", -(-manifest.tokens // 8), _REMEDY)
        self._offsets = map_array(folder / OFFSETS, "uint64", manifest.examples + 1, _REMEDY)
        self._source_tokens = map_array(folder / SOURCE_TOKENS, manifest.dtype, manifest.source_tokens, _REMEDY)
        self._source_offsets = map_array(folder / SOURCE_OFFSETS, "uint64", manifest.examples + 1, _REMEDY)
        self._labels = map_array(folder / LABELS, "uint8", manifest.label_bytes, _REMEDY)
        self._label_offsets = map_array(folder / LABEL_OFFSETS, "uint64", manifest.examples + 1, _REMEDY)

    @classmethod
    def open(cls, folder: str | Path) -> ExampleStore:
        """Return the example store in `folder`, after checking that every file has its size.

        Raises:
            CorruptFile: if a file is missing or cut short; the message names it. The contents are checked by `verify`.
        """
        folder = Path(folder)
        return cls(folder, ExampleManifest.read(folder / MANIFEST))

    def __len__(self) -> int:
        """The number of examples."""
        return self.manifest.examples

    def __getitem__(self, number: int) -> Example:
        """Return one example.

        Raises:
            IndexError: if the store has no example of this number.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"there is no example {number} among {len(self)}")
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        bits = np.unpackbits(self._learned[start // 8 : -(-end // 8)], bitorder="little")
        source = None
        if self.manifest.kind == "encoder-decoder":
            first, last = int(self._source_offsets[number]), int(self._source_offsets[number + 1])
            source = self._source_tokens[first:last].astype(np.int64)
        learned = bits[start % 8 : start % 8 + end - start].astype(bool)
        labels = self.labels(number) if self.manifest.kind == "labelled" else {}
        return Example(number, self._tokens[start:end].astype(np.int64), learned, source, labels)

    def labels(self, number: int) -> dict[str, Any]:
        """Return the further columns of a labelled row, by name."""
        first, last = int(self._label_offsets[number]), int(self._label_offsets[number + 1])
        return json.loads(self._labels[first:last].tobytes())

    def lengths(self) -> np.ndarray:
        """Return the (examples,) int64 number of positions that each example takes in a decoder's row."""
        return np.diff(self._offsets.astype(np.int64)) - (self.manifest.kind == "decoder")

    def source_lengths(self) -> np.ndarray:
        """Return the (examples,) int64 number of tokens that the encoder reads of each example, 0 for decoders."""
        return np.diff(self._source_offsets.astype(np.int64))

    def verify(self) -> None:
        """Read every file and compare its hash with the manifest's.

        Raises:
            CorruptFile: if a file is not what was written; the message names the first such file.
        """
        verify_files(self.folder, self.manifest.hashes, _REMEDY)


@dataclass(frozen=True, slots=True)
class PackedRow:
    """The examples that share one sequence of a batch.

    Attributes:
        examples: The examples; there is always at least one.
    """

    examples: tuple[Example, ...]

    @property
    def length(self) -> int:
        """Number of positions on the decoder's side."""
        return sum(example.length for example in self.examples)

    @property
    def source_length(self) -> int:
        """Number of positions on the encoder's side."""
        return sum(0 if example.source is None else len(example.source) for example in self.examples)


class ExampleSource:
    """The endless rows of a training run: row `k` of the run is a pure function of the seed and of `k`.

    The examples are packed into rows once, and every epoch visits the rows in another order. So each example is trained
    on exactly once per epoch.

    Args:
        store: The example store to train on.
        context: Number of positions of a row on the decoder's side.
        source_context: Number of positions of a row on the encoder's side; None for decoders.
        seed: Seed of the packing and of the order; 0 by default.
        pack: Put several examples into a row where they fit (the default), else one.

    Attributes:
        rows_per_epoch: Number of rows that hold every example once.
        filled: Share of the rows' positions that hold tokens, on the fuller side.

    Raises:
        InputError: if an example is longer than a row.
    """

    def __init__(
        self, store: ExampleStore, context: int, source_context: int | None = None, seed: int = 0, pack: bool = True
    ) -> None:
        self.store, self.context, self.source_context = store, context, source_context
        lengths, sources = store.lengths(), store.source_lengths()
        _must_fit(store, lengths, context, "")
        if source_context is not None:
            _must_fit(store, sources, source_context, "source ")
        sides = [(lengths, context)]
        if store.manifest.kind == "encoder-decoder":
            sides.append((sources, source_context or int(sources.max())))
        self._members, self._starts = pack_examples(sides, seed, alone=not pack)
        self.rows_per_epoch = len(self._starts) - 1
        self.filled = max(float(sizes.sum()) / (self.rows_per_epoch * limit) for sizes, limit in sides)
        self._order = WindowShuffle(self.rows_per_epoch, 1, seed)

    def rows(self, start: int, count: int) -> list[PackedRow]:
        """Return the `count` rows from number `start` of the run on."""
        epochs, within = np.divmod(np.arange(start, start + count), self.rows_per_epoch)
        found = []
        for epoch, place in zip(epochs.tolist(), within.tolist(), strict=True):
            row = int(self._order.permuted(epoch, np.array([place]))[0])
            numbers = self._members[self._starts[row] : self._starts[row + 1]]
            found.append(PackedRow(tuple(self.store[int(number)] for number in numbers)))
        return found


def _must_fit(store: ExampleStore, lengths: np.ndarray, limit: int, side: str) -> None:
    if len(lengths) and lengths.max() > limit:
        number = int(lengths.argmax())
        raise InputError(
            f"example {number} of {store.folder} has {lengths[number]} {side}tokens, and a row holds {limit}",
            "prepare the examples again with this length, so that longer ones are cut or left out",
        )
