"""Windows of a token store as the rows of a batch, shared by the objectives that learn from text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavra.models.batch import IGNORED, Batch

if TYPE_CHECKING:
    from lavra.data.packing import Window


def batch_of_windows(
    rows: Sequence[Window], context: int, isolate: bool, ask: Callable[[int, Window], tuple[np.ndarray, np.ndarray]]
) -> Batch:
    """Lay windows out as rows; a shorter one (the last of an epoch) is filled up with ignored positions.

    Args:
        rows: the windows.
        context: length of a row.
        isolate: positions see only their own document and count from its beginning; otherwise a window is one text.
        ask: from the number and the window of a row to its (length,) inputs and targets.
    """
    shape = (len(rows), context)
    inputs = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int32)
    positions = np.zeros(shape, dtype=np.int64)
    for row, window in enumerate(rows):
        length = len(window)
        inputs[row, :length], targets[row, :length] = ask(row, window)
        if isolate:
            segments[row, :length], positions[row, :length] = window.segments, window.positions
        else:
            segments[row, :length], positions[row, :length] = 0, np.arange(length)
    whole = all(len(window) == context for window in rows)
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        segments=torch.from_numpy(segments) if isolate or not whole else None,
        positions=torch.from_numpy(positions) if isolate or not whole else None,
        weight=float((targets != IGNORED).sum()),
        documents=tuple(int(document) for window in rows for document in np.unique(window.documents)),
    )
