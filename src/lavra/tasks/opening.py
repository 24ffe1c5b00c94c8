"""Opens a folder of prepared data as the data set that it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lavra.data.examples.prepare import holds_examples, open_prepared_examples
from lavra.data.examples.store import ExampleStore
from lavra.data.token_store.prepare import HELD_OUT, open_prepared
from lavra.data.token_store.store import TokenStore
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


def open_held_out(folder: Path) -> Dataset | None:
    """Open a folder of prepared data with the half of its validation data that was kept apart as its validation data.

    Args:
        folder: A folder that a run of a sweep wrote.

    Returns:
        The data set; None where no validation data was kept apart.
    """
    if not (folder / HELD_OUT).is_dir():
        return None
    if not holds_examples(folder):
        text = open_prepared(folder)
        return TextDataset(replace(text, validation=TokenStore.open(folder / HELD_OUT)))
    examples = open_prepared_examples(folder)
    kind = LabelledDataset if examples.train.manifest.kind == "labelled" else ExampleDataset
    return kind(replace(examples, validation=ExampleStore.open(folder / HELD_OUT)))
