"""Nats of the validation text under a model, counted alike for every side.

The validation stream is every document with an end-of-document token after it. It is cut into windows of the
context that do not overlap; each token of the stream, the end-of-document tokens too, is predicted once, from the
tokens before it in its window and the one token before the window (an end-of-document token before the first). So
the peers see all that they saw in training, the end of the document before included; lavra, which keeps documents
apart, sees at most as much. Bits per byte divide by the bytes of the original text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """From (rows, length) inputs and targets to the sum of the negative log-likelihoods."""

ROWS = 16
"""Windows scored at once."""


def windows(tokens: np.ndarray, before: int, context: int, rows: int = ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows, context) inputs and targets that predict each token once; fewer rows and a short one at the end.

    Args:
        tokens: (tokens,) the stream.
        before: the id that stands before it.
        context: targets of a window.
        rows: windows at once.
    """
    stream = np.concatenate([[before], tokens]).astype(np.int64)
    whole = len(tokens) // context
    for start in range(0, whole, rows):
        places = np.arange(start, min(start + rows, whole))[:, None] * context + np.arange(context)
        yield stream[places], stream[places + 1]
    if len(tokens) % context:
        yield stream[None, whole * context : -1], stream[None, whole * context + 1 :]


def bits_per_byte(nats: float, size: int) -> float:
    """Return nats over ln 2 over the bytes of the text."""
    return nats / math.log(2) / size


def total_nats(measure: Measure, text: Path, context: int, rows: int = ROWS) -> float:
    """Return the nats of the validation stream of a prepared folder.

    Args:
        measure: of one batch of windows.
        text: the folder, with `val.bin` and `text.json`.
        context: of the windows.
        rows: windows at once.
    """
    import torch

    tokens = np.fromfile(text / "val.bin", dtype=np.uint16)
    before = json.loads((text / "text.json").read_text())["end_of_document"]
    total = 0.0
    with torch.inference_mode():
        for inputs, targets in windows(tokens, before, context, rows):
            total += float(measure(torch.from_numpy(inputs), torch.from_numpy(targets)))
    return total


def of_logits(logits: Callable[[torch.Tensor], torch.Tensor]) -> Measure:
    """Return the measure of a model that gives (rows, length, vocabulary) logits for (rows, length) ids."""
    from torch.nn import functional as F

    def measure(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        values = logits(inputs).float()
        return F.cross_entropy(values.flatten(0, 1), targets.flatten().to(values.device), reduction="sum")

    return measure


def report(nats: float, block_parameters: int) -> None:
    """Print what a scoring command is asked for."""
    print(json.dumps({"nats": nats, "block_parameters": block_parameters}))
