"""Checks: the first loss is what it has to be, evaluation repeats itself, and the precision gives the loss that fp32
gives."""

from __future__ import annotations

import math

import numpy as np
import torch

from lavra.checks.base import CheckResult, Subject
from lavra.checks.batches import counted
from lavra.checks.sandbox import only_measuring, restored, train_on
from lavra.models.contract import IGNORED, evaluating
from lavra.training.acceleration.temporary_weights import full_precision, lively

_NEAR, _FAR = 0.05, 0.15
_COUNTED_ROWS = 512


def check_first_loss(subject: Subject) -> list[CheckResult]:
    """Check that a fresh model guesses evenly, and that a trained one knows more than how frequent tokens are."""
    batch, model = subject.encoded, subject.model
    with full_precision(subject.trainer), evaluating(model), torch.no_grad():
        loss = float(subject.objective.loss(model, batch, learning=False).sum) / max(1.0, counted(batch))
    even = math.log(model.vocabulary)
    if subject.loaded:
        return [_of_loaded(loss, _unigram(subject), even)]
    apart = abs(loss / even - 1.0)
    measured = f"{loss:.3f} nats per token"
    expected = f"within {_NEAR:.0%} of ln V = {even:.3f}: an untrained model is lost among {model.vocabulary} tokens"
    if apart <= _NEAR:
        return [CheckResult("first_loss", "ok", measured, expected)]
    remedy = (
        "the first weights are too large, or not fresh: see their initialization"
        if loss > even
        else ("the model knows the answer before it has learned: look for targets among the inputs")
    )
    return [CheckResult("first_loss", "fail" if not apart <= _FAR else "warn", measured, expected, remedy)]


def _of_loaded(loss: float, unigram: float, even: float) -> CheckResult:
    measured = f"{loss:.3f} nats per token"
    expected = f"below {unigram:.3f}, the loss of a model that knows only how frequent each token is in this text"
    if loss < unigram:
        return CheckResult("first_loss", "ok", measured, expected)
    if loss < even:
        remedy = (
            f"the model knows little of such text, though more than nothing (ln V = {even:.3f}): adapting it is slow"
        )
        return CheckResult("first_loss", "warn", measured, expected, remedy)
    if loss < (1.0 + _FAR) * even:
        remedy = (
            f"no better than guessing (ln V = {even:.3f}): parts of the model are new, or tokenizer and weights differ"
        )
        return CheckResult("first_loss", "warn", measured, expected, remedy)
    remedy = f"worse than guessing (ln V = {even:.3f}): tokenizer and weights do not belong to each other"
    return CheckResult("first_loss", "fail", measured, expected, remedy)


def _unigram(subject: Subject) -> float:
    """Return the loss of the batch's targets under their frequencies in the text, plus one."""
    rows = subject.source.rows(0, max(_COUNTED_ROWS, subject.rows))
    targets = subject.encode(rows).targets
    counts = np.bincount(targets[targets != IGNORED].numpy(), minlength=subject.model.vocabulary) + 1.0
    asked = subject.encoded.targets
    return float(-np.log(counts / counts.sum())[asked[asked != IGNORED].cpu().numpy()].mean())


def check_evaluation(subject: Subject) -> list[CheckResult]:
    """Check that dropout is off in evaluation: the same batch gives the same bits twice."""
    trainer, batch = subject.trainer, subject.encoded
    losses = []
    with full_precision(trainer), torch.no_grad(), trainer.evaluating():
        for number in range(2):
            torch.manual_seed(number)
            losses.append(
                float(subject.objective.loss(subject.model, batch, learning=False).sum) / max(1.0, counted(batch))
            )
    measured = f"{losses[0]:.7f} and {losses[1]:.7f} nats per token"
    expected = "the same loss twice in evaluation"
    if losses[0] == losses[1]:
        return [CheckResult("evaluation", "ok", measured, expected)]
    remedy = "something random is left on in evaluation: give dropout the module's `training` flag, and call eval()"
    return [CheckResult("evaluation", "fail", measured, expected, remedy)]


_PRECISION_NEAR, _PRECISION_FAR = 0.005, 0.03
_STEPS, _MOST_HALVINGS = 1, 8


def check_precision(subject: Subject) -> list[CheckResult]:
    """Compare the loss in training precision with fp32, and count overflows of the loss scale."""
    trainer, name = subject.trainer, "precision"
    kind = next(iter(trainer.masters.working.values())).dtype
    expected = f"within {_PRECISION_NEAR:.1%} of the loss in fp32, gradients finite"
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
    if apart <= _PRECISION_NEAR and finite and halvings <= _MOST_HALVINGS:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = f"this model is too large in its numbers for {short}: train in bf16, or in fp32 (--precision fp32)"
    return [CheckResult(name, "warn" if apart <= _PRECISION_FAR and finite else "fail", measured, expected, remedy)]


def _loss(subject: Subject) -> float:
    with evaluating(subject.model), torch.no_grad():
        return float(subject.objective.loss(subject.model, subject.encoded, learning=False).sum) / max(
            1.0, counted(subject.encoded)
        )


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
