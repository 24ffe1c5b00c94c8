"""Measuring vectors of texts on validation rows: the trained model, the model as it came, and the letters alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import read_json, write_json
from lavra.evaluation.comparisons import LETTERS, comparison_of
from lavra.evaluation.similarity import estimates_table, to_figures
from lavra.models.heads import head_of
from lavra.tasks.base import Measured, Trained
from lavra.tasks.embedding_dataset import EmbeddingDataset
from lavra.tasks.labelled_text import UNMEASURED
from lavra.vectors.encoder import NetworkEncoder
from lavra.vectors.protocols import TextEncoder
from lavra.vectors.reading import TextReading

UNTRAINED = "untrained.json"
"""Name of the file in the folder of a run with what the model as it came says of the validation rows."""

AS_IT_CAME = "as it came"
"""What the table calls the model before its first step."""

_FEWEST = 64
"""Fewest rows that are measured, where there are as many, however short the time is."""

_MOST = 5000
"""Most rows that are measured at the end of a run: the interval is narrow then, and texts are searched among all."""


def encoder_of(trained: Trained) -> NetworkEncoder:
    """Return the model of a run as an encoder of texts.

    Args:
        trained: The model and its data.
    """
    facts, head = trained.plan.facts, head_of(trained.model)
    tokenizer = trained.dataset.tokenizer
    begin, end = tokenizer.around_source
    reading = TextReading(tokenizer, facts["head"]["context"], tuple(begin), tuple(end), facts["prompts"])
    normalise = facts["embedding"]["normalise"]
    return NetworkEncoder(
        trained.model,
        head,
        reading,
        dimensions=int(getattr(head, "width", 0)),
        fingerprint="",
        normalise=normalise,
        causal=facts["head"]["kind"] == "decoder",
    )


def write_untrained(trained: Trained) -> None:
    """Measure the model as it came on the validation rows that are measured at the end, and keep the values.

    Args:
        trained: The model, its data, and the folder of the run.
    """
    assert trained.folder is not None
    compared = comparison_of(validation_sample(trained))
    values = compared.values(*compared.vectors(encoder_of(trained)))
    write_json(trained.folder / UNTRAINED, {"rows": len(compared), "values": values.tolist()})


def validation_sample(trained: Trained, rows: int | None = None) -> list[dict[str, Any]]:
    """Return validation rows, drawn evenly from all of them.

    Args:
        trained: The model and its data.
        rows: Number of rows; None takes as many as the plan has time for.
    """
    dataset, plan = trained.dataset, trained.plan
    assert isinstance(dataset, EmbeddingDataset)
    every = list(dataset.labelled(validation=True))
    if rows is None:
        affordable = plan.evaluation_tokens // plan.context // 2  # twice: before the first step, and at the end
        rows = min(_MOST, len(every) if plan.budget_seconds is None else max(_FEWEST, affordable))
    if rows >= len(every):
        return every
    return [every[place] for place in np.linspace(0, len(every) - 1, rows).round().astype(int)]


def measure_trained(trained: Trained) -> Measured:
    """Measure a trained model at the end of its run, beside what was measured before its first step.

    Args:
        trained: The model, its data, and the folder of the run.
    """
    if not trained.dataset.validation_rows(trained.plan):
        return UNMEASURED
    before = _untrained(trained.folder)
    rows = validation_sample(trained, None if before is None else before[0])
    beside = {} if before is None else {AS_IT_CAME: before[1]}
    sizes = trained.plan.facts["embedding"]["matryoshka"]
    return measure(encoder_of(trained), rows, beside, sizes=sizes, seed=trained.plan.seed)


def measure(
    encoder: TextEncoder,
    rows: Sequence[Mapping[str, Any]],
    beside: Mapping[str, NDArray[np.float64] | TextEncoder],
    *,
    sizes: Sequence[int] = (),
    seed: int = 0,
) -> Measured:
    """Return the figures of an encoder on rows, beside those of others and of TF-IDF of letters on the same rows.

    Args:
        encoder: What makes the vectors.
        rows: The rows, see `lavra.evaluation.comparisons.comparison_of`.
        beside: Other encoders, or what they say of the rows, by their names.
        sizes: Numbers of first dimensions that are measured, too.
        seed: Seed of the bootstrap intervals.
    """
    compared = comparison_of(rows)
    vectors = compared.vectors(encoder)
    values = {"model": compared.values(*vectors)}
    for size in sizes:
        if size < encoder.dimensions:
            values[f"first {size}"] = compared.values(*compared.shortened(vectors, size))
    for name, one in beside.items():
        values[name] = one if isinstance(one, np.ndarray) else compared.values(*compared.vectors(one))
    if (letters := compared.of_letters()) is not None:
        values[LETTERS] = letters
    columns = {name: compared.estimates(of_rows, seed=seed) for name, of_rows in values.items()}
    return Measured(to_figures(columns, len(compared)), estimates_table(columns, len(compared), compared.what))


def _untrained(folder: Path | None) -> tuple[int, NDArray[np.float64]] | None:
    """Return the number of rows that were measured before the first step, and their values; None where none were."""
    if folder is None or not (folder / UNTRAINED).is_file():
        return None
    record: Any = read_json(folder / UNTRAINED)
    return record["rows"], np.array(record["values"], dtype=np.float64)
