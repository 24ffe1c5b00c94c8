"""Check of information flow: what a prediction depends on, from input gradients at the embeddings.

The gradient of a single loss at the embedding of a token is 0 if, and practically only if, the prediction does not
depend on that token (saliency by gradients, arXiv 1312.6034). For a causal model this reveals leaks from the future.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.batches import ENCODER_INPUTS, counted, cut, only, spans
from lavra.models.protocols import IGNORED, PREFIX, REPLACEABLE, Batch, eval_mode
from lavra.training.acceleration.temporary_weights import full_precision, lively

_POSITIONS = 2  # target positions at which gradients are computed
_LONGEST = 96  # tokens of the document that is used, to bound the time


def check_influence(check_context: CheckContext) -> list[CheckResult]:
    """Check that a causal model depends on earlier tokens only, and a bidirectional one on both sides.

    Args:
        check_context: Training set-up to check.

    Returns:
        A result named `causal_leak` or `both_directions`, one named `prefix` where the batch has prefixes that are read
        in both directions, and one named `source` for an encoder-decoder model.
    """
    name = "causal_leak" if check_context.causal else "both_directions"
    batch = _longest_document(check_context.encoded)
    with full_precision(check_context.trainer), lively(check_context.trainer), eval_mode(check_context.model):
        seen = [(place, _influence(check_context, batch, place)) for place in _places(batch)]
    known = [(place, norms) for place, norms in seen if norms is not None]
    if not known:
        return [
            CheckResult(
                name,
                "warn",
                "no embedding of the inputs, or no document of at least two tokens, was found",
                "gradients of single losses at the embeddings of the inputs",
                "give longer documents; a model needs an nn.Embedding that is called with the inputs of the batch",
            )
        ]
    before = sum(float(norms[:place].sum()) for place, norms in known)
    if check_context.causal:  # a prefix is given, and may be read as a whole
        known = [(place, norms.masked_fill(_later_prefix(batch, place, norms), 0.0)) for place, norms in known]
    after = sum(float(norms[place + 1 :].sum()) for place, norms in known)
    results = [_causal(name, known, before, after) if check_context.causal else _both(name, before, after)]
    results += _prefix(check_context)
    return [*results, _source(check_context, batch, known[0][0])] if ENCODER_INPUTS in batch.model_inputs else results


def _causal(name: str, known: list[tuple[int, torch.Tensor]], before: float, after: float) -> CheckResult:
    measured = f"the gradient of {len(known)} single losses at later inputs is {after:g}, at earlier ones {before:.3g}"
    expected = "exactly 0 at later inputs, more than 0 at earlier ones"
    if after or after != after:
        leaks = [(place, (norms[place + 1 :] != 0).nonzero()) for place, norms in known]
        place, later = next((place, found) for place, found in leaks if len(found))
        return CheckResult(
            name,
            "fail",
            f"{measured}; e.g. the loss at position {place} depends on input {place + 1 + int(later[0])}",
            expected,
            "predictions depend on later tokens: the loss will look excellent and the model will not work; check the "
            "attention mask, convolutions without causal padding, and norms over the length",
        )
    if not before:
        return CheckResult(
            name, "fail", measured, expected, "predictions depend on their own token only: attention has no effect"
        )
    return CheckResult(name, "ok", measured, expected)


def _both(name: str, before: float, after: float) -> CheckResult:
    measured = f"the gradient of single losses is {before:.3g} at earlier inputs and {after:.3g} at later ones"
    expected = "more than 0 on both sides, since the objective is not causal"
    if before > 0 and after > 0:
        return CheckResult(name, "ok", measured, expected)
    side = "before" if not before > 0 else "after"
    remedy = f"predictions do not depend on tokens {side} their own: remove the causal mask of this encoder"
    return CheckResult(name, "fail", measured, expected, remedy)


def _later_prefix(batch: Batch, place: int, norms: torch.Tensor) -> torch.Tensor:
    """Return which positions after a place belong to a prefix, (length,) bool."""
    later = torch.arange(len(norms), device=norms.device) > place
    return later & batch.model_inputs[PREFIX][0] if PREFIX in batch.model_inputs else torch.zeros_like(later)


def _prefix(check_context: CheckContext) -> list[CheckResult]:
    """Check that the beginning of a prefix depends on its end; nothing for a batch without prefixes."""
    batch = check_context.encoded
    if PREFIX not in batch.model_inputs:
        return []
    given = batch.model_inputs[PREFIX]
    found = [(row, span) for row in range(given.shape[0]) for span in spans(batch, row)]
    row, span = max(found, key=lambda place: int(given[place[0], place[1]].sum()))
    batch = cut(batch.take(slice(row, row + 1)), slice(span.start, min(span.stop, span.start + _LONGEST)))
    places = batch.model_inputs[PREFIX][0].nonzero()[:, 0].tolist()
    if len(places) < 2:
        return []
    with (
        full_precision(check_context.trainer),
        lively(check_context.trainer),
        eval_mode(check_context.model),
        _captured(check_context.module, batch.inputs) as outputs,
    ):
        features = check_context.model.features(batch)[0, places[0]]
        gradients = torch.autograd.grad(features.square().sum(), outputs, allow_unused=True) if outputs else ()
    total = sum(float(gradient[0, places[-1]].double().norm()) for gradient in gradients if gradient is not None)
    measured = f"the gradient of the first features of a prefix at its last input is {total:.3g}"
    expected = "more than 0: a prefix is read in both directions"
    if total > 0:
        return [CheckResult("prefix", "ok", measured, expected)]
    remedy = "the model reads the prefix causally: its attention mask must follow `prefix` of the batch"
    return [CheckResult("prefix", "fail", measured, expected, remedy)]


def _source(check_context: CheckContext, batch: Batch, place: int) -> CheckResult:
    """Check that the predictions of the decoder depend on the inputs of the encoder."""
    with full_precision(check_context.trainer), lively(check_context.trainer), eval_mode(check_context.model):
        norms = _influence(check_context, batch, place, batch.model_inputs[ENCODER_INPUTS])
    total = 0.0 if norms is None else float(norms.sum())
    measured = f"the gradient of a single loss at the inputs of the encoder is {total:.3g}"
    expected = "more than 0: predictions depend on the source text"
    if total > 0:
        return CheckResult("source", "ok", measured, expected)
    remedy = "the decoder ignores its source: check the mask of its cross-attention, and that of the encoder"
    return CheckResult("source", "fail", measured, expected, remedy)


def _longest_document(batch: Batch) -> Batch:
    found = [(row, span) for row in range(batch.inputs.shape[0]) for span in spans(batch, row)]

    def worth(place: tuple[int, slice]) -> tuple[bool, int]:
        row, span = place
        given = int(batch.model_inputs[PREFIX][row, span].sum()) if PREFIX in batch.model_inputs else 0
        # What follows a prefix shows whether a prediction sees what comes after it; within one, it may.
        return bool(counted(cut(batch.take(slice(row, row + 1)), span))), span.stop - span.start - given

    row, span = max(found, key=worth)
    # The part must contain targets, and those of a completion come only after a prompt that may be long.
    targets = (batch.targets[row, span] != IGNORED).nonzero()[:, 0]
    last = int(targets[: _LONGEST // 2].max()) + 1 if len(targets) else 0
    stop = min(span.stop, span.start + max(_LONGEST, last + 1))
    # Document ids and positions are kept, so that the attention mask is built as in training.
    return cut(batch.take(slice(row, row + 1)), slice(max(span.start, stop - _LONGEST), stop))


def _places(batch: Batch) -> list[int]:
    """Return up to two target positions of the row, with tokens before and after them where possible."""
    kept: list[int] = (batch.targets[0] != IGNORED).nonzero()[:, 0].tolist()
    inner = [place for place in kept if 0 < place < batch.inputs.shape[1] - 1] or kept
    step = max(1, len(inner) // _POSITIONS)
    return inner[step // 2 :: step][:_POSITIONS] if batch.inputs.shape[1] > 1 else []


def _influence(
    check_context: CheckContext, batch: Batch, place: int, inputs: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Return the (length,) norms of the gradient of the loss at one position, at the embeddings of the inputs.

    Args:
        check_context: Training set-up to check.
        batch: Batch of one row.
        place: Position of the target whose loss is differentiated.
        inputs: Token ids whose embeddings are meant; None for the inputs of the batch.

    Returns:
        The norms; None if no embedding was called with these token ids.
    """
    free = batch.model_inputs.get(REPLACEABLE) if inputs is None else None
    inputs = batch.inputs if inputs is None else inputs
    with _captured(check_context.module, inputs, free) as outputs:
        loss = check_context.objective.loss(check_context.model, only(batch, 0, place))
        if not outputs:
            return None
        gradients = torch.autograd.grad(loss.sum, outputs, allow_unused=True)
    norms = [gradient[0].double().norm(dim=-1) for gradient in gradients if gradient is not None]
    return torch.stack(norms).sum(0) if norms else torch.zeros(inputs.shape[1])


@contextmanager
def _captured(
    module: nn.Module, inputs: torch.Tensor, free: torch.Tensor | None = None
) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of embeddings of `inputs` during the block, as tensors that require gradients.

    Where `free` is true, any token may stand in place of that of `inputs`.
    """
    outputs: list[torch.Tensor] = []

    def fixed(ids: torch.Tensor) -> torch.Tensor:
        return ids if free is None else ids.masked_fill(free, 0)

    def note(_: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if arguments and arguments[0].shape == inputs.shape and torch.equal(fixed(arguments[0]), fixed(inputs)):
            output = output if output.requires_grad else output.detach().requires_grad_()
            outputs.append(output)
        return output

    embeddings = [layer for layer in module.modules() if isinstance(layer, nn.Embedding)]
    handles = [layer.register_forward_hook(note) for layer in embeddings]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
