"""The likelihood of documents under a model: every token scored once, and no logits kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lavra.core.errors import InputError, LavraError
from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import Progress, say
from lavra.evaluation.documents import Documents
from lavra.evaluation.results import LikelihoodResult
from lavra.models.contract import IGNORED, Batch, device_of, evaluating, logit_cap_of
from lavra.objectives.base import padded_width
from lavra.objectives.cross_entropy import token_losses

if TYPE_CHECKING:
    from lavra.models.contract import Model

# Sliding windows over documents: every token is a target exactly once, with as much context as the stride allows.


@dataclass(frozen=True)
class Windows:
    """Windows of documents; all arrays are (windows,) int64.

    Attributes:
        document: number of the document.
        start: first target of the window, counted in its document.
        length: targets in the window, and as many inputs.
        scored: how many of its last targets are scored; those before are context, scored by an earlier window.
    """

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    scored: NDArray[np.int64]


def plan_windows(lengths: NDArray[np.int64], context: int, stride: int) -> Windows:
    """Cover documents of these lengths with windows.

    The first window of a document scores all its targets (at most `context`); window k begins at target `k * stride`
    and scores only the targets that no window before it reached. So a token has at least `context - stride` tokens of
    its own document before it in its window, where the document has that many.

    Args:
        lengths: (documents,) tokens of each document.
        context: longest window.
        stride: targets between the starts of two windows.

    Returns:
        The windows, longest first, so that a batch too large for the memory is met at once.

    Raises:
        InputError: unless 1 <= stride <= context.
    """
    if not 1 <= stride <= context:
        raise InputError(
            f"the stride is {stride} and the context {context}",
            "choose a stride from 1 to the context; half of it is usual",
        )
    counts = 1 + -(-np.maximum(0, lengths - context) // stride)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = number * stride
    end = np.minimum(start + context, lengths[document])
    scored = end - np.where(number == 0, 0, start - stride + context)
    order = np.argsort(start - end, kind="stable")
    return Windows(document[order], start[order], (end - start)[order], scored[order])


def make_batch(
    documents: Documents, windows: Windows, numbers: slice, length: int | None = None
) -> tuple[Batch, NDArray[np.int64]]:
    """Cut some windows into one batch, padded on the right to `length`, or to the longest of them.

    The input before a document's first token is the one that documents begin with in training too. Padding has segment
    -1 and `IGNORED` targets; so have context tokens the latter. Without padding there are no segments.

    Returns:
        The batch on the CPU, and (rows,) the document of each row.
    """
    document, start = windows.document[numbers], windows.start[numbers]
    lengths, scored = windows.length[numbers, None], windows.scored[numbers, None]
    column = np.arange(length or lengths.max())
    place = (documents.starts[document] + start)[:, None] + np.minimum(column, lengths - 1)
    real = column < lengths
    targets = documents.tokens[place].astype(np.int64)
    inputs = documents.tokens[np.maximum(place - 1, 0)].astype(np.int64)
    inputs[:, 0] = np.where(start == 0, documents.bos, inputs[:, 0])
    inputs[~real] = documents.bos
    targets[~real | (column < lengths - scored)] = IGNORED
    batch = Batch(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        segments=None if real.all() else torch.from_numpy(np.where(real, 0, -1).astype(np.int32)),
        weight=float(scored.sum()),
    )
    return batch, document


# The likelihood of documents under a model: every token scored once, and no logits kept.

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65536
"""Tokens of a batch. More does not run faster and takes memory; on a GPU less leaves the device waiting."""

_TARGETS = 256
"""The targets of a batch are filled up to a multiple of these."""


def likelihood(
    model: Model,
    documents: Documents,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
) -> LikelihoodResult:
    """Measure the negative log-likelihood of documents under a model.

    Documents never see each other. Before the first token of each the model reads the token that its tokenizer begins
    texts with, or else an end-of-document token; its own end-of-document token is a target too, so the nll is that of
    the texts and of where they end. The model computes in its own precision (or that of an `autocast` around the call);
    its logits are turned to float32 before the softmax and the sums are float64. On a CPU the result is the same in
    every run; the batch's size moves it by rounding only.

    Args:
        model: any model of the contract; it is put into evaluation mode and back.
        documents: what to measure on.
        context: tokens of a window; the model's own context by default.
        stride: tokens between windows, half the context by default. 1 gives every token the longest possible context
            and costs `context / 2` times the default.
        batch_tokens: tokens of a batch, padding included; halved by itself when memory runs out.
        seed: of the bootstrap over documents.

    Raises:
        InputError: for no documents, a stride out of range, or a context that is longer than the model's.
        LavraError: when not even one window fits into memory.
    """
    if not len(documents):
        raise InputError("there is no document to evaluate on", "check the --data locations")
    context = _check_context(model, context)
    stride = max(1, context // 2) if stride is None else stride
    windows = plan_windows(documents.lengths, context, stride)
    device = device_of(model)
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS)
    start = time.perf_counter()
    with evaluating(model), torch.no_grad():
        nll = _score(model, documents, windows, device, batch_tokens)
    seconds = time.perf_counter() - start
    return LikelihoodResult.of(documents, nll, context=context, stride=stride, seconds=seconds, seed=seed)


@dataclass(slots=True)
class _Scored:
    """Token likelihoods still on the device, and the rows and documents that they belong to."""

    nll: torch.Tensor
    rows: NDArray[np.int64]
    documents: NDArray[np.int64]

    def add_to(self, totals: NDArray[np.float64]) -> None:
        per_row = np.bincount(self.rows, self.nll.cpu().double().numpy(), minlength=len(self.documents))
        np.add.at(totals, self.documents, per_row)


def _score(
    model: Model, documents: Documents, windows: Windows, device: torch.device, batch_tokens: int
) -> NDArray[np.float64]:
    """Return (documents,) summed nll. A batch's numbers are fetched after the next is launched, so no device waits."""
    totals = np.zeros(len(documents))
    done, waiting = 0, None
    with Progress("evaluating", float(windows.scored.sum()), "tokens") as progress:
        while done < len(windows.length):
            longest = int(windows.length[done])
            length = padded_width(longest, int(windows.length[0]), step=8 if longest <= 64 else 32)
            rows = min(max(1, batch_tokens // length), len(windows.length) - done)
            numbers = slice(done, done + rows)
            scored = _try(model, documents, windows, numbers, length, device)
            if scored is None:
                batch_tokens = _smaller(rows, length)
                continue
            if waiting is not None:
                waiting.add_to(totals)
            waiting = scored
            done += rows
            progress.advance(float(windows.scored[numbers].sum()))
    if waiting is not None:
        waiting.add_to(totals)
    return totals


def _try(
    model: Model, documents: Documents, windows: Windows, numbers: slice, length: int, device: torch.device
) -> _Scored | None:
    """Score one batch; None when memory ran out (returned, so that the failed batch's tensors are released)."""
    try:
        batch, owners = make_batch(documents, windows, numbers, length)
        wanted = np.flatnonzero(batch.targets.numpy().ravel() != IGNORED)
        places = np.pad(wanted, (0, -len(wanted) % _TARGETS), mode="edge")
        batch, chosen = batch.to(device), torch.from_numpy(places).to(device)
        features = model.features(batch).flatten(0, 1)[chosen]
        weight, bias = model.output_projection()
        targets = batch.targets.flatten()[chosen]
        cap = logit_cap_of(model)
        nll = token_losses(features, weight, targets, bias=bias, vocabulary=model.vocabulary, cap=cap)
        return _Scored(nll[: len(wanted)], wanted // length, owners)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _smaller(rows: int, length: int) -> int:
    """Return half the batch in tokens, after memory ran out on `rows` windows of `length`."""
    if rows == 1:
        raise LavraError(
            f"evaluation ran out of memory on a single window of {length} tokens",
            "choose a shorter context, or a machine or device with more memory",
        )
    release_memory()
    say(f"evaluating: out of memory with {rows} windows at once; going on with {rows // 2}")
    return rows // 2 * length


def _check_context(model: Model, context: int | None) -> int:
    if context is None:
        return model.context
    if not 1 <= context <= model.context:
        raise InputError(
            f"a context of {context} tokens was asked for; this model reads 1 to {model.context} tokens",
            "choose a context in that range",
        )
    return context
