"""Check: the training precision gives the loss that fp32 gives, and its gradients do not overflow."""

from __future__ import annotations

import math

import torch

from lavra.checks.base import CheckResult, Subject
from lavra.checks.batches import counted
from lavra.checks.state import restored, train_on
from lavra.checks.turns import only_measuring
from lavra.models.inference import evaluating
from lavra.training.temporary_weights import full_precision, lively

_NEAR, _FAR = 0.005, 0.03
_STEPS, _MOST_HALVINGS = 1, 8


def check_precision(subject: Subject) -> list[CheckResult]:
    """Compare the loss in training precision with fp32, and count overflows of the loss scale."""
    trainer, name = subject.trainer, "precision"
    kind = next(iter(trainer.masters.working.values())).dtype
    expected = f"within {_NEAR:.1%} of the loss in fp32, gradients finite"
    if not trainer.masters.separate:
        return [CheckResult(name, "ok", "trained in fp32; nothing to compare", expected)]
    short = str(kind).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")
    with lively(trainer):
        own = _loss(subject)
    with full_precision(trainer), lively(trainer):
        exact = _loss(subject)
    apart = abs(own / exact - 1.0) if exact else math.inf
    halvings, finite = _overflows(subject)
    measured = f"{own:.5f} in {short}, {exact:.5f} in fp32: {apart:.3%} apart"
    if trainer.scale.active:
        measured += (
            f"; {halvings} of {halvings + _STEPS} attempts overflowed from loss scale {trainer.scale.value:g} on"
        )
    if not finite:
        measured += "; the gradient is not finite at any scale"
    if apart <= _NEAR and finite and halvings <= _MOST_HALVINGS:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = f"this model is too large in its numbers for {short}: train in bf16, or in fp32 (--precision fp32)"
    return [CheckResult(name, "warn" if apart <= _FAR and finite else "fail", measured, expected, remedy)]


def _loss(subject: Subject) -> float:
    with evaluating(subject.model), torch.no_grad():
        return float(subject.objective.loss(subject.model, subject.encoded).sum) / max(1.0, counted(subject.encoded))


def _overflows(subject: Subject) -> tuple[int, bool]:
    """Return how often the loss scale was halved in some steps, and whether gradients were finite in the end."""
    trainer = subject.trainer
    with restored(trainer):
        train_on(trainer, subject.objective, [[subject.encoded]])
        trainer.updates = only_measuring()
        before = trainer.scale.value
        norms = [trainer.run_step().gradient_norm for _ in range(_STEPS)]
        halvings = round(math.log2(before / trainer.scale.value))
    return halvings, all(math.isfinite(norm) for norm in norms)
