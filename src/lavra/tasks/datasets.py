"""The data sets of a run: text in sequences of a fixed length, or examples of which a part is predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from lavra.core.units import counted
from lavra.data.examples.prepare import PreparedExamples
from lavra.data.examples.store import ExampleSource, ExampleStore
from lavra.data.packing import WindowSource, cut
from lavra.data.shuffle import WindowPlace, WindowShuffle
from lavra.data.token_store.ngram_counts import Bigrams, Trigrams, as_read, count_bigrams, count_trigrams
from lavra.data.token_store.prepare import Prepared
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.usage import data_usage
from lavra.training.batches import Source
from lavra.vectors.sentence_folder import SentenceFolder

_EXCERPT_TOKENS = 64
"""Tokens of a document that are shown in messages."""

_BEGINNING = 512
"""Tokens of the training text on which models are compared."""

_ROWS_SEEN = 64
"""Training rows that are searched for packed ones for the checks, and how many of these are taken."""
_MIXED = 3

_BYTES_PER_WORD = 6.0
"""Bytes of a word of prose with its space, because examples are not counted in words."""


Rows = Literal["text", "pairs", "labelled"]
"""What the rows of data are: documents; prompts with completions, or chats; texts with further columns."""


@dataclass(frozen=True)
class DataDescription:
    """What is known of data before it is read.

    Attributes:
        columns: The names of the columns of its first row; empty for documents without columns.
        text_column: The column that would be read as documents.
        pairs_named: Whether the request names the columns of prompts and completions.
        label_column: The column of the labels that the request names; None where it names none.
        template: The template of the text that the request gives, with names of columns in braces.
        first_row: The first row, by column.
        sentence: What a folder of sentence-transformers says of the model that is trained; None where it says nothing.
        prompts: What the model that is trained reads before texts, by their kind, with what the request says instead.
        prepared: What `lavra prepare` or an earlier run made of it; None for data as it was brought.

    Examples:
        >>> DataDescription(frozenset({"text", "label"})).text_column
        'text'
    """

    columns: frozenset[str] = frozenset()
    text_column: str = "text"
    pairs_named: bool = False
    label_column: str | None = None
    template: str = ""
    first_row: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sentence: SentenceFolder | None = field(default=None, hash=False)
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    prepared: Rows | None = None


class RowShape(Protocol):
    """How data is cut and packed into rows; a plan is one.

    Attributes:
        context: Tokens of a row.
        source_context: Tokens of a source, for an encoder-decoder; 0 for other models.
        seed: Seed of the order, and of the packing of examples.
        isolate: Whether several documents or examples may share a row, each by itself.
    """

    @property
    def context(self) -> int:
        """Tokens of a row."""
        ...

    @property
    def source_context(self) -> int:
        """Tokens of a source."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the order."""
        ...

    @property
    def isolate(self) -> bool:
        """Whether several documents or examples may share a row."""
        ...


class DataSize(Protocol):
    """How much data there is, which is all that a plan needs of it: a data set, or an estimate of one.

    Attributes:
        bytes: Bytes of the training text.
        vocabulary: Number of tokens of the vocabulary.
        context: Tokens of a row that the data was prepared for; None where rows may have any length.
        source_context: Tokens of a source that the data was prepared for; 0 where there are no sources.
    """

    bytes: int
    context: int | None
    source_context: int

    @property
    def vocabulary(self) -> int:
        """The number of tokens of the vocabulary."""
        ...

    def epoch_tokens(self, shape: RowShape) -> float:
        """Return the tokens of one pass over the training data; infinite where there is no text yet."""
        ...

    def validation_rows(self, shape: RowShape) -> int:
        """Return the number of validation rows."""
        ...

    def batch_tokens(self, shape: RowShape) -> int | None:
        """Return the tokens of an optimiser step that suits this data; None for what suits the length of the run."""
        ...


@dataclass(frozen=True)
class RowsToCheck:
    """Training rows that are quick to compute, for the checks.

    Attributes:
        source: The source of the rows.
        context: The length of a row in tokens.
        mixed: Rows that hold several documents or examples, with the borders between them.
    """

    source: Source
    context: int
    mixed: Sequence[Any]


@dataclass(frozen=True)
class ValidationSet:
    """The validation rows, always the same ones in the same order, whatever the seed of the run.

    Attributes:
        source: The source of the rows.
        rows: The number of rows.
        bytes_per_target: Bytes of text for each predicted token, which converts a loss into bits per byte.
    """

    source: Source
    rows: int
    bytes_per_target: float


class Dataset(ABC):
    """A data set: text in sequences, or examples of which a part is predicted.

    Attributes:
        folder: The folder of the prepared data.
        tokenizer: The tokenizer that all of the data was encoded with.
        bytes: Bytes of the training text.
        bytes_per_target: Bytes of training text for each predicted token.
        words_per_target: Words of training text for each predicted token.
        rows: What the rows are.
        context: Tokens of a row that the data was prepared for; None where rows may have any length.
        source_context: Tokens of a source that the data was prepared for; 0 where there are no sources.
    """

    rows: ClassVar[Rows] = "text"
    context: int | None = None
    source_context: int = 0
    folder: Path
    tokenizer: Tokenizer
    bytes: int
    bytes_per_target: float
    words_per_target: float

    @property
    def vocabulary(self) -> int:
        """The number of tokens of the vocabulary."""
        return self.tokenizer.vocabulary_size

    def validation_rows(self, shape: RowShape) -> int:
        """Return the number of validation rows."""
        return self.validation_set(shape).rows

    @property
    def description(self) -> DataDescription:
        """What the data are, from which a task is chosen."""
        return DataDescription(prepared=self.rows)

    @abstractmethod
    def epoch_tokens(self, shape: RowShape) -> int:
        """Return the tokens of one pass over the training data, in the unit of the plan's `batch_tokens`."""

    def batch_tokens(self, shape: RowShape) -> int | None:
        """Return the tokens of an optimiser step that suits this data; None for what suits the length of the run."""
        return None

    @abstractmethod
    def source(self, shape: RowShape) -> Source:
        """Return the training rows in the run's order."""

    @abstractmethod
    def validation_set(self, shape: RowShape) -> ValidationSet:
        """Return the validation rows."""

    @abstractmethod
    def rows_to_check(self, shape: RowShape, longest: int) -> RowsToCheck:
        """Return training rows for the checks, of at most `longest` tokens where rows may have any length."""

    def bigrams(self, *, validation: bool = False) -> Bigrams | None:
        """Return the bigram counts of the text.

        Args:
            validation: Whether to count the validation text instead of the training text.

        Returns:
            The counts; None where only a part of the text is predicted, or there is too little of it.
        """
        return None

    def trigrams(self, pairs: int) -> Trigrams | None:
        """Return the counts of what follows the `pairs` most frequent bigrams of the training text; see `bigrams`."""
        return None

    @abstractmethod
    def first_ids(self) -> np.ndarray:
        """Return the (length,) int64 ids of some of the training text, to compare models on."""

    @abstractmethod
    def summary(self) -> str:
        """Return a line that says how much data there is for training and for validation."""

    @abstractmethod
    def excerpt(self, number: int) -> str:
        """Return the beginning of the text of a training document or example, for messages."""

    @abstractmethod
    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return `count` prompts for sample texts, each with the text that a person wrote after it, or an empty string
        where there is none."""

    @abstractmethod
    def data_usage(self, shape: RowShape, rows: int) -> list[dict[str, Any]]:
        """Return the data usage after so many rows of the run: for each source what was trained on, and how often."""


class TextDataset(Dataset):
    """Text, read in sequences from a token store.

    Args:
        prepared: The token stores for training and validation, and the tokenizer.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.folder = prepared, prepared.folder
        manifest = prepared.train.manifest
        self.tokenizer, self.bytes = prepared.tokenizer, manifest.bytes
        self.bytes_per_target = manifest.bytes_per_token
        self.words_per_target = manifest.words / manifest.tokens

    def epoch_tokens(self, shape: RowShape) -> int:
        """Return the tokens of the training text."""
        return self.prepared.train.manifest.tokens

    def source(self, shape: RowShape) -> Source:
        """Return the training sequences in the order that the seed of the run gives."""
        return WindowSource(self.prepared.train, shape.context, shape.seed)

    def validation_set(self, shape: RowShape) -> ValidationSet:
        """Return the sequences of the validation text."""
        store = self.prepared.validation
        windows = -(-store.manifest.tokens // shape.context)
        return ValidationSet(WindowSource(store, shape.context, 0), windows, store.manifest.bytes_per_token)

    def rows_to_check(self, shape: RowShape, longest: int) -> RowsToCheck:
        """Return shorter sequences, and three that contain a border between documents: of the first, a middle and a
        late document."""
        store = self.prepared.train
        offsets = store.offsets.astype(int)
        length = min(longest, store.manifest.tokens)
        chosen = sorted({0, len(store) // 2, max(0, len(store) - 2)})
        starts = [max(0, int(offsets[number + 1]) - 1 - length // 2) for number in chosen]
        mixed = [cut(store, WindowPlace(0, start % store.manifest.tokens, length)) for start in starts]
        return RowsToCheck(WindowSource(store, longest, shape.seed), longest, mixed)

    def bigrams(self, *, validation: bool = False) -> Bigrams | None:
        """Count the bigrams of the text."""
        store = self.prepared.validation if validation else self.prepared.train
        if len(store.tokens) < 2:
            return None
        found = count_bigrams(store.tokens, self.tokenizer.vocabulary_size)
        end, bos = self.tokenizer.end_of_document, self.tokenizer.document_bos
        return replace(found, contexts=as_read(found.contexts, end, bos))

    def trigrams(self, pairs: int) -> Trigrams | None:
        """Count what follows the most frequent bigrams of the training text."""
        tokens, tokenizer = self.prepared.train.tokens, self.tokenizer
        if len(tokens) < 3:
            return None
        found = count_trigrams(tokens, tokenizer.vocabulary_size, pairs, tokenizer.end_of_document)
        return replace(found, pairs=as_read(found.pairs, tokenizer.end_of_document, tokenizer.document_bos))

    def first_ids(self) -> np.ndarray:
        """Return the first ids of the training text."""
        return np.asarray(self.prepared.train.tokens[:_BEGINNING]).astype(np.int64)

    def summary(self) -> str:
        """Return a line that says how much text there is for training and for validation."""
        train, validation_set = self.prepared.train.manifest, self.prepared.validation.manifest
        return (
            f"text: {counted(train.documents, 'document')}, {train.bytes / 1e6:.1f} MB, "
            f"{counted(train.tokens, 'token')} for training; "
            f"{counted(validation_set.documents, 'document')}, {validation_set.bytes / 1e6:.2f} MB for validation"
        )

    def excerpt(self, number: int) -> str:
        """Return the beginning of a training document."""
        store = self.prepared.train
        start, end = (int(offset) for offset in store.offsets[number : number + 2])
        return self.tokenizer.decode(store.tokens[start : min(end, start + _EXCERPT_TOKENS)].tolist())

    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return empty prompts, because a sample text is a new document."""
        return [("", "")] * count

    def data_usage(self, shape: RowShape, rows: int) -> list[dict[str, Any]]:
        """Return the data usage after so many rows of the run, in tokens, by source."""
        store = self.prepared.train
        order = WindowShuffle(store.manifest.tokens, shape.context, shape.seed)
        done = data_usage(store, order, rows).to_json()
        return [
            {
                "source": source["name"],
                "tokens": source["tokens"],
                "epochs": done["epochs"],
                "seen": source["seen"],
                "left": source["left"],
                "total": source["total"],
            }
            for source in done["sources"]
        ]


class ExampleDataset(Dataset):
    """Examples of which a part is predicted, packed into rows.

    Args:
        prepared: The example stores for training and validation, and the tokenizer.
    """

    rows = "pairs"

    def __init__(self, prepared: PreparedExamples) -> None:
        self.prepared, self.folder = prepared, prepared.folder
        manifest = prepared.train.manifest
        self.tokenizer, self.context = prepared.tokenizer, prepared.report["context"]
        self.source_context = prepared.report.get("source_context") or 0
        self.bytes_per_target = manifest.bytes_per_token
        self.words_per_target = manifest.bytes_per_token / _BYTES_PER_WORD
        self.bytes = round((manifest.tokens + manifest.source_tokens) * self.bytes_per_target)
        self._packed: dict[tuple[Any, ...], ExampleSource] = {}

    def _source(self, store: ExampleStore, shape: RowShape, seed: int, pack: bool) -> ExampleSource:
        """Return the packed rows, which are made once for each shape and kept."""
        key = (store.folder, shape.context, shape.source_context, seed, pack)
        if key not in self._packed:
            self._packed[key] = ExampleSource(store, shape.context, shape.source_context or None, seed, pack)
        return self._packed[key]

    def source(self, shape: RowShape) -> ExampleSource:
        """Return packed rows in the order that the seed gives; one example in each row where the model cannot keep
        several apart."""
        return self._source(self.prepared.train, shape, shape.seed, shape.isolate)

    def epoch_tokens(self, shape: RowShape) -> int:
        """Return the positions, padding included, of the rows that hold every example once."""
        return self.source(shape).rows_per_epoch * shape.context

    def validation_set(self, shape: RowShape) -> ValidationSet:
        """Return the validation examples, packed in the same way."""
        store = self.prepared.validation
        source = self._source(store, shape, 0, shape.isolate)
        return ValidationSet(source, source.rows_per_epoch, store.manifest.bytes_per_token)

    def rows_to_check(self, shape: RowShape, longest: int) -> RowsToCheck:
        """Return whole rows, because examples cannot be cut; those with the most examples are the mixed ones."""
        source = self.source(shape)
        first = source.rows(0, min(_ROWS_SEEN, source.rows_per_epoch))
        mixed = sorted(first, key=lambda row: -len(row.examples))[:_MIXED]
        return RowsToCheck(source, shape.context, [row for row in mixed if len(row.examples) > 1])

    def first_ids(self) -> np.ndarray:
        """Return the ids of the first training example."""
        return self.prepared.train[0].tokens

    def summary(self) -> str:
        """Return a line that says how many examples there are for training and for validation."""
        train, validation_set = self.prepared.train.manifest, self.prepared.validation.manifest
        return (
            f"{counted(train.examples, 'example')} for training, {counted(train.learned, 'token')} to predict of "
            f"{train.tokens + train.source_tokens:,} to read; {counted(validation_set.examples, 'example')} for "
            f"validation"
        )

    def excerpt(self, number: int) -> str:
        """Return the beginning of a training example."""
        return self.tokenizer.decode(self.prepared.train[number].tokens[:_EXCERPT_TOKENS])

    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return the prompts of the first validation examples, with their completions."""
        store = self.prepared.validation
        found = []
        for number in range(min(count, len(store))):
            example = store[number]
            if example.source is not None:
                found.append((self.tokenizer.decode(example.source), self.tokenizer.decode(example.tokens)))
            else:
                begin = int(example.learned.argmax())
                prompt, completion = example.tokens[:begin], example.tokens[begin:]
                found.append((self.tokenizer.decode(prompt), self.tokenizer.decode(completion)))
        return found

    def data_usage(self, shape: RowShape, rows: int) -> list[dict[str, Any]]:
        """Return the data usage after so many rows, in examples, by source; every example occurs once in an epoch."""
        source = self._source(self.prepared.train, shape, shape.seed, shape.isolate)
        epochs, rest = divmod(rows, source.rows_per_epoch)
        seen = {example.number for row in source.rows(epochs * source.rows_per_epoch, rest) for example in row.examples}
        lines, start = [], 0
        for group in self.prepared.train.manifest.groups:
            met = sum(1 for number in seen if start <= number < start + group.examples)
            start += group.examples
            lines.append(
                {
                    "source": group.name,
                    "tokens": group.tokens,
                    "epochs": epochs,
                    "seen": met,
                    "left": group.examples - met,
                    "total": epochs * group.examples + met,
                }
            )
        return lines
