"""How well a passage answers a query, by a model that reads both together: raw scores, which differ by margins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelColumns
from lavra.data.examples.rows import ExampleRow
from lavra.data.readers.rows import BadRows
from lavra.search.experiment import sentence_models
from lavra.search.experiment.sentence_models import kind_of, open_sentence_model
from lavra.tasks.label_predictions import outputs_of
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.training.devices import choose_device
from lavra.workflows.labels.given_rows import given_rows, task_of
from lavra.workflows.models.open import open_model


def pair_scores(model: str, pairs: Sequence[tuple[str, str]], device: str = "auto") -> NDArray[np.float64]:
    """Return the raw score of each pair, (pairs,), before any sigmoid: probabilities would flatten the margins.

    Args:
        model: A run on pairs of texts (classification, of which the last class is the answer, or regression), or a
            folder with a cross-encoder of sentence-transformers.
        pairs: Queries with passages.
        device: Device that computes.

    Raises:
        InputError: If the model reads no pairs.
    """
    if kind_of(Path(model)) == "cross-encoder":
        encoder = open_sentence_model(Path(model), "cross-encoder", choose_device(device))
        return np.asarray(sentence_models.pair_scores(encoder, pairs, raw=True), dtype=np.float64)
    return _by_our_model(model, pairs, device)


def _by_our_model(model: str, pairs: Sequence[tuple[str, str]], device: str) -> NDArray[np.float64]:
    opened = open_model(model, device)
    task, reader = task_of(opened)
    if not isinstance(reader, LabelColumns) or not reader.second or not isinstance(task, LabelledTextTask):
        raise InputError(
            f"{model} reads no pairs of texts", "train one: lavra train pairs.jsonl with text1, text2, label"
        )
    rows = [ExampleRow("pairs", f"pair {number}", query, passage) for number, (query, passage) in enumerate(pairs)]
    scores = np.full(len(pairs), np.nan)
    with given_rows(opened, rows, BadRows()) as trained:
        assert isinstance(trained.dataset, LabelledDataset)
        numbers = [row["row"] for row in trained.dataset.labelled(validation=True)]
        for place, outputs in outputs_of(trained):
            # Of two classes the logit is the difference of theirs.
            scores[numbers[place]] = float(outputs[-1] - outputs[:-1].logsumexp(0) if len(outputs) > 1 else outputs[0])
    return scores
