"""Classes, labels and values of texts or tokens: cross-entropy, binary cross-entropy and squared error on a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.heads import head_of
from lavra.models.pooling import documents_of
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.base import Loss, padded_width

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Model

_ROUNDING = 1e-3
"""How far the probabilities of the classes of a text may add up to something else than 1."""

Outputs = Literal["classes", "labels", "values"]
"""What the outputs of a head are.

`classes` exclude each other, and are learned by the cross-entropy of their softmax. `labels` may hold together, and are
learned by the binary cross-entropy of each. `values` are numbers, and are learned by their squared error.
"""


@dataclass(frozen=True)
class LabelledText:
    """A text, or a part of one, with what is to be said of it.

    Attributes:
        number: Number of the text in its data set.
        tokens: Token ids, (n,), at least one.
        label: Number of the class; or a sequence of numbers, one for each output of the head: the probability of each
            class or label, or the values. For a head of tokens, (n,) classes, `IGNORED` where a token has none. None
            where nothing is known, which is then not learned.
        weight: Weight of the text in the loss, 0 or more.
        second: Index from which the tokens are of the second kind, of two texts that are read together (BERT's token
            type 1); 0 where all are of the first.
    """

    number: int
    tokens: np.ndarray
    label: int | Sequence[float] | np.ndarray | None
    weight: float = 1.0
    second: int = 0


@dataclass(frozen=True)
class Classify:
    """What a head says of each text, or of each token, against its label.

    Several texts may share a sequence. The class of a text stands in the targets of its batch at its first token, and
    those of tokens at each token, so that the targets are counted, weighted and cut like those of any other objective.
    What is no single class stands in `model_inputs["labels"]`, (sequences, texts of a sequence, outputs), and the
    target of such a text is 0. `model_inputs["token_types"]` holds the kinds of the tokens where there are two.

    Attributes:
        context: Longest sequence in tokens.
        outputs: What the outputs of the head are.
        size: Number of outputs of the head.
        tokens: Whether every token has a class (`TokenHead`); otherwise every text has (`SequenceHead`).
        class_weights: Weight of each class in the loss, such as the inverse of its frequency; None weighs all alike.
            A text of a class counts as that many texts; one with probabilities q counts as Σ q·w of them, and is
            learned as q·w. For `labels` and `values` each output is multiplied by its weight.
        label_smoothing: Share s of the probability that is taken off while the model learns: probabilities q become
            (1 - s)·q + s/size for `classes`, and (1 - s)·q + s/2 for `labels`. It has no effect on `values`.

    Raises:
        InputError: If an option is out of range.

    Examples:
        >>> text = LabelledText(0, np.array([5, 6, 7]), label=2)
        >>> batch = Classify(context=4, size=3).encode([[text]], streams=None, progress=0.0)
        >>> batch.inputs.tolist(), batch.targets.tolist(), batch.weight
        ([[5, 6, 7, 0]], [[2, -100, -100, -100]], 1.0)
    """

    context: int
    size: int
    outputs: Outputs = "classes"
    tokens: bool = False
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.outputs not in get_args(Outputs):
            raise InputError(f"a head has no {self.outputs!r}", f"choose one of {', '.join(get_args(Outputs))}")
        if self.tokens and self.outputs != "classes":
            raise InputError(f"{self.outputs} of tokens are not supported", "give each token one class")
        if self.class_weights is not None and len(self.class_weights) != self.size:
            raise InputError(
                f"{len(self.class_weights)} class weights were given for {self.size} outputs", "give one for each"
            )
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"a label smoothing of {self.label_smoothing} is not possible", "choose 0 to below 1")

    def encode(self, rows: Sequence[Sequence[LabelledText]], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each row; nothing is random.

        Args:
            rows: Texts of each sequence. Those of one sequence attend only to themselves.
            streams: Not used.
            progress: Not used.

        Raises:
            InputError: If a label does not fit the outputs of the head.
        """
        shape = (len(rows), padded_width(max(sum(len(text.tokens) for text in row) for row in rows), self.context))
        inputs, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        targets, document_ids = np.full(shape, IGNORED, dtype=np.int64), np.full(shape, -1, dtype=np.int32)
        weights = np.ones(shape, dtype=np.float32)
        labels = np.zeros((len(rows), max(map(len, rows)), self.size), dtype=np.float32)
        kinds = np.zeros(shape, dtype=np.int64)
        given = False
        for number, row in enumerate(rows):
            start = 0
            for place, text in enumerate(row):
                span = slice(start, start + len(text.tokens))
                inputs[number, span], document_ids[number, span] = text.tokens, place
                positions[number, span] = np.arange(len(text.tokens))
                if text.second:
                    kinds[number, start + text.second : span.stop] = 1
                classes, factors, numbers = self._label(text)
                targets[number, start : start + len(classes)] = classes
                weights[number, start : start + len(classes)] = text.weight * factors
                labels[number, place] = numbers
                given = given or self._is_soft(text)
                start = span.stop
        further = {"labels": torch.from_numpy(labels)} if given else {}
        if kinds.any():
            further["token_types"] = torch.from_numpy(kinds)
        batch = Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            document_ids=torch.from_numpy(document_ids),
            positions=torch.from_numpy(positions),
            weight=float((targets != IGNORED).sum()),
            documents=tuple(text.number for row in rows for text in row),
            model_inputs=further,
        )
        return batch if bool((weights == 1).all()) else batch.weighted(torch.from_numpy(weights))

    def _is_soft(self, text: LabelledText) -> bool:
        """Return whether a label is more than a class of a text or of each token."""
        return text.label is not None and not self.tokens and (self.outputs != "classes" or np.ndim(text.label) > 0)

    def _label(self, text: LabelledText) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return targets and factors on their weights, from the first token on, and the (size,) numbers of the outputs.

        The numbers of a single class are 1 at that class, for the batches in which others have probabilities.
        """
        if not len(text.tokens):
            raise InputError(f"text {text.number} has no tokens", "leave such texts out when preparing them")
        nothing = np.zeros(self.size)
        if text.label is None:
            return np.array([IGNORED]), np.ones(1), nothing
        if self._is_soft(text):
            numbers, factor = self._numbers(text)
            return np.zeros(1, np.int64), np.array([factor]), numbers
        classes = np.atleast_1d(np.asarray(text.label)).astype(np.int64)
        if not np.array_equal(classes, np.atleast_1d(text.label)):
            raise InputError(f"the class {text.label} of text {text.number} is no whole number", "give its number")
        if self.tokens and len(classes) != len(text.tokens):
            raise InputError(
                f"text {text.number} has {len(classes)} classes for {len(text.tokens)} tokens", "give one to each"
            )
        known = classes[classes != IGNORED]
        if len(known) and not 0 <= known.min() <= known.max() < self.size:
            raise InputError(
                f"text {text.number} has a class outside 0 to {self.size - 1}", "make a head with as many classes"
            )
        by_class = np.ones(self.size) if self.class_weights is None else np.array(self.class_weights)
        certain = nothing if self.tokens or classes[0] == IGNORED else np.eye(self.size)[classes[0]]
        return classes, np.where(classes == IGNORED, 1.0, by_class[classes.clip(min=0)]), certain

    def _numbers(self, text: LabelledText) -> tuple[np.ndarray, float]:
        """Return the (size,) numbers of the outputs, and the factor on the weight of the text."""
        numbers = np.atleast_1d(np.asarray(text.label, dtype=np.float64))
        if numbers.shape != (self.size,):
            raise InputError(
                f"the label of text {text.number} has {numbers.size} numbers for {self.size} outputs", "give as many"
            )
        if not np.isfinite(numbers).all():
            raise InputError(
                f"the label of text {text.number} is not finite", "leave such texts out, or label them None"
            )
        if self.outputs != "values" and not (numbers.min() >= 0 and numbers.max() <= 1):
            raise InputError(f"text {text.number} has a probability outside 0 to 1", "give probabilities")
        if self.outputs != "classes":
            return numbers, 1.0
        if abs(numbers.sum() - 1.0) > _ROUNDING:
            raise InputError(f"the probabilities of text {text.number} add up to {numbers.sum():.4g}", "make them 1")
        if self.class_weights is None:
            return numbers, 1.0
        weighted = numbers * np.array(self.class_weights)
        return weighted / max(weighted.sum(), 1e-30), float(weighted.sum())

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of the texts or tokens that have a label, each times its weight.

        The unit is the nat for classes; for labels, the mean over them in nats; for values, their mean squared error.
        Where it is only measured, the part `accuracy` sums the weights of the texts or tokens whose likeliest class is
        right, or the share of their labels that is.

        Args:
            model: Model with a head for these outputs.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.

        Raises:
            InputError: If no head is attached to the model, or it has another number of outputs.
        """
        outputs, targets, weights, labels = self._labelled(head_of(model)(model.features(batch), batch), batch)
        losses = self._losses(outputs, targets, labels, self.label_smoothing if learning else 0.0)

        def summed(values: torch.Tensor) -> torch.Tensor:
            values = values.masked_fill(targets == IGNORED, 0.0)
            return (values if weights is None else values * weights).sum()

        parts = {} if learning else {name: summed(one) for name, one in self._parts(outputs, targets, labels).items()}
        return Loss(summed(losses), batch.weight, parts)

    @property
    def head_size(self) -> int:
        """Number of outputs of the head."""
        return self.size

    def _labelled(
        self, outputs: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return the (n, size) outputs of the texts or tokens, with their targets, weights and further labels.

        Args:
            outputs: Outputs of the head.
            batch: Batch that they belong to.
        """
        if outputs.shape[-1] != self.head_size:
            raise InputError(
                f"the head has {outputs.shape[-1]} outputs where {self.head_size} are learned",
                "make a head of that size",
            )
        targets, weights = batch.targets.reshape(-1), None if batch.weights is None else batch.weights.reshape(-1)
        labels = batch.model_inputs.get("labels")
        if self.tokens:
            return outputs.reshape(-1, outputs.shape[-1]), targets, weights, None
        first = documents_of(batch).first
        if labels is not None:
            document_ids = torch.zeros_like(batch.inputs) if batch.document_ids is None else batch.document_ids
            labels = labels[first // batch.inputs.shape[1], document_ids.reshape(-1)[first].long()]
        return outputs, targets[first], None if weights is None else weights[first], labels

    def divergence(self, one: torch.Tensor, other: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return how far two outputs of the head for the same batch are apart, a () sum over what has a label.

        It is the symmetric Kullback-Leibler divergence ½·KL(p‖q) + ½·KL(q‖p) of the probabilities, for labels their
        mean, and for values the mean squared difference, each times the weight of the text or token.

        Args:
            one: Outputs of the head.
            other: Outputs of the head for the same batch.
            batch: Batch on the model's device.
        """
        one, targets, weights, _ = self._labelled(one, batch)
        other = self._labelled(other, batch)[0]
        wide = torch.promote_types(one.dtype, torch.float32)
        apart = self._apart(one.to(wide), other.to(wide)).masked_fill(targets == IGNORED, 0.0)
        return (apart if weights is None else apart * weights).sum()

    def _apart(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each text or token, (n,)."""
        if self.outputs == "values":
            return (one - other).square().mean(-1)
        if self.outputs == "labels":
            return bernoulli_divergence(one, other).mean(-1)
        one, other = one.log_softmax(-1), other.log_softmax(-1)
        return ((one.exp() - other.exp()) * (one - other)).sum(-1) / 2

    def _parts(
        self, outputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Return further (n,) figures of the texts or tokens: whether the likeliest class, or each label, is right."""
        if self.outputs == "values":
            return {}
        if self.outputs == "labels":
            given = torch.zeros_like(outputs) if labels is None else labels
            return {"accuracy": ((outputs > 0) == (given > 0.5)).float().mean(-1)}
        classes = targets if labels is None else labels.argmax(-1)
        return {"accuracy": (outputs.argmax(-1) == classes).float()}

    def _losses(
        self, outputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor | None, smoothing: float
    ) -> torch.Tensor:
        """Return the loss of each text or token, (n,), in float32 (float64 where the outputs are float64)."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if labels is None:
            return F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing)
        labels = labels.to(outputs.dtype)
        if self.outputs == "classes":
            return F.cross_entropy(outputs, labels, reduction="none", label_smoothing=smoothing)
        factors = outputs.new_tensor(self.class_weights) if self.class_weights is not None else None
        if self.outputs == "labels":
            smoothed = labels * (1.0 - smoothing) + smoothing / 2
            losses = F.binary_cross_entropy_with_logits(outputs, smoothed, weight=factors, reduction="none")
        else:
            losses = (outputs - labels).square()
            losses = losses if factors is None else losses * factors
        return losses.mean(-1)


def bernoulli_divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the symmetric divergence of the probabilities of two logits, element by element, in nats.

    It is ½·KL(p‖q) + ½·KL(q‖p) = ½·(p - q)·(logit p - logit q).

    Args:
        one: Logits.
        other: Logits of the same shape.
    """
    return (one.sigmoid() - other.sigmoid()) * (one - other) / 2
