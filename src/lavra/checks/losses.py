"""Checks: the first loss is what it has to be, and evaluation repeats itself."""

from __future__ import annotations

import math

import numpy as np
import torch

from lavra.checks.base import CheckResult, Subject
from lavra.checks.batches import counted
from lavra.models.batch import IGNORED
from lavra.models.inference import evaluating
from lavra.training.temporary_weights import full_precision

_NEAR, _FAR = 0.05, 0.15
_COUNTED_ROWS = 512


def check_first_loss(subject: Subject) -> list[CheckResult]:
    """Check that a fresh model guesses evenly, and that a trained one knows more than how frequent tokens are."""
    batch, model = subject.encoded, subject.model
    with full_precision(subject.trainer), evaluating(model), torch.no_grad():
        loss = float(subject.objective.loss(model, batch).sum) / max(1.0, counted(batch))
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
            losses.append(float(subject.objective.loss(subject.model, batch).sum) / max(1.0, counted(batch)))
    measured = f"{losses[0]:.7f} and {losses[1]:.7f} nats per token"
    expected = "the same loss twice in evaluation"
    if losses[0] == losses[1]:
        return [CheckResult("evaluation", "ok", measured, expected)]
    remedy = "something random is left on in evaluation: give dropout the module's `training` flag, and call eval()"
    return [CheckResult("evaluation", "fail", measured, expected, remedy)]
