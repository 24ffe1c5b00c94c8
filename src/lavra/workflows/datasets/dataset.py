"""What a run learns from, whatever its kind: rows, units, and what of it was seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.examples.prepare import PreparedExamples, holds_examples, open_prepared_examples
from lavra.data.examples.rows import EXAMPLE_COLUMNS, looks_like_example
from lavra.data.examples.store import ExampleSource, ExampleStore
from lavra.data.order import WindowOrder, WindowPlace
from lavra.data.packing import WindowSource, cut
from lavra.data.readers.documents import is_repeatable, read_rows
from lavra.data.readers.rows import BadRows
from lavra.data.token_store.ngram_counts import Bigrams, Trigrams, as_read, count_bigrams, count_trigrams
from lavra.data.token_store.prepare import Prepared, open_prepared
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.usage import ledger
from lavra.planning.plan import Plan
from lavra.training.batches import Source
from lavra.workflows.datasets.text import is_prepared

_EXCERPT_TOKENS, _BEGINNING = 64, 512
_ROWS_SEEN, _MIXED = 64, 3
_BYTES_PER_WORD = 6.0
"""Of prose, its space included; examples are not counted in words."""


@dataclass(frozen=True)
class RowsToCheck:
    """Training rows that are quick to compute, for checks.

    Attributes:
        source: of the rows.
        context: their length in tokens.
        mixed: rows that hold several documents or examples, and their ends.
    """

    source: Source
    context: int
    mixed: Sequence[Any]


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows, always the same ones in the same order, whatever the run's seed.

    Attributes:
        source: of the rows.
        rows: how many there are.
        bytes_per_target: of the text that the targets spell.
    """

    source: Source
    rows: int
    bytes_per_target: float


class Material(ABC):
    """Text in windows, or examples of which a part is learned.

    Attributes:
        folder: where what was prepared lies.
        tokenizer: of all of it.
        bytes: of the text to train on.
        bytes_per_target: of the text that the targets of training spell.
        words_per_target: the same in words.
        examples: whether it is examples of which a part is learned.
        context: tokens of a row that it was prepared for; None where any will do.
    """

    examples = False
    context: int | None = None
    folder: Path
    tokenizer: Tokenizer
    bytes: int
    bytes_per_target: float
    words_per_target: float

    @abstractmethod
    def epoch_tokens(self, plan: Plan) -> int:
        """Return the tokens of one pass, the unit of which the plan's steps have `tokens_per_step`."""

    @abstractmethod
    def source(self, plan: Plan) -> Source:
        """Return the training rows in the run's order."""

    @abstractmethod
    def held_out(self, plan: Plan) -> HeldOut:
        """Return the held-out rows."""

    @abstractmethod
    def rows_to_check(self, plan: Plan, longest: int) -> RowsToCheck:
        """Return rows of at most `longest` tokens where rows can be had in any length."""

    def bigrams(self, *, held_out: bool = False) -> Bigrams | None:
        """Return which token follows which how often, in the text to train on or that held out.

        None where not all of the text is learned, or there is none.
        """
        return None

    def trigrams(self, pairs: int) -> Trigrams | None:
        """Return what follows the most frequent pairs of tokens how often, in the text to train on; see `bigrams`."""
        return None

    @abstractmethod
    def beginning(self) -> np.ndarray:
        """Return the ids of some of the user's text, to compare models on."""

    @abstractmethod
    def summary(self) -> str:
        """Return what there is, in a line."""

    @abstractmethod
    def excerpt(self, number: int) -> str:
        """Return the beginning of a training document's or example's text, for messages."""

    @abstractmethod
    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return prompts for samples, each with what a person wrote after it (empty where nothing is known)."""

    @abstractmethod
    def receipt(self, plan: Plan, steps: int) -> list[dict[str, Any]]:
        """Return what was seen after `steps` steps, by source."""


class TextMaterial(Material):
    """Windows of a token store.

    Args:
        prepared: the stores.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.folder = prepared, prepared.folder
        manifest = prepared.train.manifest
        self.tokenizer, self.bytes = prepared.tokenizer, manifest.bytes
        self.bytes_per_target = manifest.bytes_per_token
        self.words_per_target = manifest.words / manifest.tokens

    def epoch_tokens(self, plan: Plan) -> int:
        """Return the tokens of the store."""
        return self.prepared.train.manifest.tokens

    def source(self, plan: Plan) -> Source:
        """Return windows in the order of the run's seed."""
        return WindowSource(self.prepared.train, plan.context, plan.seed)

    def held_out(self, plan: Plan) -> HeldOut:
        """Return the windows of the held-out store."""
        store = self.prepared.validation
        windows = -(-store.manifest.tokens // plan.context)
        return HeldOut(WindowSource(store, plan.context, 0), windows, store.manifest.bytes_per_token)

    def rows_to_check(self, plan: Plan, longest: int) -> RowsToCheck:
        """Return shorter windows, and some around ends of documents: a short, a middle and a late one."""
        store = self.prepared.train
        offsets = store.offsets.astype(int)
        length = min(longest, store.manifest.tokens)
        chosen = sorted({0, len(store) // 2, max(0, len(store) - 2)})
        starts = [max(0, int(offsets[number + 1]) - 1 - length // 2) for number in chosen]
        mixed = [cut(store, WindowPlace(0, start % store.manifest.tokens, length)) for start in starts]
        return RowsToCheck(WindowSource(store, longest, plan.seed), longest, mixed)

    def bigrams(self, *, held_out: bool = False) -> Bigrams | None:
        """Count the pairs of the text."""
        store = self.prepared.validation if held_out else self.prepared.train
        if len(store.tokens) < 2:
            return None
        found = count_bigrams(store.tokens, self.tokenizer.vocabulary_size)
        end, bos = self.tokenizer.end_of_document, self.tokenizer.document_bos
        return replace(found, contexts=as_read(found.contexts, end, bos))

    def trigrams(self, pairs: int) -> Trigrams | None:
        """Count what follows the most frequent pairs of the text."""
        tokens, tokenizer = self.prepared.train.tokens, self.tokenizer
        if len(tokens) < 3:
            return None
        found = count_trigrams(tokens, tokenizer.vocabulary_size, pairs, tokenizer.end_of_document)
        return replace(found, pairs=as_read(found.pairs, tokenizer.end_of_document, tokenizer.document_bos))

    def beginning(self) -> np.ndarray:
        """Return the first ids of the training text."""
        return np.asarray(self.prepared.train.tokens[:_BEGINNING]).astype(np.int64)

    def summary(self) -> str:
        """Return how much text there is."""
        train, held_out = self.prepared.train.manifest, self.prepared.validation.manifest
        return (
            f"text: {counted(train.documents, 'document')}, {train.bytes / 1e6:.1f} MB, "
            f"{counted(train.tokens, 'token')} for training; "
            f"{counted(held_out.documents, 'document')}, {held_out.bytes / 1e6:.2f} MB for validation"
        )

    def excerpt(self, number: int) -> str:
        """Return the beginning of a document."""
        store = self.prepared.train
        start, end = (int(offset) for offset in store.offsets[number : number + 2])
        return self.tokenizer.decode(store.tokens[start : min(end, start + _EXCERPT_TOKENS)].tolist())

    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return empty prompts: a sample is a new document."""
        return [("", "")] * count

    def receipt(self, plan: Plan, steps: int) -> list[dict[str, Any]]:
        """Return the ledger's lines."""
        store = self.prepared.train
        order = WindowOrder(store.manifest.tokens, plan.context, plan.seed)
        done = ledger(store, order, steps * plan.rows_per_step).to_json()
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


class ExampleMaterial(Material):
    """Examples of which a part is learned, packed into rows.

    Args:
        prepared: the stores.
    """

    examples = True

    def __init__(self, prepared: PreparedExamples) -> None:
        self.prepared, self.folder = prepared, prepared.folder
        manifest = prepared.train.manifest
        self.tokenizer, self.context = prepared.tokenizer, prepared.report["context"]
        self.bytes_per_target = manifest.bytes_per_token
        self.words_per_target = manifest.bytes_per_token / _BYTES_PER_WORD
        self.bytes = round(manifest.tokens * self.bytes_per_target)
        self._packed: dict[tuple[Any, ...], ExampleSource] = {}

    def _source(self, store: ExampleStore, plan: Plan, seed: int, pack: bool) -> ExampleSource:
        """Pack the examples once for each shape of rows."""
        key = (store.folder, plan.context, plan.source_context, seed, pack)
        if key not in self._packed:
            self._packed[key] = ExampleSource(store, plan.context, plan.source_context or None, seed, pack)
        return self._packed[key]

    def source(self, plan: Plan) -> ExampleSource:
        """Return packed rows in the order of the run's seed; one example a row where the model needs that."""
        return self._source(self.prepared.train, plan, plan.seed, plan.isolate)

    def epoch_tokens(self, plan: Plan) -> int:
        """Return the positions of the rows that hold every example once."""
        return self.source(plan).rows_per_epoch * plan.context

    def held_out(self, plan: Plan) -> HeldOut:
        """Return the held-out examples, packed alike."""
        store = self.prepared.validation
        source = self._source(store, plan, 0, plan.isolate)
        return HeldOut(source, source.rows_per_epoch, store.manifest.bytes_per_token)

    def rows_to_check(self, plan: Plan, longest: int) -> RowsToCheck:
        """Return whole rows, since examples cannot be cut, the fullest of the first ones as mixed rows."""
        source = self.source(plan)
        first = source.rows(0, min(_ROWS_SEEN, source.rows_per_epoch))
        mixed = sorted(first, key=lambda row: -len(row.examples))[:_MIXED]
        return RowsToCheck(source, plan.context, [row for row in mixed if len(row.examples) > 1])

    def beginning(self) -> np.ndarray:
        """Return the ids of the first example."""
        return self.prepared.train[0].tokens

    def summary(self) -> str:
        """Return how many examples there are."""
        train, held_out = self.prepared.train.manifest, self.prepared.validation.manifest
        return (
            f"{counted(train.examples, 'example')} for training, {counted(train.learned, 'token')} to predict of "
            f"{train.tokens + train.source_tokens:,} to read; {counted(held_out.examples, 'example')} for validation"
        )

    def excerpt(self, number: int) -> str:
        """Return the beginning of an example."""
        return self.tokenizer.decode(self.prepared.train[number].tokens[:_EXCERPT_TOKENS])

    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return the prompts of the first held-out examples, and their completions."""
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

    def receipt(self, plan: Plan, steps: int) -> list[dict[str, Any]]:
        """Return the ledger's lines, in examples: every one is met once per epoch."""
        source = self.source(plan)
        epochs, rows = divmod(steps * plan.rows_per_step, source.rows_per_epoch)
        seen = {example.number for row in source.rows(epochs * source.rows_per_epoch, rows) for example in row.examples}
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


def open_material(folder: Path) -> Material:
    """Open a folder of prepared text or examples.

    Raises:
        InputError: if it is no such folder.
        Damaged: if a file is missing or cut short.
    """
    if holds_examples(folder):
        return ExampleMaterial(open_prepared_examples(folder))
    return TextMaterial(open_prepared(folder))


def has_examples(config: TrainConfig) -> bool:
    """Say whether the data of a request are examples of which a part is learned, rather than text.

    They are when the request says so, or when the first row has the columns of a chat or of a pair, and no text column.
    """
    if config.objective.name in ("answers", "seq2seq") or config.text.prompt or config.text.completion:
        return True
    if config.objective.name != "auto":
        return False
    if is_prepared(config.data):
        return holds_examples(config.data[0])
    if not all(is_repeatable(location) for location in config.data):
        return False
    try:
        rows = read_rows(
            config.data,
            text_column=None,
            encoding=config.text.encoding,
            validation=config.text.validation,
            wanted={*EXAMPLE_COLUMNS, config.text.column},
            bad_rows=BadRows(),
        )
        fields = next(rows).fields
    except InputError:  # files without columns; what is wrong with others is told when they are read
        return False
    return config.text.column not in fields and looks_like_example(fields)
