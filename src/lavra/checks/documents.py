"""Checks of packing and padding: documents in one sequence do not attend to each other, and padding has no effect."""

from __future__ import annotations

import torch

from lavra.checks.base import CheckResult, Subject
from lavra.checks.batches import (
    ENCODER_INPUTS,
    ENCODER_POSITIONS,
    ENCODER_SEGMENTS,
    alone,
    beside_each_other,
    counted,
    cut,
    padded,
    spans,
    with_room,
    with_targets,
)
from lavra.models.contract import IGNORED, Batch, evaluating
from lavra.training.acceleration.temporary_weights import full_precision, lively

TOLERANCE = 1e-5
"""Largest relative difference of two losses that should be equal: fp32 sums in another order differ by less."""

_MOST_DOCUMENTS = 8  # documents of a sequence that are computed one by one, to bound the time
_PADDING = 8  # columns of padding that are added


def check_documents(subject: Subject) -> list[CheckResult]:
    """Check that packed documents have the same loss as one by one, and that positions start at 0 in each document.

    Args:
        subject: Training set-up to check.

    Returns:
        One result, named `document_leak`.
    """
    name, expected = "document_leak", f"the same loss to {TOLERANCE:g}; positions start at 0 in each document"
    if getattr(subject.model, "isolates", True) is False:
        return [_never_packed(name, subject)]
    batch, own = _packed(subject)
    if batch is None:
        return [CheckResult(name, "ok", "sequences contain one document each", expected)]
    if batch.segments is None:
        return [_unseparated(name, subject)]
    late = [span.start for span in spans(batch, 0) if batch.positions is not None and batch.positions[0, span.start]]
    with full_precision(subject.trainer), lively(subject.trainer), evaluating(subject.model), torch.no_grad():
        together, apart = _losses(subject, batch)
    difference = abs(together - apart) / max(abs(apart), 1e-30)
    told = "" if own else " (sequences contain one document each; two documents were packed for this check)"
    measured = f"packed {together:.6f}, one by one {apart:.6f} nats, a relative difference of {difference:.1e}{told}"
    if late:
        measured += f"; {len(late)} documents do not start at position 0"
    if difference <= TOLERANCE and not late:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = (
        "documents in one sequence attend to each other, or continue the positions of the previous one: the attention "
        "mask must follow `segments` of the batch, and position embeddings its `positions`"
    )
    return [CheckResult(name, "fail", measured, expected, remedy)]


def _never_packed(name: str, subject: Subject) -> CheckResult:
    """Check that sequences contain one document each, for a model that cannot mask attention between documents."""
    expected = "one document in each sequence, since this model cannot separate several"
    batches = [subject.encoded, *([subject.encode(subject.mixed_rows)] if subject.mixed_rows else [])]
    several = sum(len(spans(batch, row)) > 1 for batch in batches for row in range(batch.inputs.shape[0]))
    if not several:
        return CheckResult(name, "ok", "not packed: sequences contain one document each", expected)
    told = f"{several} sequences contain several documents"
    return CheckResult(name, "fail", told, expected, "train without packing")


def _unseparated(name: str, subject: Subject) -> CheckResult:
    """Return the result for packed documents without document ids: only an explicit request allows that."""
    expected = "attention inside each document only"
    if getattr(subject.objective, "isolate", True) is False:
        return CheckResult(name, "ok", "documents in one sequence attend to each other, as requested", expected)
    measured = "documents share a sequence, and the batch does not contain their boundaries"
    return CheckResult(name, "fail", measured, expected, "the objective must set `segments` when it packs documents")


def _packed(subject: Subject) -> tuple[Batch | None, bool]:
    """Return a sequence of several documents (None if none can be made), and whether the objective packed it."""
    if subject.mixed_rows:
        batch = subject.encode(subject.mixed_rows[:1]).to(subject.trainer.device)
        if batch.segments is None or len(spans(batch, 0)) > 1:
            return batch, True
    batch = subject.encoded
    rows = range(batch.inputs.shape[0])
    several = next((row for row in rows if len(spans(batch, row)) > 1), None)
    if several is not None:
        return batch.take(slice(several, several + 1)), True
    unknown = batch.extra.keys() - {ENCODER_INPUTS, ENCODER_SEGMENTS, ENCODER_POSITIONS}
    if unknown or batch.inputs.shape[0] < 2 or batch.segments is None:
        return None, False
    half = max(1, batch.inputs.shape[1] // 2)
    found = (spans(batch, row)[0] for row in (0, 1))
    first, second = (
        alone(batch, row, slice(span.start, min(span.start + half, span.stop))) for row, span in enumerate(found)
    )
    limit = subject.model.context
    parts = [with_room(part, limit // 2, limit) for part in (first, second)]
    return (beside_each_other([part for part in parts if part is not None]) if all(parts) else None), False


def _losses(subject: Subject, batch: Batch) -> tuple[float, float]:
    """Return the summed loss of the last documents of a sequence when packed, and when computed one by one."""
    chosen = spans(batch, 0)[-_MOST_DOCUMENTS:]
    kept = torch.zeros_like(batch.targets, dtype=torch.bool)
    apart = 0.0
    for span in chosen:
        kept[0, span] = True
        single = alone(batch, 0, span)
        if counted(single):
            apart += float(subject.objective.loss(subject.model, single, learning=False).sum)
    together = float(
        subject.objective.loss(
            subject.model, with_targets(batch, kept & (batch.targets != IGNORED)), learning=False
        ).sum
    )
    return together, apart


def check_padding(subject: Subject) -> list[CheckResult]:
    """Check that padding does not change the loss, and is never a target.

    Args:
        subject: Training set-up to check.

    Returns:
        One result, named `padding`.
    """
    name, expected = "padding", f"the same mean loss to {TOLERANCE:g}, and no target in padding"
    whole = subject.encoded
    columns = min(_PADDING, whole.inputs.shape[1] - 1)
    asked = 0 if whole.segments is None else int(((whole.segments < 0) & (whole.targets != IGNORED)).sum())
    shorter = cut(whole, slice(0, whole.inputs.shape[1] - max(0, columns)))
    batch = with_room(shorter, columns, subject.model.context)
    if columns < 1 or batch is None or not counted(batch):
        told = f"sequences of {whole.inputs.shape[1]} tokens leave no room for padding"
        return [CheckResult(name, "ok", told, expected)]
    with full_precision(subject.trainer), lively(subject.trainer), evaluating(subject.model), torch.no_grad():
        plain = subject.objective.loss(subject.model, batch, learning=False)
        wider = subject.objective.loss(subject.model, padded(batch, columns, subject.model.vocabulary), learning=False)
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
