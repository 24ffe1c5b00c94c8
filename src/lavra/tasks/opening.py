"""Opens a folder of prepared data as the data set that it is."""

from __future__ import annotations

from pathlib import Path

from lavra.data.examples.prepare import holds_examples, open_prepared_examples
from lavra.data.token_store.prepare import open_prepared
from lavra.tasks.datasets import Dataset, ExampleDataset, TextDataset
from lavra.tasks.embedding_dataset import EmbeddingDataset
from lavra.tasks.labelled_dataset import LabelledDataset


def open_dataset(folder: Path) -> Dataset:
    """Open a folder of prepared text or examples.

    Args:
        folder: A folder that `lavra prepare` or a training run wrote.

    Returns:
        The data set.

    Raises:
        InputError: If it is not such a folder.
        CorruptFile: If a file is missing or cut short.
    """
    if holds_examples(folder):
        prepared = open_prepared_examples(folder)
        if prepared.train.manifest.kind != "labelled":
            return ExampleDataset(prepared)
        return (EmbeddingDataset if prepared.report.get("texts_apart") else LabelledDataset)(prepared)
    return TextDataset(open_prepared(folder))
