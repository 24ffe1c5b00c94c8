"""Exports a model with a head for the labels of texts as a folder that `pipeline("text-classification")` opens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from lavra.core.errors import CorruptFile, InputError
from lavra.core.progress import log
from lavra.data.examples.rows import ExampleRow, read_examples
from lavra.data.readers.rows import BadRows, OnBadRow
from lavra.models.certificate import SENTENCES
from lavra.models.head_certificate import HeadCertificate, certify_texts
from lavra.tasks.label_predictions import outputs_of
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.opening import open_dataset
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.export.classifier_tokenizer import ready_tokenizer
from lavra.workflows.export.heads import write_sequence_class
from lavra.workflows.labels.given_rows import given_rows, task_of
from lavra.workflows.models.open import OpenModel
from lavra.workflows.models.task_head import write_head

COMPARED_TEXTS = 16
"""Number of texts whose outputs are compared."""


def compared_texts(
    opened: OpenModel, data: Sequence[str], on_bad_row: OnBadRow = "skip", encoding: str | None = None
) -> list[list[str]]:
    """Return texts on which an exported model is compared: given ones, validation texts of the run, or sentences.

    Args:
        opened: The model.
        data: Files of rows; those of the run if empty.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.

    Returns:
        Each text, or the two texts of each pair.

    Raises:
        InputError: If the files hold no row that can be used.
    """
    _, reader = task_of(opened)
    found: list[list[str]] = []
    if data:
        bad_rows = BadRows(policy=on_bad_row)
        rows = islice(read_examples(data, bad_rows, columns=reader, encoding=encoding), COMPARED_TEXTS)
        found = [[row.prompt, row.completion] if row.completion else [row.prompt] for row in rows]
        if not found:
            raise InputError("there is no row to compare on", bad_rows.remedy() or "check the --data locations")
    elif opened.run is not None:
        found = _validation_texts(opened)
    pair = bool(getattr(reader, "second", ""))
    found = found or [[one, other] if pair else [one] for one, other in zip(SENTENCES, SENTENCES[::-1], strict=True)]
    size = max(map(len, found))
    return [one for one in found if len(one) == size]


def _validation_texts(opened: OpenModel) -> list[list[str]]:
    """Return the first validation texts of the run of a model; none where its data is gone, which is said."""
    assert opened.run is not None
    try:
        dataset = open_dataset(data_folder(request_of(opened.run), opened.run.path))
    except (InputError, CorruptFile) as error:
        log(f"compared on sentences that come with lavra, because the data of the run is missing: {error.message}")
        return []
    if not isinstance(dataset, LabelledDataset):
        return []
    return [row["texts"] for row in islice(dataset.labelled(validation=True), COMPARED_TEXTS)]


def write_classifier(opened: OpenModel, folder: Path, texts: Sequence[Sequence[str]]) -> HeadCertificate:
    """Turn the folder of a language model into one of a classifier, and compare it on texts in a fresh process.

    Args:
        opened: The model, with its head.
        folder: Hugging Face folder with the weights of the model and its tokenizer, which is changed.
        texts: Each text, or the two texts of each pair.

    Returns:
        The comparison.

    Raises:
        InputError: If no class of `transformers` holds such a head.
        LavraError: If the other process fails.
    """
    assert opened.task is not None
    name, facts = opened.task
    task = cast(LabelledTextTask, task_of(opened)[0])
    told = facts["head"].get("context", opened.model.context) if opened.run is None else opened.run.plan["context"]
    encoder = getattr(opened.model, "kind", "decoder") != "decoder"
    context = min(opened.model.context, int(told))
    pad, new_pad = ready_tokenizer(folder, opened.tokenizer, context, encoder=encoder)
    write_sequence_class(folder, opened.model, facts, task.outputs, pad, new_pad)
    write_head(folder, opened.model, {}, name, facts)
    rows = [ExampleRow("", f"text {number}", *(*text, "")[:2], labels={}) for number, text in enumerate(texts)]
    bad_rows = BadRows(policy="error")
    with given_rows(opened, rows, bad_rows) as trained, torch.no_grad():
        found: dict[int, Any] = dict(outputs_of(trained))
        tokens = int(cast(LabelledDataset, trained.dataset).prepared.validation.lengths().sum())
    ours = torch.stack([found[number] for number in range(len(texts))])
    if task.outputs == "values":
        ours = task.probabilities(facts, ours)
    return certify_texts(ours.float(), folder, texts, tokens)
