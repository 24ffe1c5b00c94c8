"""Heads: what turns the features of a model into the outputs of a task. A head owns its weights and its pooling.

A head is attached to a model (`attach_head`) and from then on learns, is saved and is frozen like any part of it. It
works on the features of our decoder and on those of every model of `transformers`.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.pooling import POOLINGS, Pooling, documents_of, pool
from lavra.models.protocols import Batch, Model, device_of

ATTRIBUTE = "task_head"
"""Name of the submodule of a model that is its head; the names of its parameters begin with it."""

_SPREAD = 0.02
"""Standard deviation of fresh weights, as in BERT (Devlin et al. 2018)."""


class Head(nn.Module):
    """Base class of heads: a module whose `state_dict` is its weights, and a specification of a few plain values.

    A subclass names its `kind` and stores in `options` what its constructor takes after the width.

    Args:
        width: Size of the features, see `width_of`; 0 for a head without weights of its own.
        options: The other arguments of the constructor, as JSON values.

    Attributes:
        kind: Name of the head in its specification.
        width: Size of the features.
        options: The other arguments of the constructor.
    """

    kind: str

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__()
        self.width, self.options = width, options

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the outputs of the task.

        Args:
            features: Hidden states of the batch, (sequences, length, width).
            batch: Batch that the features belong to; it says where documents and padding stand.
        """
        raise NotImplementedError

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: small random matrices, and biases of zero.

        Args:
            generator: Random generator on the device of the weights; None takes the global one.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=_SPREAD, generator=generator)

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON values, from which `head_from_dict` builds a head of the same shape."""
        return {"kind": self.kind, "width": self.width, **self.options}


class LMHead(Head):
    """The head that every model has: its output projection. It owns no weights.

    Args:
        model: Model whose projection it is.
    """

    kind = "lm"

    def __init__(self, model: Model) -> None:
        super().__init__(0)
        self._model = (model,)  # in a tuple, so that the model does not become a part of its own head

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the logits, (sequences, length, vocabulary)."""
        return self._model[0].head(features)


class SequenceHead(Head):
    """Classes, labels or values of a document: pooling, dropout, and a linear layer.

    `pooled` and `outputs` are its two halves, between which vectors of documents can be mixed.

    Args:
        width: Size of the features.
        classes: Number of outputs of a document.
        pooling: How the features of a document become one vector.
        dropout: Dropout probability of the vector, from 0 to below 1.
        bias: Whether the linear layer has a bias.

    Attributes:
        dropout_samples: Number of dropout masks that are drawn for each vector while the model learns; its outputs are
            the mean over them (multi-sample dropout, Inoue 2019, arXiv 1905.09788, with the mean of logits). 1 is plain
            dropout. It is no part of the specification: the trained head is the same.

    Examples:
        >>> head = SequenceHead(8, classes=3, pooling="last")
        >>> head(torch.zeros(2, 5, 8), Batch(torch.zeros(2, 5), torch.zeros(2, 5))).shape
        torch.Size([2, 3])
        >>> head.to_dict()
        {'kind': 'sequence', 'width': 8, 'classes': 3, 'pooling': 'last', 'dropout': 0.0, 'bias': True}
    """

    kind = "sequence"

    def __init__(
        self, width: int, classes: int, pooling: Pooling = "mean", dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__(width, classes=_positive("classes", classes), pooling=pooling, dropout=dropout, bias=bias)
        self.pooler = _Pooler(width, pooling)
        self.output = self._layer(width, classes)
        self.dropout_samples = 1

    def _layer(self, width: int, classes: int) -> nn.Module:
        return nn.Linear(width, classes, bias=self.options["bias"])

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the outputs of each document, (documents, classes)."""
        return self.outputs(self.pooled(features, batch))

    def pooled(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the vector of each document, (documents, width).

        Args:
            features: Hidden states of the batch, (sequences, length, width).
            batch: Batch that the features belong to.
        """
        return self.pooler(features, batch)

    def outputs(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the outputs of documents from their vectors, (documents, classes), with dropout while learning.

        Args:
            vectors: Vectors of documents, (documents, width).
        """
        probability, samples = self.options["dropout"], self.dropout_samples
        if samples == 1 or not (self.training and probability):
            return self.output(F.dropout(vectors, probability, self.training))
        # The layer is linear: the mean of its outputs is its output for the mean of the vectors.
        return self.output(F.dropout(vectors.expand(samples, *vectors.shape), probability).mean(0))


class OrdinalHead(SequenceHead):
    """Ranks of a document: whether it lies above each threshold between two ranks (CORAL, Cao et al. 2020, 1901.07884).

    All thresholds share one vector of weights and have a bias each. The biases are read in descending order, to which
    they converge anyway, so that the probability of lying above a threshold never rises from one to the next.

    Args:
        width: Size of the features.
        classes: Number of ranks, at least 2.
        pooling: How the features of a document become one vector.
        dropout: Dropout probability of the vector, from 0 to below 1.

    Examples:
        >>> head = OrdinalHead(8, classes=5)
        >>> head(torch.zeros(2, 5, 8), Batch(torch.zeros(2, 5), torch.zeros(2, 5))).shape
        torch.Size([2, 4])
    """

    kind = "ordinal"

    def _layer(self, width: int, classes: int) -> nn.Module:
        if classes < 2:
            raise InputError(f"{classes} rank has no threshold", "choose at least 2 classes")
        return _Thresholds(width, classes - 1)


class _Thresholds(nn.Module):
    """One score, and a bias for each threshold."""

    def __init__(self, width: int, thresholds: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(thresholds))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.score(vectors) + self.bias.sort(descending=True, stable=True).values


class TokenHead(Head):
    """Classes of every token: dropout and a linear layer.

    Args:
        width: Size of the features.
        classes: Number of outputs of a token.
        dropout: Dropout probability of the features, from 0 to below 1.
    """

    kind = "token"

    def __init__(self, width: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__(width, classes=_positive("classes", classes), dropout=dropout)
        self.output = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the outputs of each token, (sequences, length, classes)."""
        return self.output(F.dropout(features, self.options["dropout"], self.training))


class SpanHead(Head):
    """Where a span begins and where it ends: two scores of every token (Devlin et al. 2018, section 4.2).

    Args:
        width: Size of the features.
        dropout: Dropout probability of the features, from 0 to below 1.
    """

    kind = "span"

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__(width, dropout=dropout)
        self.output = nn.Linear(width, 2)

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the scores of each token as beginning and end, (sequences, length, 2); minus infinity on padding."""
        scores = self.output(F.dropout(features, self.options["dropout"], self.training))
        return (
            scores if batch.document_ids is None else scores.masked_fill(batch.document_ids[..., None] < 0, -torch.inf)
        )


class EmbeddingHead(Head):
    """A vector for each document: pooling, an optional linear layer, and an optional division by the length.

    Args:
        width: Size of the features.
        pooling: How the features of a document become one vector.
        normalise: Whether vectors have the length 1, so that their dot product is the cosine.
        dimensions: Size of the vectors, by a linear layer without bias; None keeps the width and needs no layer.

    Examples:
        >>> head = EmbeddingHead(4)
        >>> head(torch.ones(2, 5, 4), Batch(torch.zeros(2, 5), torch.zeros(2, 5))).tolist()
        [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    """

    kind = "embedding"

    def __init__(
        self, width: int, pooling: Pooling = "mean", normalise: bool = True, dimensions: int | None = None
    ) -> None:
        super().__init__(width, pooling=pooling, normalise=normalise, dimensions=dimensions)
        self.pooler = _Pooler(width, pooling)
        self.output = None if dimensions is None else nn.Linear(width, _positive("dimensions", dimensions), bias=False)

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the vector of each document, (documents, dimensions) in float32 (float64 where the features are).

        Similarities are divided by small temperatures, which would magnify the rounding of bf16.
        """
        vectors = self.pooler(features, batch)
        if self.output is not None:
            vectors = self.output(vectors)
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        return F.normalize(vectors, dim=-1) if self.options["normalise"] else vectors


class _Pooler(nn.Module):
    """Pooling with the scores that `attention` needs."""

    def __init__(self, width: int, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise InputError(f"{pooling!r} is no pooling", f"choose one of {', '.join(POOLINGS)}")
        self.pooling: Pooling = pooling
        self.scores = nn.Linear(width, 1, bias=False) if pooling == "attention" else None

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        scores = None if self.scores is None else self.scores(features)[..., 0]
        return pool(features, documents_of(batch), self.pooling, scores)


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise InputError(f"a head with {number} {name} has no output", f"choose at least 1 for {name}")
    return number


HEADS: dict[str, type[Head]] = {
    head.kind: head for head in (LMHead, SequenceHead, OrdinalHead, TokenHead, SpanHead, EmbeddingHead)
}
"""Heads by their kind; a head of one's own is added here by `HEADS[MyHead.kind] = MyHead`."""


def head_from_dict(spec: dict[str, Any], model: Model | None = None) -> Head:
    """Return a head of the shape that `Head.to_dict` wrote, whose weights are still to be loaded or initialized.

    Args:
        spec: Specification of the head, as JSON values.
        model: Model whose output projection an `LMHead` is; other heads need none.

    Raises:
        InputError: If there is no such head, or an option of it is unknown or missing.

    Examples:
        >>> head_from_dict({"kind": "token", "width": 8, "classes": 5}).output.weight.shape
        torch.Size([5, 8])
    """
    options = {name: value for name, value in spec.items() if name != "kind"}
    kind = spec.get("kind")
    if kind not in HEADS:
        raise InputError(f"there is no head called {kind!r}", f"choose one of {', '.join(HEADS)}")
    if kind == LMHead.kind:
        if model is None:
            raise InputError("the head of a language model needs its model", "give the model that it belongs to")
        return LMHead(model)
    try:
        return cast("Any", HEADS[kind])(**options)
    except TypeError as error:
        raise InputError(f"the specification of the {kind} head is damaged: {error}", "write it anew") from error


def width_of(model: Model) -> int:
    """Return the size of the features that a task's head receives from a model.

    It is that of the last hidden states, which differs from the width of the output projection in a few families.

    Args:
        model: Model that computes the features.
    """
    return model.task_width()


def attach_head(model: Model, head: nn.Module) -> None:
    """Make a head a part of a model, on its device, in place of the head that was attached before.

    From then on the features of a model of `transformers` are its last hidden states, without what its language-model
    head does before the projection. What only predicting tokens uses is frozen: the output projection, unless it shares
    its weight with the embedding. The parameters of the head are named `task_head.…` among those of the model.

    Args:
        model: Model that computes the features; a `torch.nn.Module`.
        head: Head to attach: a `Head`, or any module that is called with the features and their batch.

    Raises:
        InputError: If the head is made for features of another size.
    """
    width = getattr(head, "width", 0)
    if width and width != width_of(model):
        raise InputError(
            f"a head for features of {width} does not fit a model whose features are {width_of(model)}",
            "make the head with the width of the model",
        )
    if not isinstance(head, LMHead):
        model.use_task_head()
    setattr(model, ATTRIBUTE, head.to(device_of(model)))


def detach_head(model: Any) -> None:
    """Take the head of a task from a model, whose features are then those of its language-model head again.

    Args:
        model: Model with a head, or without one.
    """
    if getattr(model, ATTRIBUTE, None) is not None:
        delattr(model, ATTRIBUTE)
    model.for_task_head = False


def head_of(model: Any) -> nn.Module:
    """Return the head that is attached to a model.

    Args:
        model: Model, or anything that passes its attribute `task_head` on.

    Raises:
        InputError: If none is attached.
    """
    head = getattr(model, ATTRIBUTE, None)
    if head is None:
        raise InputError("the model has no head for this task", "attach one, or train with the task that makes one")
    return head
