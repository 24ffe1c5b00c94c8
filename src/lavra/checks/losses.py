"""Checks of the loss: its first value, determinism in evaluation, and the agreement of the precision with fp32."""

from __future__ import annotations

import math

import numpy as np
import torch

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.batches import counted
from lavra.checks.sandbox import only_measuring, restored, train_on
from lavra.models.protocols import IGNORED, eval_mode
from lavra.training.acceleration.temporary_weights import full_precision, lively

_NEAR = 0.05
"""Relative distance of the first loss from that of uniform predictions up to which the verdict is `ok`, and up to which
it is `warn`."""
_FAR = 0.15
_COUNTED_ROWS = 512  # rows in which the frequencies of tokens are counted


def check_first_loss(check_context: CheckContext) -> list[CheckResult]:
    """Check that an untrained model predicts uniformly, and that a pretrained one is better than token frequencies.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `first_loss`.
    """
    batch, model = check_context.encoded, check_context.model
    with full_precision(check_context.trainer), eval_mode(model), torch.no_grad():
        loss = float(check_context.objective.loss(model, batch, learning=False).sum) / max(1.0, counted(batch))
    if check_context.first_loss is not None and math.isnan(check_context.first_loss):
        verdict = "ok" if math.isfinite(loss) else "fail"
        remedy = "" if verdict == "ok" else "look for overflow, logarithms of 0 and roots of 0"
        return [CheckResult("first_loss", verdict, f"{loss:.3f}", "a finite number; no more is known of it", remedy)]
    even = math.log(model.vocabulary) if check_context.first_loss is None else check_context.first_loss
    if (of_batch := getattr(check_context.objective, "uninformed_loss", None)) is not None:
        even = of_batch(batch)  # it depends on the lengths of the texts
    if check_context.loaded and check_context.first_loss is None:
        return [_of_loaded(loss, _unigram(check_context), even)]
    apart = abs(loss / even - 1.0)
    measured = f"{loss:.3f} nats per token"
    expected = f"within {_NEAR:.0%} of ln V = {even:.3f}, the loss of uniform predictions over V = {model.vocabulary}"
    if check_context.first_loss is not None:
        expected = f"within {_NEAR:.0%} of {even:.3f}, the loss of predictions without any knowledge"
    if apart <= _NEAR:
        return [CheckResult("first_loss", "ok", measured, expected)]
    remedy = (
        "the initial weights are too large, or not untrained: check the initialization"
        if loss > even
        else "the model predicts better than chance before training: look for targets among the inputs"
    )
    # The features of a base model are not centred, so that a fresh head on them need not begin even.
    uncentred = check_context.loaded and even < loss < 2.0 * even
    verdict = "fail" if not apart <= _FAR and not uncentred else "warn"
    return [CheckResult("first_loss", verdict, measured, expected, remedy)]


def _of_loaded(loss: float, unigram: float, even: float) -> CheckResult:
    measured = f"{loss:.3f} nats per token"
    expected = f"below {unigram:.3f}, the loss of a unigram model, which knows only how frequent each token is"
    if loss < unigram:
        return CheckResult("first_loss", "ok", measured, expected)
    if loss < even:
        remedy = f"the model knows little about this kind of text (ln V = {even:.3f}): fine-tuning it will be slow"
        return CheckResult("first_loss", "warn", measured, expected, remedy)
    if loss < (1.0 + _FAR) * even:
        remedy = (
            f"no better than uniform predictions (ln V = {even:.3f}): parts of the model are untrained, or tokenizer "
            "and weights do not match"
        )
        return CheckResult("first_loss", "warn", measured, expected, remedy)
    remedy = f"worse than uniform predictions (ln V = {even:.3f}): tokenizer and weights do not match"
    return CheckResult("first_loss", "fail", measured, expected, remedy)


def _unigram(check_context: CheckContext) -> float:
    """Return the loss of a unigram model with add-one smoothing on the targets of the batch, in nats per token."""
    rows = check_context.source.rows(0, max(_COUNTED_ROWS, check_context.rows))
    targets = check_context.encode(rows).targets
    counts = np.bincount(targets[targets != IGNORED].numpy(), minlength=check_context.model.vocabulary) + 1.0
    asked = check_context.encoded.targets
    return float(-np.log(counts / counts.sum())[asked[asked != IGNORED].cpu().numpy()].mean())


def check_evaluation(check_context: CheckContext) -> list[CheckResult]:
    """Check that evaluation is deterministic, i.e. that dropout is disabled: the same batch gives the same loss twice.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `evaluation`.
    """
    trainer, batch = check_context.trainer, check_context.encoded
    losses = []
    with full_precision(trainer), torch.no_grad(), trainer.eval_mode():
        for number in range(2):
            torch.manual_seed(number)
            losses.append(
                float(check_context.objective.loss(check_context.model, batch, learning=False).sum)
                / max(1.0, counted(batch))
            )
    measured = f"{losses[0]:.7f} and {losses[1]:.7f} nats per token"
    expected = "the same loss twice in evaluation"
    if losses[0] == losses[1]:
        return [CheckResult("evaluation", "ok", measured, expected)]
    remedy = "something is random in evaluation: give dropout the `training` flag of the module, and call eval()"
    return [CheckResult("evaluation", "fail", measured, expected, remedy)]


_PRECISION_NEAR = 0.005
"""Relative distance of the loss from that in fp32 up to which the verdict is `ok`, and up to which it is `warn`."""
_PRECISION_FAR = 0.03
_STEPS = 1  # steps in which overflows are counted, and halvings of the loss scale that are accepted
_MOST_HALVINGS = 8


def check_precision(check_context: CheckContext) -> list[CheckResult]:
    """Compare the loss in the training precision with that in fp32, and count overflows of the loss scale.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `precision`.
    """
    trainer, name = check_context.trainer, "precision"
    kind = next(iter(trainer.master_weights.working.values())).dtype
    expected = f"within {_PRECISION_NEAR:.1%} of the loss in fp32, and finite gradients"
    if not trainer.master_weights.separate:
        return [CheckResult(name, "ok", "training is in fp32, so there is nothing to compare", expected)]
    short = str(kind).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")
    with lively(trainer):
        own = _loss(check_context)
    with full_precision(trainer), lively(trainer):
        exact = _loss(check_context)
    apart = abs(own / exact - 1.0) if exact else math.inf
    halvings, finite = _overflows(check_context)
    measured = f"{own:.5f} in {short}, {exact:.5f} in fp32, a difference of {apart:.3%}"
    if trainer.scale.active:
        measured += (
            f"; {halvings} of {halvings + _STEPS} attempts overflowed, starting at loss scale {trainer.scale.value:g}"
        )
    if not finite:
        measured += "; the gradient is not finite at any loss scale"
    if apart <= _PRECISION_NEAR and finite and halvings <= _MOST_HALVINGS:
        return [CheckResult(name, "ok", measured, expected)]
    remedy = f"{short} is not accurate enough for this model: train in bf16, or in fp32 (--precision fp32)"
    return [CheckResult(name, "warn" if apart <= _PRECISION_FAR and finite else "fail", measured, expected, remedy)]


def _loss(check_context: CheckContext) -> float:
    with eval_mode(check_context.model), torch.no_grad():
        return float(
            check_context.objective.loss(check_context.model, check_context.encoded, learning=False).sum
        ) / max(1.0, counted(check_context.encoded))


def _overflows(check_context: CheckContext) -> tuple[int, bool]:
    """Return how often the loss scale was halved in a few steps, and whether the gradients were finite in the end."""
    trainer = check_context.trainer
    with restored(trainer):
        train_on(trainer, check_context.objective, [[check_context.encoded]])
        trainer.updates = only_measuring()
        before = trainer.scale.value
        norms = [trainer.run_step().gradient_norm for _ in range(_STEPS)]
        halvings = round(math.log2(before / trainer.scale.value))
    return halvings, all(math.isfinite(norm) for norm in norms)
