"""The parts of long texts: which belong to one row of the data, and what a model says of the tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from lavra.core.progress import Progress
from lavra.core.seeds import numpy_stream, row_streams
from lavra.core.units import counted
from lavra.data.examples.labelled import LabelledTokens
from lavra.data.examples.store import Example
from lavra.models.heads import head_of
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import device_of, eval_mode
from lavra.objectives.classify import Classify, LabelledText
from lavra.tasks.base import TRIAL_SHARE, Measured, Trained

Part = Example | LabelledTokens
"""A text, or a window of one, as ids with what is known of it: from a store, or as a reader of rows encodes it. Its
labels `window` and `windows` are its number among the parts of its row, and how many these are."""

Said = TypeVar("Said")

_TOKENS_AT_ONCE = {"cpu": 2048}
"""Tokens of the texts that are computed at once, by device, padding included: a processor is busy with few, and the
fewer texts are computed together, the less of them is padding."""
_TOKENS_ELSEWHERE = 8192

_LEAST_ROWS = 8
"""Fewest rows that are measured, however slow the machine is."""

_GROWTH = 4
"""How many times as many rows are measured next, at most: the speed of a few short rows says little of many."""


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
    at_once = _TOKENS_AT_ONCE.get(device.type, _TOKENS_ELSEWHERE)
    order = sorted(range(len(parts)), key=lambda number: len(parts[number].tokens))
    with Progress("predicting", len(parts), "texts") as progress, eval_mode(model), torch.no_grad():
        while order:
            longest = len(parts[order[-1]].tokens)
            numbers = [order.pop() for _ in range(min(len(order), max(1, at_once // longest)))]
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


def said_in_time(
    trained: Trained, rows: Sequence[list[Part]], say: Callable[[Sequence[list[Part]]], Sequence[Said]]
) -> tuple[list[list[Part]], list[Said]]:
    """Return the rows for which something could be said in the time that is left, and what was said of each.

    They are all rows, or some that are drawn at random, in their order. The time is measured on a small part of the
    rows first, and again on larger ones; nothing is computed twice.

    Args:
        trained: The model, with the moment by which it should be measured.
        rows: The rows.
        say: Function that says something of each of some rows.
    """
    deadline = trained.deadline
    if deadline is None:
        return list(rows), list(say(rows))
    drawn = numpy_stream(0, "measured rows").permutation(len(rows)).tolist()
    said, amount = dict[int, Said](), min(len(rows), max(_LEAST_ROWS, len(rows) // TRIAL_SHARE))
    while amount:
        part = drawn[len(said) : len(said) + amount]
        begun = deadline.clock()
        said |= zip(part, say([rows[number] for number in part]), strict=True)
        seconds = (deadline.clock() - begun) / amount
        in_time = int(max(0.0, deadline.seconds_left) / max(seconds, 1e-9))
        amount = min(in_time, _GROWTH * amount, len(rows) - len(said))
    order = sorted(said)
    return [rows[number] for number in order], [said[number] for number in order]


def in_part(measured: Measured, rows: int, every: int, noun: str) -> Measured:
    """Return figures with a sentence on how many of the validation rows they were measured on, where not on all.

    Args:
        measured: The figures.
        rows: Number of rows that were measured.
        every: Number of rows that there are.
        noun: What a row is.
    """
    if rows == every:
        return measured
    told = (
        f"on {rows:,} of {counted(every, noun)}, drawn at random, to keep to the time; lavra evaluate measures on all"
    )
    return replace(measured, table=f"{measured.table}\n({told})")
