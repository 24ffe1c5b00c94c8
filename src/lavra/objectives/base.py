"""The contract of an objective, the loss as a sum and a weight, and the helpers that several objectives share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from lavra.models.protocols import IGNORED, Batch, logit_cap_of
from lavra.objectives.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.models.protocols import Model


MEASURED = 1.0
"""Progress with which rows are encoded that the model is only measured on; while it learns, progress is below it."""


@dataclass(slots=True)
class Loss:
    """A loss as a sum and a weight, so that micro-batches and processes add up to the loss of one big batch.

    The mean loss of a step is the total of the sums divided by the total of the weights. A mean of means would give
    the targets of a small micro-batch more weight than those of a large one.

    Attributes:
        sum: Summed loss in nats, a () float32 tensor with a gradient.
        weight: Number of targets that the sum covers, or the sum of their weights.
        parts: Further sums over the same targets by name, () tensors, such as the number of correct predictions. A
            validation divides them by the weight; while the model learns they are not looked at.
    """

    sum: torch.Tensor
    weight: float
    parts: dict[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What the model reads, what it is asked to predict, and how a prediction is scored."""

    def encode(self, rows: Sequence[Any], streams: Streams, progress: float) -> Batch:
        """Make a micro-batch of rows, which are windows of a token store or packed examples.

        Args:
            rows: Rows that the data order gives to this micro-batch.
            streams: Function from a place in `rows` to the random generator of that row. An objective may use no other
                randomness, so that a row is encoded in the same way in whatever micro-batch it comes.
            progress: Share of the run that is done, from 0 to 1, for values that follow a schedule. Rows to learn from
                come with less than `MEASURED`, and rows that are only measured with `MEASURED`.

        Returns:
            The batch, on the CPU.
        """
        ...

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed loss of one batch, whose gradient flows to the model's parameters.

        Args:
            model: Model that computes the features of the batch.
            batch: Batch that `encode` made, on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is the plain likelihood,
                without what helps learning, such as label smoothing.
        """
        ...


def group_of(objective: Any) -> int:
    """Return how many neighbouring rows of a step must share a micro-batch, because the objective mixes them.

    Args:
        objective: Objective, whose attribute `group` says so; 1 for one that has none, which works row by row.
    """
    return getattr(objective, "group", 1)


class WithEmbeddings:
    """A model whose features are computed from given input embeddings, for objectives around other objectives.

    What perturbs or mixes embeddings makes them of `model.embed(batch.inputs)` and gives this to the objective inside,
    which need not know of it. With the table's own rows it is the model itself, to the bit.

    Args:
        model: Model that computes the features, and has everything else that is asked for.
        embeddings: Input embeddings of the batch, (sequences, length, width of the embedding).

    Examples:
        >>> class Doubling:
        ...     vocabulary = 4
        ...     def features(self, batch, embeddings=None):
        ...         return 2 * embeddings
        >>> model = WithEmbeddings(Doubling(), torch.ones(1))
        >>> model.features(batch=None).item(), model.vocabulary
        (2.0, 4)
    """

    def __init__(self, model: Model, embeddings: torch.Tensor) -> None:
        self._model, self._embeddings = model, embeddings

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the features of a batch from the given embeddings, (sequences, length, width).

        Args:
            batch: Batch that the embeddings belong to.
            embeddings: Other embeddings to use in their place, from an objective further inside; None uses the given.
        """
        return self._model.features(batch, self._embeddings if embeddings is None else embeddings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


# Objectives that compare examples with each other.


@runtime_checkable
class ComparingObjective(Objective, Protocol):
    """An objective whose loss compares the examples of the whole step with each other, as contrastive learning does.

    Its loss is no sum over micro-batches, so a step embeds all of them first, compares all embeddings at once, those of
    the other processes included, and then computes each micro-batch again with the gradient at its own embeddings
    (GradCache, Gao et al. 2021, arXiv 2101.06983). N micro-batches then give what one batch of N gives, for the memory
    of one micro-batch and one more forward pass. `loss` is the comparison within one batch alone, see `compared_loss`.
    An objective around one that compares passes `embed`, `info` and `compare` on, too.
    """

    def embed(self, model: Model, batch: Batch) -> torch.Tensor:
        """Return the (rows, dimensions) embeddings of a micro-batch, with a gradient to the model's parameters.

        Args:
            model: Model that computes the features.
            batch: Batch that `encode` made, on the model's device.
        """
        ...

    def info(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return what `compare` needs to know of each row of `embed`, as (rows, …) tensors of numbers by name.

        They are put together in the order of the rows: micro-batch after micro-batch, process after process. What is
        counted within a batch (the number of a pair) must therefore be made from the whole in `compare`.

        Args:
            batch: Batch that `encode` made, on the model's device.
        """
        ...

    def compare(self, embeddings: torch.Tensor, info: dict[str, torch.Tensor], *, learning: bool = True) -> Loss:
        """Return the loss of all rows, with a gradient to their embeddings; it has no parameters of its own.

        Args:
            embeddings: Embeddings of all rows of the step, (rows, dimensions) in float32.
            info: What `info` returned, put together in the same order.
            learning: Whether the model learns from it.

        Returns:
            The summed loss, whose weight is the sum of `Batch.weight` over the batches that were put together.
        """
        ...


def compared_loss(objective: ComparingObjective, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
    """Return the loss of an objective that compares, within one batch alone.

    Args:
        objective: Objective that compares examples.
        model: Model that computes the features.
        batch: Batch on the model's device.
        learning: Whether the model learns from it.
    """
    return objective.compare(in_float32(objective.embed(model, batch)), objective.info(batch), learning=learning)


def in_float32(embeddings: torch.Tensor) -> torch.Tensor:
    """Return embeddings in the type in which they are compared: float32, or float64 where they are float64."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


# The head is computed only at the positions that have a target: it is the largest product of a small model, and most
# positions of a masked or prompted text have no target.

_WIDTH_STEP = 64
"""Lengths of batches are rounded up to a multiple of this many tokens, so that few different shapes occur."""


def padded_width(longest: int, limit: int | None, step: int = _WIDTH_STEP) -> int:
    """Return the length in tokens of a batch whose longest sequence has `longest` tokens.

    The length is rounded up to a multiple of `step`. Kernels and compiled graphs then meet few different shapes, each
    of which has code and buffers of its own.

    Args:
        longest: Tokens of the longest sequence of the batch.
        limit: Length that rounding must not exceed, usually the context of the model; None sets no limit.
        step: Number of which the length becomes a multiple.

    Examples:
        >>> padded_width(70, limit=None)
        128
        >>> padded_width(70, limit=100)
        100
    """
    width = -(-max(1, longest) // step) * step
    return width if limit is None else max(longest, min(width, limit))


def target_places(batch: Batch) -> torch.Tensor:
    """Return the (targets,) places of the positions that have a target, counted through all sequences.

    The number of targets is known beforehand, so that nothing waits for the device.

    Args:
        batch: Batch whose targets decide which positions are taken.
    """
    flat = batch.targets.reshape(-1)
    return torch.nonzero_static(flat != IGNORED, size=batch.count, fill_value=0)[:, 0]


def target_features(features: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (targets, width) features and the (targets,) ids of the positions that have a target.

    Args:
        features: Hidden states of the batch, (sequences, length, width).
        batch: Batch whose targets decide which positions are taken.
    """
    places = target_places(batch)
    return features.reshape(-1, features.shape[-1]).index_select(0, places), batch.targets.reshape(-1)[places]


def loss_at_targets(model: Model, batch: Batch, label_smoothing: float, z_loss: float = 0.0) -> Loss:
    """Return the summed cross-entropy of the batch's targets in nats, each multiplied by its weight.

    Args:
        model: Model that computes the features and owns the output projection.
        batch: Batch on the model's device.
        label_smoothing: Share of each target's probability that is spread over the vocabulary.
        z_loss: Weight of the squared logarithm of the softmax normaliser; 0 for none.
    """
    places = target_places(batch)
    features = model.features(batch)
    weight, bias = model.output_projection()
    total = summed_cross_entropy(
        features.reshape(-1, features.shape[-1]).index_select(0, places),
        weight,
        batch.targets.reshape(-1)[places],
        bias=bias,
        weights=None if batch.weights is None else batch.weights.reshape(-1)[places],
        vocabulary=model.vocabulary,
        label_smoothing=label_smoothing,
        cap=logit_cap_of(model),
        z_loss=z_loss,
    )
    return Loss(total, batch.weight)


# Windows of a token store as the rows of a batch, shared by the objectives that learn from text.


def batch_of_windows(
    rows: Sequence[Window], context: int, isolate: bool, ask: Callable[[int, Window], tuple[np.ndarray, np.ndarray]]
) -> Batch:
    """Return a batch with one sequence for each window.

    Args:
        rows: Windows of a token store. A shorter one, the last of an epoch, is padded with positions that have no
            target.
        context: Length of every sequence in tokens.
        isolate: Whether positions attend only to their own document and are counted from its beginning. Otherwise a
            window is one text.
        ask: Function from the place of a window in `rows` and the window to its (length,) inputs and (length,)
            targets.
    """
    shape = (len(rows), context)
    inputs = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    document_ids = np.full(shape, -1, dtype=np.int32)
    positions = np.zeros(shape, dtype=np.int64)
    for row, window in enumerate(rows):
        length = len(window)
        inputs[row, :length], targets[row, :length] = ask(row, window)
        if isolate:
            document_ids[row, :length], positions[row, :length] = window.document_ids, window.positions
        else:
            document_ids[row, :length], positions[row, :length] = 0, np.arange(length)
    whole = all(len(window) == context for window in rows)
    return Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        document_ids=torch.from_numpy(document_ids) if isolate or not whole else None,
        positions=torch.from_numpy(positions) if isolate or not whole else None,
        weight=float((targets != IGNORED).sum()),
        documents=tuple(int(document) for window in rows for document in np.unique(window.documents)),
    )
