"""Checks of packing and padding: documents in one sequence do not attend to each other, and padding has no effect."""

from __future__ import annotations

import torch

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.batches import (
    ENCODER_DOCUMENT_IDS,
    ENCODER_INPUTS,
    ENCODER_POSITIONS,
    alone,
    beside_each_other,
    counted,
    cut,
    padded,
    spans,
    with_room,
    with_targets,
)
from lavra.models.protocols import IGNORED, Batch, eval_mode
from lavra.training.acceleration.temporary_weights import full_precision, lively

TOLERANCE = 1e-5
"""Largest relative difference of two losses that should be equal: fp32 sums in another order differ by less."""

_MOST_DOCUMENTS = 8  # documents of a sequence that are computed one by one, to bound the time
_PADDING = 8  # columns of padding that are added


def check_documents(check_context: CheckContext) -> list[CheckResult]:
    """Check that packed documents have the same loss as one by one, and that positions start at 0 in each document.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `document_leak`.
    """
    name, expected = "document_leak", f"the same loss to {TOLERANCE:g}; positions start at 0 in each document"
    if getattr(check_context.model, "supports_packing", True) is False:
        return [_never_packed(name, check_context)]
    batch, own = _packed(check_context)
    if batch is None:
        return [CheckResult(name, "ok", "sequences contain one document each", expected)]
    if batch.document_ids is None:
        return [_unseparated(name, check_context)]
    late = [span.start for span in spans(batch, 0) if batch.positions is not None and batch.positions[0, span.start]]
    with (
        full_precision(check_context.trainer),
        lively(check_context.trainer),
        eval_mode(check_context.model),
        torch.no_grad(),
    ):
        together, apart = _losses(check_context, batch)
    difference = abs(together - apart) / max(abs(apart), 1e-30)
    told = "" if own else " (sequences contain one document each; two documents were packed for this check)"
    measured = f"packed {together:.6f}, one by one {apart:.6f} nats, a relative difference of {difference:.1e}{told}"
    if late:
        measured += f"; {len(late)} documents do not start at position 0"
    if difference <= TOLERANCE and not late:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = (
        "documents in one sequence attend to each other, or continue the positions of the previous one: the attention "
        "mask must follow `document_ids` of the batch, and position embeddings its `positions`"
    )
    return [CheckResult(name, "fail", measured, expected, remedy)]


def _never_packed(name: str, check_context: CheckContext) -> CheckResult:
    """Check that sequences contain one document each, for a model that cannot mask attention between documents."""
    expected = "one document in each sequence, since this model cannot separate several"
    batches = [
        check_context.encoded,
        *([check_context.encode(check_context.mixed_rows)] if check_context.mixed_rows else []),
    ]
    several = sum(len(spans(batch, row)) > 1 for batch in batches for row in range(batch.inputs.shape[0]))
    if not several:
        return CheckResult(name, "ok", "not packed: sequences contain one document each", expected)
    told = f"{several} sequences contain several documents"
    return CheckResult(name, "fail", told, expected, "train without packing")


def _unseparated(name: str, check_context: CheckContext) -> CheckResult:
    """Return the result for packed documents without document ids: only an explicit request allows that."""
    expected = "attention inside each document only"
    if getattr(check_context.objective, "isolate", True) is False:
        return CheckResult(name, "ok", "documents in one sequence attend to each other, as requested", expected)
    measured = "documents share a sequence, and the batch does not contain their boundaries"
    return CheckResult(
        name, "fail", measured, expected, "the objective must set `document_ids` when it packs documents"
    )


def _packed(check_context: CheckContext) -> tuple[Batch | None, bool]:
    """Return a sequence of several documents (None if none can be made), and whether the objective packed it."""
    if check_context.mixed_rows:
        batch = check_context.encode(check_context.mixed_rows[:1]).to(check_context.trainer.device)
        if batch.document_ids is None or len(spans(batch, 0)) > 1:
            return batch, True
    batch = check_context.encoded
    rows = range(batch.inputs.shape[0])
    several = next((row for row in rows if len(spans(batch, row)) > 1), None)
    if several is not None:
        return batch.take(slice(several, several + 1)), True
    unknown = batch.model_inputs.keys() - {ENCODER_INPUTS, ENCODER_DOCUMENT_IDS, ENCODER_POSITIONS}
    if unknown or batch.inputs.shape[0] < 2 or batch.document_ids is None:
        return None, False
    half = max(1, batch.inputs.shape[1] // 2)
    found = (spans(batch, row)[0] for row in (0, 1))
    first, second = (
        alone(batch, row, slice(span.start, min(span.start + half, span.stop))) for row, span in enumerate(found)
    )
    limit = check_context.model.context
    parts = [with_room(part, limit // 2, limit) for part in (first, second)]
    return (beside_each_other([part for part in parts if part is not None]) if all(parts) else None), False


def _losses(check_context: CheckContext, batch: Batch) -> tuple[float, float]:
    """Return the summed loss of the last documents of a sequence when packed, and when computed one by one."""
    chosen = spans(batch, 0)[-_MOST_DOCUMENTS:]
    kept = torch.zeros_like(batch.targets, dtype=torch.bool)
    apart = 0.0
    for span in chosen:
        kept[0, span] = True
        single = alone(batch, 0, span)
        if counted(single):
            apart += float(check_context.objective.loss(check_context.model, single, learning=False).sum)
    together = float(
        check_context.objective.loss(
            check_context.model, with_targets(batch, kept & (batch.targets != IGNORED)), learning=False
        ).sum
    )
    return together, apart


def check_padding(check_context: CheckContext) -> list[CheckResult]:
    """Check that padding does not change the loss, and is never a target.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `padding`.
    """
    name, expected = "padding", f"the same mean loss to {TOLERANCE:g}, and no target in padding"
    whole = check_context.encoded
    columns = min(_PADDING, whole.inputs.shape[1] - 1)
    asked = 0 if whole.document_ids is None else int(((whole.document_ids < 0) & (whole.targets != IGNORED)).sum())
    shorter = cut(whole, slice(0, whole.inputs.shape[1] - max(0, columns)))
    batch = with_room(shorter, columns, check_context.model.context)
    if columns < 1 or batch is None or not counted(batch):
        told = f"sequences of {whole.inputs.shape[1]} tokens leave no room for padding"
        return [CheckResult(name, "ok", told, expected)]
    with (
        full_precision(check_context.trainer),
        lively(check_context.trainer),
        eval_mode(check_context.model),
        torch.no_grad(),
    ):
        plain = check_context.objective.loss(check_context.model, batch, learning=False)
        wider = check_context.objective.loss(
            check_context.model, padded(batch, columns, check_context.model.vocabulary), learning=False
        )
        before, after = float(plain.sum) / plain.weight, float(wider.sum) / wider.weight
        divisors = {plain.weight: counted(batch), wider.weight: counted(batch), whole.weight: counted(whole)}
    difference = abs(before - after) / max(abs(before), 1e-30)
    measured = (
        f"{before:.6f} nats without padding, {after:.6f} with padding, a relative difference of {difference:.1e}; "
        f"{asked} targets in padding"
    )
    wrong = next((weight for weight, targets in divisors.items() if weight != targets), None)
    if wrong is not None:
        measured += f"; the loss is divided by {wrong:g} for {divisors[wrong]:g} targets"
    if difference <= TOLERANCE and not asked and wrong is None:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = (
        "padding (segment -1) must be masked in attention, have ignored targets, and count neither in the sum of the "
        "loss nor in its weight"
    )
    return [CheckResult(name, "fail", measured, expected, remedy)]
