"""The file of a table of predictions: one Parquet file, `{id, fold, seed, weight, label_probs, p_1, …, p_K}`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.disk.files import write_atomically
from lavra.core.errors import CorruptFile, InputError
from lavra.evaluation.labels.predictions import NO_FOLD, Predictions

PREDICTIONS = "predictions.parquet"
"""Name of the file in the folder of a run."""

FORMAT = 1
"""Version of the file's layout."""

_KEY = b"lavra.predictions"  # key of the description in the metadata of the schema
_AGAIN = "predict again, or bring the file back from a copy"


def write_predictions(path: Path, table: Predictions) -> None:
    """Write a table as one Parquet file, which appears whole or not at all.

    A row without a known target has a null in `label_probs`, and one without a fold a null in `fold`. The names of the
    classes and the kind stand in the metadata of the schema. The numbers are kept to the bit.

    Args:
        path: The file to write; one that is there is replaced.
        table: The table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = table.known
    columns: dict[str, Any] = {
        "id": pa.array(table.ids, pa.string()),
        "fold": pa.array(table.folds, pa.int64(), mask=table.folds == NO_FOLD),
        "seed": pa.array(table.seeds, pa.int64()),
        "weight": pa.array(table.weights, pa.float64()),
        "label_probs": pa.array(
            [row if there else None for row, there in zip(table.targets.tolist(), known.tolist(), strict=True)],
            pa.list_(pa.float64()),
        ),
    }
    for number in range(len(table.classes)):
        columns[f"p_{number + 1}"] = pa.array(table.probabilities[:, number], pa.float64())
    description = {"format": FORMAT, "kind": table.kind, "classes": list(table.classes)}
    whole = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(description, ensure_ascii=False).encode()})
    buffer = pa.BufferOutputStream()
    pq.write_table(whole, buffer, compression="zstd")
    write_atomically(path, buffer.getvalue().to_pybytes())


def read_predictions(path: Path) -> Predictions:
    """Return the table in a file that `write_predictions` wrote.

    Args:
        path: The file.

    Raises:
        CorruptFile: If the file is missing or damaged, or holds something else.
        InputError: If another version of lavra wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        whole = pq.read_table(path)
        description = json.loads((whole.schema.metadata or {})[_KEY])
        version = description["format"]
        if version == FORMAT:
            return _table(whole, description)
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing", _AGAIN) from error
    except (OSError, KeyError, TypeError, ValueError, InputError, pa.ArrowException) as error:
        said = error.message if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise CorruptFile(f"{path} is no table of predictions, or it is damaged: {said}", _AGAIN) from error
    raise InputError(f"{path} has the layout {version!r} of another version of lavra", "predict again")


def _table(whole: Any, description: dict[str, Any]) -> Predictions:
    size = len(description["classes"])
    rows = whole.column("label_probs").to_pylist()
    targets = np.array([[np.nan] * size if row is None else row for row in rows], dtype=np.float64)
    columns = [whole.column(f"p_{number + 1}").to_numpy() for number in range(size)]
    return Predictions(
        ids=whole.column("id").to_pylist(),
        targets=targets.reshape(len(rows), size),
        probabilities=np.column_stack(columns).astype(np.float64),
        classes=description["classes"],
        kind=description["kind"],
        folds=whole.column("fold").fill_null(NO_FOLD).to_numpy(),
        seeds=whole.column("seed").to_numpy(),
        weights=whole.column("weight").to_numpy(),
    )
