"""Checks: documents in one row do not see each other, and padding is nothing."""

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
_MOST_DOCUMENTS = 8
_PADDING = 8


def check_documents(subject: Subject) -> list[CheckResult]:
    """Check that a packed row has the loss of its documents one by one, and that each counts from its beginning."""
    name, expected = "document_leak", f"the same to {TOLERANCE:g}; positions begin at 0 in each document"
    if getattr(subject.model, "isolates", True) is False:
        return [_never_packed(name, subject)]
    batch, own = _packed(subject)
    if batch is None:
        return [CheckResult(name, "ok", "rows hold one document each", expected)]
    if batch.segments is None:
        return [_unseparated(name, subject)]
    late = [span.start for span in spans(batch, 0) if batch.positions is not None and batch.positions[0, span.start]]
    with full_precision(subject.trainer), lively(subject.trainer), evaluating(subject.model), torch.no_grad():
        together, apart = _losses(subject, batch)
    difference = abs(together - apart) / max(abs(apart), 1e-30)
    told = "" if own else " (rows of the text hold one document each; two were put beside each other)"
    measured = f"packed {together:.6f}, one by one {apart:.6f} nats, a difference of {difference:.1e}{told}"
    if late:
        measured += f"; {len(late)} documents do not begin at position 0"
    if difference <= TOLERANCE and not late:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = (
        "documents in one row see each other, or count on from the one before: the attention mask must follow "
        "`segments` of the batch, and position embeddings its `positions`"
    )
    return [CheckResult(name, "fail", measured, expected, remedy)]


def _never_packed(name: str, subject: Subject) -> CheckResult:
    """Check that rows hold one document each, for a model that sees all of a row."""
    expected = "one document in each row, since this model cannot keep several apart"
    batches = [subject.encoded, *([subject.encode(subject.mixed_rows)] if subject.mixed_rows else [])]
    several = sum(len(spans(batch, row)) > 1 for batch in batches for row in range(batch.inputs.shape[0]))
    if not several:
        return CheckResult(name, "ok", "not packed: rows hold one document each", expected)
    return CheckResult(name, "fail", f"{several} rows hold several documents", expected, "train without packing")


def _unseparated(name: str, subject: Subject) -> CheckResult:
    expected = "each document seen by itself"
    if getattr(subject.objective, "isolate", True) is False:
        return CheckResult(name, "ok", "documents share a row and see each other, as was asked", expected)
    measured = "documents share a row, and the batch does not say where they end"
    return CheckResult(name, "fail", measured, expected, "the objective must set `segments` when it packs documents")


def _packed(subject: Subject) -> tuple[Batch | None, bool]:
    """Return a row of several documents, and whether the objective made it."""
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
    """Return the summed loss of a row's last documents packed, and one by one."""
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
    """Check that padding does not move the loss, and is never a target."""
    name, expected = "padding", f"the same mean loss to {TOLERANCE:g}, and no target in padding"
    whole = subject.encoded
    columns = min(_PADDING, whole.inputs.shape[1] - 1)
    asked = 0 if whole.segments is None else int(((whole.segments < 0) & (whole.targets != IGNORED)).sum())
    shorter = cut(whole, slice(0, whole.inputs.shape[1] - max(0, columns)))
    batch = with_room(shorter, columns, subject.model.context)
    if columns < 1 or batch is None or not counted(batch):
        return [CheckResult(name, "ok", f"rows of {whole.inputs.shape[1]} leave no room for padding", expected)]
    with full_precision(subject.trainer), lively(subject.trainer), evaluating(subject.model), torch.no_grad():
        plain = subject.objective.loss(subject.model, batch, learning=False)
        wider = subject.objective.loss(subject.model, padded(batch, columns, subject.model.vocabulary), learning=False)
        before, after = float(plain.sum) / plain.weight, float(wider.sum) / wider.weight
        divisors = {plain.weight: counted(batch), wider.weight: counted(batch), whole.weight: counted(whole)}
    difference = abs(before - after) / max(abs(before), 1e-30)
    measured = f"{before:.6f} without padding, {after:.6f} with, {difference:.1e} apart; {asked} targets in it"
    wrong = next((weight for weight, targets in divisors.items() if weight != targets), None)
    if wrong is not None:
        measured += f"; the loss is divided by {wrong:g} for {divisors[wrong]:g} targets"
    if difference <= TOLERANCE and not asked and wrong is None:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = (
        "padding (segment -1) must be hidden by the attention mask, have ignored targets, and count neither in the "
        "loss's sum nor in its weight"
    )
    return [CheckResult(name, "fail", measured, expected, remedy)]
