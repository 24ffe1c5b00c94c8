"""Check of learning: the trainer can overfit one batch, and every weight changes while it does."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace

import torch

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.batches import read_by, spans
from lavra.checks.gradients import listed
from lavra.checks.sandbox import InTurn, restored, train_on
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.wrapping import innermost
from lavra.training.updates import GradualUnfreezing
from lavra.training.updates.perturbation import Perturbation

_STEPS = 200
"""Limits of the check in steps and in seconds, and the number of steps after which a loss that has not decreased at all
ends it."""
_SECONDS = 12.0
_HOPELESS_AFTER = 40
_SHARE = 0.05
"""The batch counts as learned when the loss is below this share of its start, or below this many nats per token."""
_LOSS = 0.1
_LEAST_STEPS = 4
"""Smallest number of steps: weights that start at zero pass a gradient on to the layers below only after some steps."""


def check_overfit(check_context: CheckContext) -> list[CheckResult]:
    """Check that one batch can be overfitted with the optimiser of the run, and that every trainable weight changes.

    What is learned is the objective inside all wrappers (`lavra.objectives.wrapping`), at the weights themselves and
    with all layers from the start.

    Args:
        check_context: Training set-up to check.

    Returns:
        A result named `overfit` and one named `update`.
    """
    trainer = check_context.trainer
    floor = _floor(check_context.encoded) if check_context.causal else 0.0
    begun = time.monotonic()
    losses: list[float] = []
    with restored(trainer):
        before = {name: weight.detach().clone() for name, weight in trainer.master_weights.weights.items()}
        # Mixed labels and sharp minima cannot be learned by heart, and layers that are held still do not change.
        train_on(trainer, innermost(check_context.objective), [[check_context.encoded]])
        turn, regularizing = InTurn(trainer), (Perturbation, GradualUnfreezing)
        trainer.updates = [*(one for one in trainer.updates if not isinstance(one, regularizing)), turn]
        trainer.schedule, trainer.steps = replace(trainer.schedule, shape="constant", warmup_steps=0), _STEPS
        while not _over(losses, floor, time.monotonic() - begun):
            losses.append(trainer.run_step().loss)
        tried = {name: times for name, times in turn.learned.items() if times >= min(_LEAST_STEPS, len(losses))}
        rest = turn.learned.keys() - tried.keys()
        still = [
            name
            for name, parameter in check_context.model.named_parameters()
            if name not in check_context.frozen | rest
            and (name not in before or torch.equal(before[name], trainer.master_weights.weights[name]))
        ]
    return [
        _overfit(losses, floor, check_context.loaded, bool(check_context.frozen)),
        _moved(still, len(tried), len(losses), len(rest)),
    ]


def _over(losses: list[float], floor: float, seconds: float) -> bool:
    """Return whether the check can end: the batch is learned, the loss is not finite or stuck, or time is up."""
    count = len(losses)
    if count < _LEAST_STEPS:
        return False
    hopeless = count >= _HOPELESS_AFTER and not min(losses) < 0.98 * losses[0]
    finished = _learned(losses, floor) or not math.isfinite(losses[-1])
    return finished or hopeless or count >= _STEPS or seconds > _SECONDS


def _learned(losses: list[float], floor: float) -> bool:
    enough = len(losses) >= _LEAST_STEPS
    return enough and losses[-1] - floor < max(_LOSS, _SHARE * losses[0])


def _overfit(losses: list[float], floor: float, loaded: bool, partly: bool) -> CheckResult:
    least = f" above {floor:.2f}, the smallest possible loss of this batch," if floor > 0.005 else ""
    expected = f"one batch is overfitted: a loss below {_LOSS} or {_SHARE:.0%} of its start{least} in {_STEPS} steps"
    measured = f"from {losses[0]:.3f} to {losses[-1]:.3f} nats per token in {len(losses)} steps"
    if _learned(losses, floor):
        return CheckResult("overfit", "ok", measured, expected)
    if math.isfinite(losses[-1]) and len(losses) < _STEPS and losses[-1] < 0.98 * losses[0]:
        measured += f", still decreasing at the time limit of {_SECONDS:.0f} s for this check"
        return CheckResult("overfit", "ok" if losses[-1] < 0.8 * losses[0] else "warn", measured, expected)
    if partly and math.isfinite(losses[-1]) and losses[-1] < losses[0]:
        told = "a decreasing loss, since most weights are frozen"
        return CheckResult("overfit", "ok", f"{measured}; few weights train", told)
    if loaded and math.isfinite(losses[-1]) and losses[-1] < 0.8 * losses[0]:
        told = f"{measured}, slowly, as learning rates for fine-tuning are low"
        return CheckResult("overfit", "ok", told, expected)
    if math.isfinite(losses[-1]) and len(losses) < _HOPELESS_AFTER and losses[-1] < losses[0]:
        measured += f", too few to tell at the time limit of {_SECONDS:.0f} s for this check"
        return CheckResult("overfit", "warn", measured, expected, "try again when the machine is not busy")
    remedy = (
        "the model cannot learn even one batch: check the learning rate, frozen weights, the labels, and which weights "
        "the optimiser updates"
    )
    return CheckResult("overfit", "fail", measured, expected, remedy)


def _moved(still: list[str], count: int, steps: int, rest: int) -> CheckResult:
    expected = "every trainable weight changes"
    if not still:
        told = f"; {rest} others were updated too rarely to tell" if rest else ""
        return CheckResult("update", "ok", f"all {count} tensors changed in {steps} steps{told}", expected)
    measured = f"{len(still)} tensors did not change in {steps} steps: {listed(still)}"
    remedy = "the optimiser does not update them, or their learning rate or gradient is 0"
    return CheckResult("update", "fail", measured, expected, remedy)


def _floor(batch: Batch) -> float:
    """Return the smallest possible mean loss of the batch in nats: the empirical entropy of targets given their prefix.

    Documents with the same beginning cannot be told apart before they differ, so not even a model that memorises the
    batch can predict which of them continues.
    """
    followers: dict[tuple[tuple[int, ...], ...], Counter[int]] = {}
    for row in range(batch.inputs.shape[0]):
        for span in spans(batch, row):
            inputs, targets = batch.inputs[row, span].tolist(), batch.targets[row, span].tolist()
            read = tuple(read_by(batch, row, span))
            for place, target in enumerate(targets):
                if target != IGNORED:
                    followers.setdefault((read, tuple(inputs[: place + 1])), Counter())[target] += 1
    total = sum(counter.total() for counter in followers.values())
    cost = sum(
        count * math.log(counter.total() / count) for counter in followers.values() for count in counter.values()
    )
    return cost / max(1, total)
