"""The contract of a model: the batch that it reads, the methods of every model, and evaluation without training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch

from lavra.models.native.attention_masks import document_bounds

IGNORED = -100
"""Target of a position that has no target; -100 is also what PyTorch's cross-entropy ignores."""


PREFIX = "prefix"
"""Name in `Batch.model_inputs` of a mask of the positions that every position of their document may attend to, later
ones included, (sequences, length) bool: the prefix of a prefix language model, which stands before the rest."""

REPLACEABLE = "replaceable"
"""Name in `Batch.model_inputs` of a mask of the positions at which a model reads tokens that another one made in place
of those in `Batch.inputs`, (sequences, length) bool: the hidden tokens of replaced-token detection."""


@dataclass(slots=True)
class Batch:
    """One micro-batch, whose tensors are all on one device.

    Attributes:
        inputs: Token ids that the model reads, (sequences, length) int64.
        targets: Id to predict at each position, (sequences, length) int64; `IGNORED` where there is no target.
        document_ids: Number of the document that each position belongs to within its sequence, (sequences, length)
            int32; -1 on padding. Positions attend only to their own document. None means that each sequence is one
            document.
        positions: Position of each token in its document, counted from 0, (sequences, length) int64. None means
            0, 1, 2, … in every sequence.
        weight: Number of targets in the batch, or the sum of their weights where they have some. It is a Python number,
            so that nothing waits for the device.
        weights: Weight of each target in the loss, (sequences, length) float32, 0 or more; None counts each target
            once. What stands where there is no target plays no part. `weighted` sets them together with `weight`.
        documents: Numbers of the documents in the batch, for messages and for the record of the data used.
        model_inputs: Further tensors by name that an objective or a model needs, such as the inputs of an encoder.

    Examples:
        >>> batch = Batch(torch.tensor([[5, 6], [7, 8]]), torch.tensor([[6, IGNORED], [8, 0]]), weight=3.0)
        >>> batch.take(slice(0, 1)).weight
        1.0
        >>> batch.weighted(torch.tensor([[0.5, 9.0], [0.0, 1.0]])).weight
        1.5
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    document_ids: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    weight: float = 0.0
    documents: tuple[int, ...] = ()
    model_inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: torch.Tensor | None = None
    _count: tuple[torch.Tensor, int] | None = None
    _bounds: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def bounds(self) -> torch.Tensor | None:
        """Place where each document begins in the concatenated sequences, see `document_bounds`; None without segments.

        The bounds are computed at the first access and kept. That is best done before the batch goes to a GPU, because
        their number depends on the values and a GPU would have to be waited for.
        """
        if self.document_ids is None:
            return None
        if self._bounds is None or self._bounds[0] is not self.document_ids:
            self._bounds = self.document_ids, document_bounds(self.document_ids)
        return self._bounds[1]

    @property
    def count(self) -> int:
        """Number of targets. Where they have weights, it is counted once, best before the batch goes to a GPU."""
        if self.weights is None:
            return int(self.weight)
        if self._count is None or self._count[0] is not self.targets:
            self._count = self.targets, int((self.targets != IGNORED).sum())
        return self._count[1]

    def weighted(self, weights: torch.Tensor | None) -> Batch:
        """Return the same batch with other weights of its targets, whose sum is its `weight`.

        With weights of one the loss and its gradient are, to the bit, those without weights. A target of weight 0 is
        not learned.

        Args:
            weights: Weight of each target, (sequences, length) floats, 0 or more; None counts each target once.
        """
        batch = replace(self, weights=None if weights is None else weights.to(torch.float32))
        batch._weigh()
        return batch

    def _weigh(self) -> None:
        """Set what follows from targets and weights."""
        learned = self.targets != IGNORED
        if self.weights is None:
            self.weight = float(learned.sum())
        else:
            self.weight = float(self.weights.double().where(learned, 0.0).sum())

    def take(self, rows: slice | list[int]) -> Batch:
        """Return a batch of some of the sequences, whose weight is that of their targets.

        Args:
            rows: Slice or numbers of the sequences to take.
        """
        part = replace(
            self,
            inputs=self.inputs[rows],
            targets=self.targets[rows],
            document_ids=None if self.document_ids is None else self.document_ids[rows],
            positions=None if self.positions is None else self.positions[rows],
            model_inputs={name: tensor[rows] if tensor.dim() else tensor for name, tensor in self.model_inputs.items()},
            weights=None if self.weights is None else self.weights[rows],
        )
        part._weigh()
        return part

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device, with its bounds if they were computed.

        Args:
            device: Device to copy the tensors to. The processor does not wait for copies from pinned memory.
        """

        def move(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        moved = replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            document_ids=move(self.document_ids),
            positions=move(self.positions),
            model_inputs={name: tensor.to(device, non_blocking=True) for name, tensor in self.model_inputs.items()},
            weights=move(self.weights),
            _bounds=None,
        )
        moved._count = moved.targets, self.count
        if self._bounds is not None and self._bounds[0] is self.document_ids and moved.document_ids is not None:
            moved._bounds = moved.document_ids, self._bounds[1].to(device, non_blocking=True)
        return moved


# The methods that our decoder and every model of `transformers` have in common.


def logit_cap_of(model: object) -> float | None:
    """Return the bound to which a model caps its logits by cap · tanh(logits / cap), or None where it does not.

    Args:
        model: Model that may have the attribute `logit_cap`.

    Examples:
        >>> logit_cap_of(object()) is None
        True
    """
    return getattr(model, "logit_cap", None)


@runtime_checkable
class Model(Protocol):
    """A language model, divided into features and head as objectives need it. It is also a `torch.nn.Module`."""

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states after the final norm, (sequences, length, width).

        Args:
            batch: Batch on the device of the model.
            embeddings: Input embeddings that are used in place of the table's rows for `batch.inputs`, (sequences,
                length, width of the embedding), for techniques that perturb or mix them. `embed(batch.inputs)` gives
                the features without it, to the bit. Everything else that a model makes of ids (positions, padding,
                bigrams) is still made of `batch.inputs`.

        Raises:
            InputError: If the model cannot take embeddings in place of ids.
        """
        ...

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what the model's table of input embeddings gives for ids, (…, width of the embedding).

        Args:
            ids: Token ids, (…) int64.
        """
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, (…, vocabulary).

        Args:
            features: Hidden states as `features` returns them, (…, width).
        """
        ...

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight (padded vocabulary, width) and the bias (padded vocabulary,) or None of the head.

        Losses apply them a chunk of tokens at a time, so that the logits of a batch never exist at once.
        """
        ...

    @property
    def vocabulary(self) -> int:
        """Number of tokens that can be predicted. The rows of the projection after them are padding."""
        ...

    @property
    def context(self) -> int:
        """Largest number of tokens of a sequence."""
        ...

    def use_task_head(self) -> None:
        """Compute features for the head of a task from now on, and freeze what only predicting tokens uses."""
        ...

    def task_width(self) -> int:
        """Return the size of the features that the head of a task receives."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Yield the parameters, as every `torch.nn.Module` does."""
        ...

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the parameters with their names, as every `torch.nn.Module` does."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Enter training mode, with dropout, as every `torch.nn.Module` does."""
        ...

    def eval(self) -> Any:
        """Enter evaluation mode, without dropout, as every `torch.nn.Module` does."""
        ...


class CachedModel(Protocol):
    """A language model with a key-value cache, as generation needs it.

    `lavra.models.native.decoder.Decoder` and every model of `transformers` that writes text are such models. The latter
    may have further attributes: `beginning` and `forced` hold the decoder start tokens of an encoder-decoder, and
    `pads` is False where only rows of equal length can be read together.
    """

    @property
    def context(self) -> int:
        """Largest number of tokens of a sequence."""
        ...

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, (…, vocabulary).

        Args:
            features: Hidden states as `step` returns them, (…, width).
        """
        ...

    def new_cache(self, rows: int, length: int) -> Any:
        """Return an empty key-value cache.

        The cache has the attributes `length` (tokens stored) and `capacity`. Its method `select(rows)` keeps, copies or
        reorders rows, and `join(other, capacity)` returns a cache with the rows of both. An encoder-decoder takes the
        ids that its encoder reads for each row as a third argument.

        Args:
            rows: Number of sequences.
            length: Largest number of tokens of a sequence.
        """
        ...

    def step(self, ids: torch.Tensor, cache: Any, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Append tokens to the cache and return their features, (rows, new, width).

        Args:
            ids: Ids of the new tokens, (rows, new).
            cache: Cache of the tokens before, which is extended.
            attention_mask: False on padding, which stands on the left, (rows, new) bool; None where there is no
                padding.
        """
        ...


# Evaluation without training.


@contextmanager
def eval_mode(model: object) -> Iterator[None]:
    """Put a model into evaluation mode, without dropout, during the block, and back into its mode before.

    Gradients are not switched off. Use `torch.no_grad` for that and not `inference_mode`: tensors that a model caches
    in inference mode can never be trained with.

    Args:
        model: Model; anything that is not a `torch.nn.Module` is left alone.

    Examples:
        >>> layer = torch.nn.Dropout()
        >>> with eval_mode(layer):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    if not isinstance(model, torch.nn.Module):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def device_of(model: object) -> torch.device:
    """Return the device of the first parameter of a model, or the CPU if the model has no parameters.

    Args:
        model: Model that computes.
    """
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    return torch.device("cpu")
