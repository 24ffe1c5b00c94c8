"""Spans: where an answer begins and where it ends, by the cross-entropy of both over the tokens of its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.pooling import Documents, documents_of
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss
from lavra.objectives.classify import Classify, LabelledText

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Model


@dataclass(frozen=True)
class Span:
    """The first and the last token of an answer, among all tokens of its text (Devlin et al. 2018, section 4.2).

    Several texts may share a sequence: each has a softmax of its own. The label of a text is `(first, last)`, counted
    from its own first token; (0, 0) says that it holds no answer. A text whose label is None is not learned. Both
    numbers stand in `model_inputs["spans"]`, (sequences, texts of a sequence, 2), and the target of a text at its first
    token is 0.

    Attributes:
        context: Longest sequence in tokens.
        label_smoothing: Share of the probability that is spread over the tokens of the text while the model learns.

    Raises:
        InputError: If an option is out of range.

    Examples:
        >>> import numpy as np
        >>> text = LabelledText(0, np.array([5, 6, 7]), label=(1, 2))
        >>> batch = Span(context=4).encode([[text]], streams=None, progress=0.0)
        >>> batch.model_inputs["spans"].tolist(), batch.targets.tolist(), batch.weight
        ([[[1, 2]]], [[0, -100, -100, -100]], 1.0)
    """

    context: int
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"a label smoothing of {self.label_smoothing} is not possible", "choose 0 to below 1")

    def encode(self, rows: Sequence[Sequence[LabelledText]], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each row; nothing is random.

        Args:
            rows: Texts of each sequence, with spans as their labels. Those of one sequence attend only to themselves.
            streams: Not used.
            progress: Not used.

        Raises:
            InputError: If a span does not lie in its text.
        """
        spans = torch.zeros(len(rows), max(map(len, rows)), 2, dtype=torch.int64)
        known = []
        for number, row in enumerate(rows):
            for place, text in enumerate(row):
                if text.label is not None:
                    spans[number, place] = torch.tensor(_span(text))
            known.append([replace(text, label=None if text.label is None else 0) for text in row])
        batch = Classify(self.context, 1).encode(known, streams, progress)
        batch.model_inputs["spans"] = spans
        return batch

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of the texts that have a label, in nats, each times its weight.

        The loss of a text is the mean of those of its first and its last token. Where it is only measured, the part
        `accuracy` sums the weights of the texts both of whose tokens have the highest score of all.

        Args:
            model: Model with a `SpanHead`.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.

        Raises:
            InputError: If no head with two outputs is attached to the model.
        """
        scores = head_of(model)(model.features(batch), batch)
        if scores.shape[-1] != 2:
            raise InputError(f"the head has {scores.shape[-1]} outputs, not a beginning and an end", "make a SpanHead")
        documents = documents_of(batch)
        scores = scores.reshape(-1, 2).to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.where((documents.index < documents.count)[:, None], 0.0)  # they are minus infinity on padding
        asked = documents.first[:, None] + self._spans(batch, documents)
        right = scores.gather(0, asked)
        highest = _highest(scores.detach(), documents)
        sums = _sums((scores - highest[documents.index]).exp(), documents)
        losses = sums[: documents.count].log() + highest[: documents.count] - right
        if learning and self.label_smoothing:
            means = _sums(scores, documents)[: documents.count] / lengths_of(documents)[:, None]
            losses = losses + self.label_smoothing * (right - means)
        targets = batch.targets.reshape(-1)[documents.first]
        weights = None if batch.weights is None else batch.weights.reshape(-1)[documents.first]

        def summed(values: torch.Tensor) -> torch.Tensor:
            values = values.masked_fill(targets == IGNORED, 0.0)
            return (values if weights is None else values * weights).sum()

        parts = {}
        if not learning:
            parts["accuracy"] = summed((right == highest[: documents.count]).all(-1).to(scores.dtype))
        return Loss(summed(losses.mean(-1)), batch.weight, parts)

    @staticmethod
    def uninformed_loss(batch: Batch) -> float:
        """Return the mean loss of scores that are all equal: the logarithm of the tokens of each text that is learned.

        Args:
            batch: Batch that `encode` made.
        """
        documents = documents_of(batch)
        learned = batch.targets.reshape(-1)[documents.first] != IGNORED
        return float(lengths_of(documents)[learned].double().log().mean())

    @staticmethod
    def _spans(batch: Batch, documents: Documents) -> torch.Tensor:
        """Return the (texts, 2) first and last token of each text's answer."""
        ids = torch.zeros_like(batch.inputs) if batch.document_ids is None else batch.document_ids
        row = documents.first // batch.inputs.shape[1]
        return batch.model_inputs["spans"][row, ids.reshape(-1)[documents.first].long()]


def lengths_of(documents: Documents) -> torch.Tensor:
    """Return the (documents,) numbers of tokens, for documents without gaps.

    Args:
        documents: Where the documents of a batch stand.
    """
    return documents.last - documents.first + 1


def _highest(scores: torch.Tensor, documents: Documents) -> torch.Tensor:
    """Return the (documents + 1, 2) highest scores of each document, and after them that of padding."""
    empty = scores.new_zeros(documents.count + 1, 2)
    return empty.scatter_reduce(0, documents.index[:, None].expand_as(scores), scores, "amax", include_self=False)


def _sums(values: torch.Tensor, documents: Documents) -> torch.Tensor:
    """Return the (documents + 1, 2) sums over each document, and after them that over padding."""
    return values.new_zeros(documents.count + 1, 2).index_add(0, documents.index, values)


def _span(text: LabelledText) -> list[int]:
    first, last = (int(number) for number in text.label)  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType, reportOptionalIterable]
    if not 0 <= first <= last < len(text.tokens):
        raise InputError(
            f"text {text.number} of {len(text.tokens)} tokens has an answer from token {first} to {last}",
            "count the tokens from 0, and give the last one no smaller a number than the first",
        )
    return [first, last]
