"""Pooling: one vector for each document of a batch, whether documents are padded, packed, or a sequence each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.protocols import Batch

Pooling = Literal["first", "mean", "last", "max", "attention"]
"""How the features of a document become one vector.

`first` and `last` take those of one token, as BERT's [CLS] and as decoders want it; `mean` and `max` those of all
tokens; `attention` is a mean weighted by learned scores (Lin et al. 2017, arXiv 1703.03130, with one head).
"""

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch stand, in order: those of the first sequence, those of the second, ….

    Places are counted through all sequences: position p of sequence s of length L is the place s · L + p.

    Attributes:
        index: Number of the document of each place, (places,) int64; `count` where there is padding.
        first: Place of the first token of each document, (documents,) int64.
        last: Place of its last token, (documents,) int64.
    """

    index: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor

    @property
    def count(self) -> int:
        """Number of documents."""
        return len(self.first)


def documents_of(batch: Batch) -> Documents:
    """Return where the documents of a batch stand.

    On a GPU this waits for the device where documents are packed or padded, because their number depends on the values.

    Args:
        batch: Batch whose `document_ids` are -1 on padding, wherever that stands. Neighbours with one number belong to
            one document. Without `document_ids` each sequence is a document.

    Examples:
        >>> inputs = torch.zeros(1, 5, dtype=torch.int64)
        >>> found = documents_of(Batch(inputs, inputs, torch.tensor([[0, 0, 1, 1, -1]])))
        >>> found.index.tolist(), found.first.tolist(), found.last.tolist()
        ([0, 0, 1, 1, 2], [0, 2], [1, 3])
    """
    ids = torch.zeros_like(batch.inputs) if batch.document_ids is None else batch.document_ids.long()
    # What stands beside the ends of a sequence counts as padding, so that no document goes on into the next sequence.
    before, after = F.pad(ids, (1, 0), value=-1)[:, :-1], F.pad(ids, (0, 1), value=-1)[:, 1:]
    begins, ends = ((ids >= 0) & (ids != beside) for beside in (before, after))
    numbers = begins.flatten().cumsum(0) - 1
    first, last = begins.flatten().nonzero()[:, 0], ends.flatten().nonzero()[:, 0]
    return Documents(numbers.where(ids.flatten() >= 0, len(first)), first, last)


def pool(
    features: torch.Tensor, documents: Documents, pooling: Pooling, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """Return one vector for each document, (documents, width), in the type of the features.

    What stands on padding or in other documents plays no part.

    Args:
        features: Hidden states of the batch, (sequences, length, width).
        documents: Where the documents stand, see `documents_of`.
        pooling: How the features of a document become one vector.
        scores: Score of each token, (sequences, length), for `attention`: its weights are their softmax within the
            document.

    Raises:
        InputError: If there is no such pooling.
        ValueError: If `attention` is asked for without scores.

    Examples:
        >>> inputs = torch.zeros(1, 3, dtype=torch.int64)
        >>> documents = documents_of(Batch(inputs, inputs, torch.tensor([[0, 0, 1]])))
        >>> pool(torch.tensor([[[1.0], [3.0], [7.0]]]), documents, "mean").tolist()
        [[2.0], [7.0]]
    """
    flat = features.reshape(-1, features.shape[-1])
    if pooling == "first":
        return flat.index_select(0, documents.first)
    if pooling == "last":
        return flat.index_select(0, documents.last)
    if pooling == "max":
        index = documents.index[:, None].expand_as(flat)
        empty = flat.new_zeros(documents.count + 1, flat.shape[1])
        return empty.scatter_reduce(0, index, flat, "amax", include_self=False)[: documents.count]
    if pooling == "mean":
        return _mean(flat, documents, None).to(features.dtype)
    if pooling == "attention":
        if scores is None:
            raise ValueError("attention pooling needs a score of each token")
        return _mean(flat, documents, scores.reshape(-1)).to(features.dtype)
    raise InputError(f"{pooling!r} is no pooling", f"choose one of {', '.join(POOLINGS)}")


def _mean(flat: torch.Tensor, documents: Documents, scores: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of each document, weighted by the exponentials of the scores where there are some.

    Sums are taken in float32, or in float64 where the features are float64.
    """
    wide = torch.promote_types(flat.dtype, torch.float32)
    if scores is None:
        weights = torch.ones(len(flat), dtype=wide, device=flat.device)
    else:
        scores = scores.to(wide)
        highest = torch.zeros(documents.count + 1, dtype=wide, device=flat.device).scatter_reduce(
            0, documents.index, scores.detach(), "amax", include_self=False
        )
        # A softmax does not change when a constant is taken off all scores of a document; exp cannot overflow then.
        weights = (scores - highest[documents.index]).exp()

    def sums(values: torch.Tensor) -> torch.Tensor:
        empty = torch.zeros(documents.count + 1, *values.shape[1:], dtype=wide, device=flat.device)
        return empty.index_add(0, documents.index, values)[: documents.count]

    return sums(flat.to(wide) * weights[:, None]) / sums(weights)[:, None]
