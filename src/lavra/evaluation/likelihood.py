"""The likelihood of documents under a model: every token scored once, and no logits kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lavra.core.errors import InputError, LavraError
from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import Progress, log
from lavra.core.seeds import numpy_stream
from lavra.evaluation.documents import Documents
from lavra.evaluation.results import LikelihoodResult
from lavra.models.protocols import IGNORED, Batch, device_of, eval_mode, logit_cap_of
from lavra.objectives.base import padded_width
from lavra.objectives.cross_entropy import token_losses

if TYPE_CHECKING:
    from lavra.models.protocols import Model

# Sliding-window evaluation, known as strided perplexity: every token is scored exactly once, with at least
# `context - stride` tokens before it where its document has that many. The smaller the stride, the more context and the
# more computation.


@dataclass(frozen=True)
class Windows:
    """Windows of documents; all arrays are (windows,) int64.

    Attributes:
        document: Number of the document that each window belongs to.
        start: Place of each window's first target in its document.
        length: Number of targets, and of inputs, of each window.
        scored: Number of targets at the end of each window that are scored. The targets before them are context: an
            earlier window scored them.
    """

    document: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    scored: NDArray[np.int64]


def plan_windows(lengths: NDArray[np.int64], context: int, stride: int) -> Windows:
    """Return windows that cover documents of the given lengths, so that every token is scored exactly once.

    The first window of a document scores all its targets. Window k begins at target `k * stride` and scores only the
    targets that no window before it reached.

    Args:
        lengths: Number of tokens of each document, (documents,).
        context: Length of the longest window in tokens.
        stride: Tokens between the starts of consecutive windows.

    Returns:
        The windows, longest first, so that a batch that is too large for the memory comes first.

    Raises:
        InputError: If the stride is below 1 or above the context.

    Examples:
        >>> windows = plan_windows(np.array([5]), context=4, stride=2)
        >>> windows.start.tolist(), windows.length.tolist(), windows.scored.tolist()
        ([0, 2], [4, 3], [4, 1])
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
    """Return some of the windows as one batch, padded on the right.

    The input before the first token of a document is the token that documents begin with in training. Padding belongs
    to document -1, and both padding and context have `IGNORED` targets. Without padding, `document_ids` is None.

    Args:
        documents: Documents that the windows were planned for.
        windows: Windows of the documents.
        numbers: Slice of the windows that the batch takes.
        length: Length in tokens to which the sequences are padded; None takes the longest window of the batch.

    Returns:
        The batch on the CPU, and the document number of each sequence, (sequences,).
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
        document_ids=None if real.all() else torch.from_numpy(np.where(real, 0, -1).astype(np.int32)),
        weight=float(scored.sum()),
    )
    return batch, document


# The scoring itself. Only the positions with a target go through the head, and no logits are kept.

CPU_BATCH_TOKENS = 2048
"""Tokens of a batch on a CPU and on a GPU. Larger batches are no faster and take more memory; smaller ones leave a GPU
waiting."""
GPU_BATCH_TOKENS = 65536

_GROUP_BATCHES = 8
"""Batches of documents that are scored together, longest first, where an evaluation may be stopped."""

_TARGETS = 256
"""The number of scored targets of a batch is padded to a multiple of this one, so that few different shapes occur."""


def likelihood(
    model: Model,
    documents: Documents,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
    stop: Callable[[], bool] | None = None,
) -> LikelihoodResult:
    """Measure the negative log-likelihood of documents under a model.

    Documents are scored independently. Before the first token of a document the model reads the token with which its
    tokenizer begins texts, or else an end-of-document token. The end-of-document token is a target too, so that the
    likelihood is that of the texts and of where they end. The model computes in its own precision, or in that of an
    `autocast` around the call; its logits become float32 before the softmax, and the sums are float64. On a CPU the
    result is the same in every run, and the size of the batches changes it only by rounding.

    Args:
        model: Model to evaluate. It is put into evaluation mode and back.
        documents: Documents to measure on.
        context: Length of the windows in tokens; None takes the context of the model.
        stride: Tokens between the starts of consecutive windows; None takes half the context. A stride of 1 gives
            every token the longest possible context and costs `context / 2` times as much as the default.
        batch_tokens: Tokens of a batch, padding included; None chooses by the device. It is halved whenever memory
            runs out.
        seed: Seed of the bootstrap over documents, and of the order in which they are scored where `stop` is given.
        stop: Asked after each batch whether to end here, with the documents scored by then. They are a random sample,
            because the documents are then scored in a random order, in groups; the first group is always finished.
            None scores all documents.

    Returns:
        The measures with their intervals, overall and for each source, and the likelihood of each document.

    Raises:
        InputError: If there are no documents, the stride is out of range, or the context is longer than the model's.
        LavraError: If not even one window fits into memory.
    """
    if not len(documents):
        raise InputError("there is no document to evaluate on", "check the --data locations")
    context = _check_context(model, context)
    stride = max(1, context // 2) if stride is None else stride
    device = device_of(model)
    size = _BatchSize(batch_tokens or (CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS))
    scored: list[NDArray[np.int64]] = []
    losses: list[NDArray[np.float64]] = []
    start = time.perf_counter()
    progress = Progress("evaluating", float(documents.lengths.sum()), "tokens")
    with eval_mode(model), torch.no_grad(), progress:
        for group in _groups(documents, stop and _GROUP_BATCHES * size.tokens, seed):
            some = documents.select(group)
            windows = plan_windows(some.lengths, context, stride)
            nll = _score(model, some, windows, device, size, progress, stop if scored else None)
            if nll is None:
                break
            scored.append(group)
            losses.append(nll)
    seconds = time.perf_counter() - start
    numbers = np.concatenate(scored)
    order = np.argsort(numbers)
    return LikelihoodResult.of(
        documents if len(numbers) == len(documents) else documents.select(numbers[order]),
        np.concatenate(losses)[order],
        context=context,
        stride=stride,
        seconds=seconds,
        seed=seed,
        drawn_from=len(documents),
    )


@dataclass(slots=True)
class _BatchSize:
    """Tokens of a batch, padding included; it becomes smaller where memory runs out."""

    tokens: int


def _groups(documents: Documents, tokens: int | None, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield numbers of documents: all at once, or in a random order in groups of about as many tokens as given."""
    if tokens is None:
        yield np.arange(len(documents))
        return
    order = numpy_stream(seed, "order of evaluation").permutation(len(documents))
    group = np.cumsum(documents.lengths[order]) // tokens
    yield from np.split(order, np.flatnonzero(np.diff(group)) + 1)


@dataclass(slots=True)
class _Scored:
    """Token losses that may still be computed on the device, and the sequences and documents that they belong to."""

    nll: torch.Tensor
    rows: NDArray[np.int64]
    documents: NDArray[np.int64]

    def add_to(self, totals: NDArray[np.float64]) -> None:
        per_row = np.bincount(self.rows, self.nll.cpu().double().numpy(), minlength=len(self.documents))
        np.add.at(totals, self.documents, per_row)


def _score(
    model: Model,
    documents: Documents,
    windows: Windows,
    device: torch.device,
    size: _BatchSize,
    progress: Progress,
    stop: Callable[[], bool] | None,
) -> NDArray[np.float64] | None:
    """Return the summed negative log-likelihood of each document in nats, (documents,); None when it was stopped.

    The losses of a batch are copied from the device only after the next batch was launched, so that a GPU never waits
    for the processor.
    """
    totals = np.zeros(len(documents))
    done, waiting = 0, None
    while done < len(windows.length):
        if stop is not None and stop():
            return None
        longest = int(windows.length[done])
        length = padded_width(longest, int(windows.length[0]), step=8 if longest <= 64 else 32)
        rows = min(max(1, size.tokens // length), len(windows.length) - done)
        numbers = slice(done, done + rows)
        scored = _try(model, documents, windows, numbers, length, device)
        if scored is None:
            size.tokens = _smaller(rows, length)
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
    """Score one batch, or return None where memory ran out.

    It returns and does not raise, so that no traceback holds on to the tensors of the failed batch.
    """
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
    """Return half the size of the batch in tokens, after memory ran out with `rows` windows of `length` tokens."""
    if rows == 1:
        raise LavraError(
            f"evaluation ran out of memory on a single window of {length} tokens",
            "choose a shorter context, or a machine or device with more memory",
        )
    release_memory()
    log(f"evaluation: out of memory with {rows} windows at once; going on with {rows // 2}")
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
