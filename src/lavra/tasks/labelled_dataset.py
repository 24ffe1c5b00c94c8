"""The data set of a labelled task: texts with what is to be said of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lavra.data.examples.prepare import PreparedExamples
from lavra.data.examples.store import ExampleStore
from lavra.tasks.datasets import DataDescription, Dataset, ExampleDataset, RowShape

_TEXTS_AT_ONCE = 32
"""Texts of an optimiser step, which is what fine-tuning on labels is usually done with."""

_TEXTS_IN_ROW = 4
"""Texts of average length that a row has room for at least, so that little of it is padding."""

_MULTIPLE = 64
"""The number of tokens of which the length of a row is a multiple."""


class LabelledDataset(ExampleDataset):
    """Texts with further columns, of which several share a row where the model can keep them apart.

    Args:
        prepared: The example stores for training and validation, and the tokenizer.
    """

    rows = "labelled"

    def __init__(self, prepared: PreparedExamples) -> None:
        super().__init__(prepared)
        self.bytes = prepared.train.manifest.learned_bytes
        stores = [prepared.train, prepared.validation, *prepared.held_out]
        longest = max(int(store.lengths().max()) for store in stores)
        wanted = max(longest, round(_TEXTS_IN_ROW * self._mean_length))
        most = self.context or longest
        self.context = max(longest, min(most, -(-wanted // _MULTIPLE) * _MULTIPLE))

    @property
    def _mean_length(self) -> float:
        return float(self.prepared.train.lengths().mean())

    @property
    def trained_on_all(self) -> bool:
        """Whether all rows are training rows, so that none is left to measure on."""
        return bool(self.prepared.report.get("trained_on_all"))

    @property
    def longest_text(self) -> int | None:
        """Largest number of tokens of a text, where a row holds several that are read apart; None elsewhere."""
        return None

    def validation_rows(self, shape: RowShape) -> int:
        """Return the number of validation rows; none where the model is trained on all rows."""
        return 0 if self.trained_on_all else super().validation_rows(shape)

    def batch_tokens(self, shape: RowShape) -> int:
        """Return the tokens of a step on some 32 texts, in whole rows."""
        in_row = shape.context / self._mean_length if shape.isolate else 1.0
        return max(1, round(_TEXTS_AT_ONCE / in_row)) * shape.context

    @property
    def description(self) -> DataDescription:
        """The names of the columns, from which a task is chosen."""
        return DataDescription(frozenset(self.prepared.train.labels(0)), prepared=self.rows)

    @property
    def columns_read(self) -> dict[str, Any]:
        """What reads the rows, as plain values (`LabelReader.to_json`)."""
        return self.prepared.report["columns_read"]

    def labels(self, name: str, *, validation: bool = False) -> list[Any]:
        """Return the values of a column over the training texts, or over those of validation; None where it is absent.

        Args:
            name: Name of the column.
            validation: Whether to take the validation texts.
        """
        return [row.get(name) for row in self.labelled(validation=validation)]

    def labelled(self, *, validation: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the columns of the training texts, or of those of validation, with the texts themselves as `texts`.

        Args:
            validation: Whether to take the validation texts.
        """
        store = self._store(validation)
        for number in range(len(store)):
            yield store.labels(number)

    def _store(self, validation: bool) -> ExampleStore:
        return self.prepared.validation if validation else self.prepared.train

    def first_ids(self) -> np.ndarray:
        """Return the ids of the first training text."""
        return self.prepared.train[0].tokens

    def summary(self) -> str:
        """Return a line that says how many texts there are for training and for validation."""
        train, validation = self.prepared.train.manifest, self.prepared.validation.manifest
        held_out = 0 if self.trained_on_all else validation.examples
        return (
            f"{train.examples:,} labelled texts for training, of {self._mean_length:.0f} tokens on average and at most "
            f"{int(self.prepared.train.lengths().max())}; {held_out:,} for validation"
        )

    def samples(self, count: int) -> list[tuple[str, str]]:
        """Return nothing: no text follows these rows."""
        return []


def leaks_of(dataset: Dataset) -> dict[str, Any]:
    """Return as `leaks` how many validation rows stand in the training rows too (`lavra.data.leaks.Leaks.to_json`).

    It is nothing for other data, and for rows that lavra divided itself, which are kept apart.

    Args:
        dataset: The data set.
    """
    found = dataset.prepared.report.get("leaks") if isinstance(dataset, LabelledDataset) else None
    return {} if found is None else {"leaks": found}
