"""Measuring vectors on rows: of a run on its own validation rows, and of any model on rows that are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavra.config.training import TextConfig, TrainConfig
from lavra.core.disk.files import read_json
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.examples.rows import read_examples
from lavra.data.examples.text_groups import NEGATIVES, TARGET, TextGroups
from lavra.data.readers.rows import BadRows, OnBadRow
from lavra.tasks.embedding import EmbeddingTask
from lavra.tasks.embedding_columns import columns_of
from lavra.tasks.embedding_dataset import EmbeddingDataset
from lavra.tasks.embedding_measures import AS_IT_CAME, measure
from lavra.tasks.opening import open_dataset
from lavra.vectors.protocols import TextEncoder
from lavra.vectors.sentence_folder import SentenceHead
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.embeddings.open_encoder import encoder_of, open_encoder, open_parts
from lavra.workflows.labels.evaluate import TaskEvaluation
from lavra.workflows.models.saved_base import BASE
from lavra.workflows.models.task_head import HEAD_FILE

_NAME = EmbeddingTask.name


def makes_vectors(model: str, data: Sequence[str], text_column: str, encoding: str | None = None) -> bool:
    """Return whether a model is measured by the vectors that it makes.

    That is a model that was trained for vectors; and any model that was trained for nothing else, where the columns of
    the data hold pairs of texts, and not a text.

    Args:
        model: The location of the model.
        data: The locations of the data; none for the validation rows of a run.
        text_column: Column that holds the text of plain data.
        encoding: Encoding of the files.
    """
    task = trained_task(Path(model))
    if task is not None or not data:
        return task == _NAME
    described = describe_data(TrainConfig(data=tuple(data), text=TextConfig(column=text_column, encoding=encoding)))
    if text_column in described.columns or described.prepared is not None:
        return False
    found = columns_of(described) if described.columns else None
    return found is not None and bool(found.second)


def trained_task(path: Path) -> str | None:
    """Return the name of the task whose head a model has; None for a model without a head.

    Args:
        path: A run, one of its checkpoints, or a model folder.
    """
    if is_run(path):
        plan = RunFolder(path).plan
        return plan.get("task") if "head" in plan.get("facts", {}) else None
    if path.parent.name == "checkpoints" and is_run(path.parent.parent):
        return trained_task(path.parent.parent)
    return read_json(path / HEAD_FILE)["task"] if (path / HEAD_FILE).is_file() else None


def evaluate_vectors(
    model: str,
    data: Sequence[str] = (),
    *,
    text_column: str = "text",
    device: str = "auto",
    seed: int = 0,
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
) -> TaskEvaluation:
    """Measure the vectors of a model: Spearman's and Pearson's correlation of scored pairs, retrieval of others.

    Beside the model stand, on the same rows, the base model of its run as it came, and TF-IDF vectors of letters.

    Args:
        model: The location of the model: a run, one of its checkpoints, or anything that `open_encoder` opens.
        data: Files of rows; the validation rows of the run if empty.
        text_column: Column of bare texts.
        device: Device that computes.
        seed: Seed of the bootstrap intervals.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.

    Raises:
        InputError: If the rows cannot be used, or none are given for a model without its run.
    """
    run, bad_rows = _run_of(Path(model)), BadRows(policy=on_bad_row)
    rows = rows_to_compare(data, bad_rows, text_column, encoding) if data else _own_rows(run, model)
    if bad_rows.summary():
        log(bad_rows.summary())
    encoder = open_encoder(model, device=device, precision="fp32")
    sizes = [] if run is None else run.plan.get("facts", {}).get("embedding", {}).get("matryoshka", [])
    beside: dict[str, TextEncoder] = {}
    if run is not None and (run.path / BASE).is_dir():
        beside[AS_IT_CAME] = _as_it_came(run, device)
    measured = measure(encoder, rows, beside, sizes=sizes, seed=seed)
    return TaskEvaluation(model, _NAME, measured, bad_rows.report() if data else None)


def _as_it_came(run: RunFolder, device: str) -> TextEncoder:
    """Return the base model of a run, with the pooling and the prompts with which the run began."""
    facts = run.plan["facts"]
    parts = open_parts(str(run.path / BASE), prompts=facts["prompts"])
    asked, head = facts["embedding"], facts["head"]
    parts.head = SentenceHead(head["pooling"] if asked["pooling"] == "auto" else asked["pooling"], parts.size)
    parts.normalise, parts.longest = asked["normalise"], min(parts.model.context, head["context"])
    return encoder_of(parts, device=device, precision="fp32")


def rows_to_compare(
    data: Sequence[str], bad_rows: BadRows, text_column: str = "text", encoding: str | None = None
) -> list[dict[str, Any]]:
    """Return the rows of files, as `lavra.evaluation.comparisons.comparison_of` takes them.

    Args:
        data: The locations of the files.
        bad_rows: Is filled with what is left out.
        text_column: Column of bare texts.
        encoding: Encoding of the files; None recognises it.

    Raises:
        InputError: If no row can be used.
    """
    described = describe_data(TrainConfig(data=tuple(data), text=TextConfig(column=text_column, encoding=encoding)))
    reader: TextGroups = EmbeddingTask().reader(described)
    found = []
    for row in read_examples(data, bad_rows, columns=reader, encoding=encoding):
        texts = [row.prompt, row.completion] if reader.second else [row.prompt]
        found.append({"texts": texts, **{name: row.labels.get(name) for name in (NEGATIVES, TARGET)}})
    if not found:
        raise InputError("no row can be used", bad_rows.remedy() or "give rows with pairs of texts")
    return found


def _run_of(path: Path) -> RunFolder | None:
    """Return the run that a model is of; None for a model that comes from no run for vectors."""
    if path.parent.name == "checkpoints":
        path = path.parent.parent
    return RunFolder(path) if is_run(path) and trained_task(path) == _NAME else None


def _own_rows(run: RunFolder | None, model: str) -> list[dict[str, Any]]:
    if run is None:
        raise InputError(f"{model} keeps no rows of its own", "say what to measure on: --data FILES")
    dataset = open_dataset(data_folder(request_of(run), run.path))
    assert isinstance(dataset, EmbeddingDataset)
    return list(dataset.labelled(validation=True))
