"""The parts of long texts: which belong to one row of the data, and what a model says of the tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from lavra.core.progress import Progress
from lavra.core.seeds import numpy_stream, row_streams
from lavra.data.examples.labelled import LabelledTokens
from lavra.data.examples.store import Example
from lavra.models.heads import head_of
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import device_of, eval_mode
from lavra.objectives.classify import Classify, LabelledText
from lavra.tasks.base import TRIAL_SHARE, Trained
from lavra.training.deadline import amount_in_time

Part = Example | LabelledTokens
"""A text, or a window of one, as ids with what is known of it: from a store, or as a reader of rows encodes it. Its
labels `window` and `windows` are its number among the parts of its row, and how many these are."""

Said = TypeVar("Said")

_TOKENS_AT_ONCE = 8192
"""Tokens of the texts that are computed at once, padding included."""

_LEAST_ROWS = 8
"""Fewest rows that are measured, however slow the machine is."""


def validation_parts(trained: Trained) -> list[list[Part]]:
    """Return the validation rows in the order of their store, each as its parts.

    Args:
        trained: The model and its data.
    """
    found = trained.dataset.validation_set(trained.plan)
    examples = [example for row in found.source.rows(0, found.rows) for example in row.examples]
    rows: list[list[Part]] = []
    for example in sorted(examples, key=lambda one: one.number):
        if not example.labels.get("window"):
            rows.append([])
        rows[-1].append(example)
    return rows


def outputs_of_tokens(
    model: Decoder | HFModel, parts: Sequence[Part], make: Callable[[Part, torch.Tensor], Said]
) -> list[Said]:
    """Return what is made of the outputs of the head for each part, in the order of the parts.

    Parts of like length are computed together, one in each sequence.

    Args:
        model: Model with a head that says something of each token; it computes in evaluation mode.
        parts: The parts.
        make: Function of a part and its (tokens, outputs) float32 outputs on the CPU.
    """
    said: dict[int, Said] = {}
    device = device_of(model)
    order = sorted(range(len(parts)), key=lambda number: len(parts[number].tokens))
    with Progress("predicting", len(parts), "texts") as progress, eval_mode(model), torch.no_grad():
        while order:
            longest = len(parts[order[-1]].tokens)
            numbers = [order.pop() for _ in range(min(len(order), max(1, _TOKENS_AT_ONCE // longest)))]
            texts = [
                LabelledText(number, one.tokens, None, second=int(one.labels.get("second_type_from", 0)))
                for number, one in ((number, parts[number]) for number in numbers)
            ]
            # Nothing is learned, so that the number of outputs plays no part; the longest fills its sequence.
            batch = Classify(longest, 1).encode([[text] for text in texts], row_streams(0, "validation", first=0), 1.0)
            batch = batch.to(device)
            outputs = head_of(model)(model.features(batch), batch).float().cpu()
            for number, of_text in zip(numbers, outputs, strict=True):
                said[number] = make(parts[number], of_text[: len(parts[number].tokens)])
            progress.update(len(said))
    return [said[number] for number in range(len(parts))]


def rows_in_time(
    trained: Trained, rows: Sequence[list[Part]], measure: Callable[[Sequence[list[Part]]], object]
) -> list[list[Part]]:
    """Return the rows that can be measured in the time that is left: all of them, or some, drawn at random.

    Args:
        trained: The model, with the moment by which it should be measured.
        rows: The rows.
        measure: Function that measures some of them.
    """
    drawn = [rows[number] for number in numpy_stream(0, "measured rows").permutation(len(rows))]
    amount = amount_in_time(
        len(drawn),
        trained.deadline,
        lambda count: measure(drawn[:count]),
        trial=max(1, len(drawn) // TRIAL_SHARE),
        least=min(len(drawn), _LEAST_ROWS),
    )
    return list(rows) if amount == len(rows) else drawn[:amount]
