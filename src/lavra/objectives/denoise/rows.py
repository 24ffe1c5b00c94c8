"""From windows of a token store to batches of laid-out texts: the parts of documents, their rows, and their room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavra.models.protocols import IGNORED, PREFIX, Batch
from lavra.objectives.base import padded_width
from lavra.objectives.denoise.layouts import Laid

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window

ROW_STEP = 8
"""Lengths of rows are rounded up to a multiple of this many tokens. Most rows are a few tokens longer than a window, so
that the usual step would pad them by a fifth."""


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a document that a window holds.

    Attributes:
        tokens: Ids of its text, without the token that ends the document, (length,); it may be empty.
        ended: Whether the document ends with it.
        before: Id that a causal model reads before it: what begins a document, or the token before the window.
        end: Id that ends documents.
    """

    tokens: np.ndarray
    ended: bool
    before: int
    end: int

    @property
    def whole(self) -> np.ndarray:
        """The ids with the token that ends the document, where it ends; at least one."""
        return np.append(self.tokens, self.end) if self.ended else self.tokens


def parts_of(window: Window, isolate: bool, end: int) -> list[Part]:
    """Return the parts of documents in a window, in order; the whole window as one part where they share it.

    Args:
        window: Window of a token store.
        isolate: Whether each document is a text of its own.
        end: Id that ends documents.
    """
    tokens = window.tokens[1:]
    borders = np.flatnonzero(np.diff(window.document_ids)) + 1 if isolate else np.zeros(0, np.int64)
    found = []
    for start, stop in zip([0, *borders.tolist()], [*borders.tolist(), len(window)], strict=True):
        ended = bool(tokens[stop - 1] == end)
        found.append(Part(tokens[start : stop - ended], ended, int(window.inputs[start]), end))
    return found


def batch_of_parts(
    windows: Sequence[Window],
    streams: Streams,
    lay_out: Callable[[Part, np.random.Generator], Laid],
    context: int,
    end: int,
    *,
    isolate: bool,
) -> Batch:
    """Return a batch with one sequence for each window, which holds the laid-out parts of its documents.

    Args:
        windows: Windows of a token store.
        streams: Function from a place in `windows` to the random generator of that window.
        lay_out: Function that makes of a part what a model reads and predicts.
        context: Tokens of a whole window.
        end: Id that ends documents.
        isolate: Whether each document is a text of its own.
    """
    laid = []
    for place, window in enumerate(windows):
        stream = streams(place)
        laid.append([lay_out(part, stream) for part in parts_of(window, isolate, end)])
    return batch_of_laid(windows, laid, context, isolate=isolate)


def batch_of_laid(windows: Sequence[Window], laid: Sequence[Sequence[Laid]], context: int, *, isolate: bool) -> Batch:
    """Return a batch with one sequence for each window, which holds its laid-out texts one after the other.

    A row is as long as it must be and at least `context`. It may be longer than the model's context, because positions
    are counted in each text.

    Args:
        windows: Windows of a token store.
        laid: The texts of each window.
        context: Tokens of a whole window.
        isolate: Whether the texts of a window attend only to themselves. Otherwise each window is one text.
    """
    length = max(sum(len(one) for one in row) for row in laid)
    shape = (
        len(laid),
        context if length <= context and laid[0][0].source is None else padded_width(length, None, ROW_STEP),
    )
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    document_ids, positions = np.full(shape, -1, np.int32), np.zeros(shape, np.int64)
    prefix = np.zeros(shape, bool)
    for number, row in enumerate(laid):
        start = 0
        for text, one in enumerate(row):
            span = slice(start, start + len(one))
            inputs[number, span], targets[number, span] = one.inputs, one.targets
            document_ids[number, span], positions[number, span] = text, np.arange(len(one))
            prefix[number, start : start + one.prefix] = True
            start = span.stop
    plain = not isolate and all(sum(len(one) for one in row) == shape[1] for row in laid)
    extra = {PREFIX: torch.from_numpy(prefix)} if prefix.any() else {}
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        document_ids=None if plain else torch.from_numpy(document_ids),
        positions=None if plain else torch.from_numpy(positions),
        weight=float((targets != IGNORED).sum()),
        documents=tuple(int(document) for window in windows for document in np.unique(window.documents)),
        model_inputs=extra | encoder_side(laid),
    )


def encoder_side(laid: Sequence[Sequence[Laid]]) -> dict[str, torch.Tensor]:
    """Return what an encoder reads, by the names in `Batch.model_inputs`; nothing for a decoder alone.

    Args:
        laid: The texts of each row.
    """
    sources = [[one.source for one in row if one.source is not None] for row in laid]
    if not sources[0]:
        return {}
    longest = max(sum(len(one) for one in row) for row in sources)
    shape = (len(sources), padded_width(longest, None, ROW_STEP))
    inputs, document_ids = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
    positions = np.zeros(shape, np.int64)
    for number, row in enumerate(sources):
        start = 0
        for text, one in enumerate(row):
            span = slice(start, start + len(one))
            inputs[number, span], document_ids[number, span] = one, text
            positions[number, span] = np.arange(len(one))
            start = span.stop
    sides = {"inputs": inputs, "document_ids": document_ids, "positions": positions}
    return {f"encoder_{name}": torch.from_numpy(side) for name, side in sides.items()}
