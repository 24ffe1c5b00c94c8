"""Sliding windows over documents: every token is a target exactly once, with as much context as the stride allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.documents import Documents
from lavra.models.batch import IGNORED, Batch


@dataclass(frozen=True)
class Windows:
    """Windows of documents; all arrays are (windows,) int64.

    Attributes:
        document: number of the document.
        start: first target of the window, counted in its document.
        length: targets in the window, and as many inputs.
        scored: how many of its last targets are scored; those before are context, scored by an earlier window.
    """

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    scored: NDArray[np.int64]


def plan_windows(lengths: NDArray[np.int64], context: int, stride: int) -> Windows:
    """Cover documents of these lengths with windows.

    The first window of a document scores all its targets (at most `context`); window k begins at target `k * stride`
    and scores only the targets that no window before it reached. So a token has at least `context - stride` tokens of
    its own document before it in its window, where the document has that many.

    Args:
        lengths: (documents,) tokens of each document.
        context: longest window.
        stride: targets between the starts of two windows.

    Returns:
        The windows, longest first, so that a batch too large for the memory is met at once.

    Raises:
        InputError: unless 1 <= stride <= context.
    """
    if not 1 <= stride <= context:
        raise InputError(
            f"the stride is {stride} and the context {context}",
            "choose a stride from 1 to the context; half of it is usual",
        )
    counts = 1 + -(-np.maximum(0, lengths - context) // stride)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * stride
    end = np.minimum(start + context, lengths[document])
    scored = end - np.where(number == 0, 0, start - stride + context)
    order = np.argsort(start - end, kind="stable")
    return Windows(document[order], start[order], (end - start)[order], scored[order])


def make_batch(
    documents: Documents, windows: Windows, numbers: slice, length: int | None = None
) -> tuple[Batch, NDArray[np.int64]]:
    """Cut some windows into one batch, padded on the right to `length`, or to the longest of them.

    The input before a document's first token is the one that documents begin with in training too. Padding has segment
    -1 and `IGNORED` targets; so have context tokens the latter. Without padding there are no segments.

    Returns:
        The batch on the CPU, and (rows,) the document of each row.
    """
    document, start = windows.document[numbers], windows.start[numbers]
    lengths, scored = windows.length[numbers, None], windows.scored[numbers, None]
    column = np.arange(length or lengths.max())
    place = (documents.starts[document] + start)[:, None] + np.minimum(column, lengths - 1)
    real = column < lengths
    targets = documents.tokens[place].astype(np.int64)
    inputs = documents.tokens[np.maximum(place - 1, 0)].astype(np.int64)
    inputs[:, 0] = np.where(start == 0, documents.bos, inputs[:, 0])
    inputs[~real] = documents.bos
    targets[~real | (column < lengths - scored)] = IGNORED
    batch = Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        segments=None if real.all() else torch.from_numpy(np.where(real, 0, -1).astype(np.int32)),
        weight=float(scored.sum()),
    )
    return batch, document
