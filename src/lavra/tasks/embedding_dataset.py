"""The data set of the embedding task: rows of texts that are compared, as the objectives of embeddings take them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lavra.core.units import counted
from lavra.data.examples.prepare import PreparedExamples
from lavra.data.examples.store import Example, ExampleSource, ExampleStore
from lavra.data.examples.text_groups import LENGTHS, NEGATIVES, TARGET
from lavra.objectives.embedding.rows import PairRow
from lavra.tasks.datasets import DataDescription, RowShape, RowsToCheck, ValidationSet
from lavra.tasks.labelled_dataset import LabelledDataset

SECOND = "second"
"""Name by which the description of prepared data says that a row has two texts."""

_PAIRS_AT_ONCE = 256
"""Pairs of an optimiser step: every pair is a negative for all others, so that more teach more."""

_TEXTS_AT_ONCE = 64
"""Rows of an optimiser step of scored pairs and of bare texts, which are learned with smaller steps."""

_FEWEST_STEPS = 8
"""Steps of a pass over the data that there are at least, so that few rows are not one step."""

_ROUNDED = 8
"""Number of tokens of which the length of a row is a multiple."""

_SEEN = 256
"""Rows among which those for the checks are chosen."""


class PairSource:
    """The rows of a store in the order of a run, as objectives of embeddings take them.

    Args:
        examples: The rows of the store in their order, one example each.
    """

    def __init__(self, examples: ExampleSource) -> None:
        self.examples = examples
        self.rows_per_epoch = examples.rows_per_epoch

    def rows(self, start: int, count: int) -> list[PairRow]:
        """Return rows of the order, see `lavra.training.batches.Source.rows`."""
        return [pair_row(row.examples[0]) for row in self.examples.rows(start, count)]


class EmbeddingDataset(LabelledDataset):
    """Rows of texts that are compared. A row of a step is one of these, whatever its number of texts.

    Args:
        prepared: The example stores for training and validation, and the tokenizer.

    Attributes:
        context: Mean tokens of a row, by which steps and speed are counted; a row may be longer.
        fewest_validated: Fewest rows of one of several validations: a few, compared with each other, say nothing.
    """

    fewest_validated = 64

    def __init__(self, prepared: PreparedExamples) -> None:
        super().__init__(prepared)
        self.context = max(_ROUNDED, -(-round(self._mean_length) // _ROUNDED) * _ROUNDED)
        self._longest = max(int(one.lengths().max()) for one in (prepared.train, prepared.validation))

    @property
    def description(self) -> DataDescription:
        """The names of what is kept of the rows, from which a task is chosen."""
        kept = {"texts", LENGTHS} | ({SECOND} if self.paired else set()) | ({TARGET} if self.scored else set())
        kept |= {NEGATIVES} if self.columns_read["negatives"] else set()
        return DataDescription(frozenset(kept), prepared=self.rows)

    @property
    def longest_text(self) -> int:
        """Largest number of tokens of a text."""
        read = self.columns_read["longest"]
        return int(read or self.prepared.report["context"] or self._longest)

    @property
    def scored(self) -> bool:
        """Whether every row has a number."""
        return bool(self.columns_read["score"])

    @property
    def paired(self) -> bool:
        """Whether a row has two texts, and is not a text alone."""
        return bool(self.columns_read["second"])

    def batch_tokens(self, shape: RowShape) -> int:
        """Return the tokens of a step on hundreds of pairs, or on some dozens of scored pairs or of bare texts."""
        most = _PAIRS_AT_ONCE if self.paired and not self.scored else _TEXTS_AT_ONCE
        rows = max(2, min(most, len(self.prepared.train) // _FEWEST_STEPS))
        return (1 << rows.bit_length() - 1) * shape.context  # a power of two, which micro-batches divide

    def _source(self, store: ExampleStore, shape: RowShape, seed: int, pack: bool) -> Any:
        """Return the rows in the order of a seed, whatever the length of a row is said to be."""
        key = (store.folder, seed)
        if key not in self._packed:
            self._packed[key] = ExampleSource(store, self._longest, None, seed, pack=False)
        return self._packed[key]

    def source(self, shape: RowShape) -> Any:
        """Return the training rows in the order that the seed gives."""
        return PairSource(self._source(self.prepared.train, shape, shape.seed, False))

    def validation_rows(self, shape: RowShape) -> int:
        """Return the number of validation rows; none where the model is trained on all rows."""
        return 0 if self.trained_on_all else len(self.prepared.validation)

    def validation_set(self, shape: RowShape) -> ValidationSet:
        """Return the validation rows, always in the same order."""
        examples = self._source(self.prepared.validation, shape, 0, False)
        return ValidationSet(PairSource(examples), examples.rows_per_epoch, self.bytes_per_target)

    def rows_to_check(self, shape: RowShape, longest: int) -> RowsToCheck:
        """Return rows whose texts, and scores, are different, because the loss of equal ones may be zero."""
        source = self.source(shape)
        rows = source.rows(0, min(_SEEN, source.rows_per_epoch))
        return RowsToCheck(_Given(_different(rows)), self.longest_text, [])

    def summary(self) -> str:
        """Return a line that says how many rows there are for training and for validation."""
        train = self.prepared.train
        what = "scored pair" if self.scored and self.paired else "group of texts" if self.paired else "text"
        plural = "groups of texts" if what.startswith("group") else ""
        held_out = 0 if self.trained_on_all else len(self.prepared.validation)
        negatives = sum(len(train.labels(number).get(NEGATIVES, ())) for number in range(len(train)))
        further = f", {counted(negatives, 'negative')}" if negatives else ""
        noun = counted(len(train), what, plural) if plural else counted(len(train), what)
        return (
            f"{noun} for training{further}, of {self._mean_length:.0f} tokens on average and at most "
            f"{self.longest_text} for each text; {held_out:,} for validation"
        )


class _Given:
    """Endlessly gives some rows, one after the other."""

    def __init__(self, rows: Sequence[PairRow]) -> None:
        self._rows = rows

    def rows(self, start: int, count: int) -> list[PairRow]:
        return [self._rows[number % len(self._rows)] for number in range(start, start + count)]


def _different(rows: Iterable[PairRow]) -> list[PairRow]:
    """Return the rows none of whose texts occurs in an earlier one, and among these those of different scores first."""
    seen: set[bytes] = set()
    chosen: list[PairRow] = []
    first = None
    for row in rows:
        first = first or row
        texts = {ids.tobytes() for ids in (row.anchor, row.positive)}
        if not texts & seen:
            chosen.append(row)
            seen |= texts
    scores: set[float] = set()
    fresh = [row for row in chosen if row.score not in scores and not scores.add(row.score)]
    if not math.isnan(chosen[0].score):
        numbers = {row.number for row in fresh}
        chosen = [*fresh, *(row for row in chosen if row.number not in numbers)]
    return chosen


def pair_row(example: Example) -> PairRow:
    """Return a row of the store as objectives of embeddings take it; a text alone is a pair with itself.

    Args:
        example: The row.
    """
    labels = example.labels
    parts = np.split(example.tokens, np.cumsum(labels[LENGTHS])[:-1])
    weight, score = labels.get("weight"), labels.get(TARGET)
    return PairRow(
        example.number,
        parts[0],
        parts[1] if len(parts) > 1 else parts[0],
        tuple(parts[2:]),
        1.0 if weight is None else float(weight),
        math.nan if score is None else float(score),
    )
