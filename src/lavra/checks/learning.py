"""Check: the trainer can learn one batch by heart, and all of its weights move while it does."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace

import torch

from lavra.checks.base import CheckResult, Subject
from lavra.checks.batches import read_by, spans
from lavra.checks.gradients import listed
from lavra.checks.sandbox import InTurn, restored, train_on
from lavra.models.contract import IGNORED, Batch

_STEPS, _SECONDS, _HOPELESS_AFTER = 200, 12.0, 40
_SHARE, _LOSS = 0.05, 0.1
_LEAST_STEPS = 4
"""Weights that start at zero let a gradient through to those behind them only after some steps."""


def check_overfit(subject: Subject) -> list[CheckResult]:
    """Check that one batch is learned by heart with the run's own optimiser, and that every weight moves."""
    trainer = subject.trainer
    floor = _floor(subject.encoded) if subject.causal else 0.0
    begun = time.monotonic()
    losses: list[float] = []
    with restored(trainer):
        before = {name: weight.detach().clone() for name, weight in trainer.masters.weights.items()}
        train_on(trainer, subject.objective, [[subject.encoded]])
        turn = InTurn(trainer)
        trainer.updates = [*trainer.updates, turn]
        trainer.schedule, trainer.steps = replace(trainer.schedule, shape="constant", warmup_steps=0), _STEPS
        while not _over(losses, floor, time.monotonic() - begun):
            losses.append(trainer.run_step().loss)
        tried = {name: times for name, times in turn.learned.items() if times >= min(_LEAST_STEPS, len(losses))}
        rest = turn.learned.keys() - tried.keys()
        still = [
            name
            for name, parameter in subject.model.named_parameters()
            if name not in subject.frozen | rest
            and (name not in before or torch.equal(before[name], trainer.masters.weights[name]))
        ]
    return [
        _overfit(losses, floor, subject.loaded, bool(subject.frozen)),
        _moved(still, len(tried), len(losses), len(rest)),
    ]


def _over(losses: list[float], floor: float, seconds: float) -> bool:
    """Say whether there is nothing more to see: learned, not finite, hopeless, or out of time."""
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
    least = f" above {floor:.2f}, the least that this batch allows," if floor > 0.005 else ""
    expected = f"one batch learned by heart: below {_LOSS} or {_SHARE:.0%} of its start{least} in {_STEPS} steps"
    measured = f"from {losses[0]:.3f} to {losses[-1]:.3f} nats per token in {len(losses)} steps"
    if _learned(losses, floor):
        return CheckResult("overfit", "ok", measured, expected)
    if math.isfinite(losses[-1]) and len(losses) < _STEPS and losses[-1] < 0.98 * losses[0]:
        measured += f", falling when the {_SECONDS:.0f} s for this check were over"
        return CheckResult("overfit", "ok" if losses[-1] < 0.8 * losses[0] else "warn", measured, expected)
    if partly and math.isfinite(losses[-1]) and losses[-1] < losses[0]:
        return CheckResult("overfit", "ok", f"{measured}; few weights learn", "a falling loss, since most is frozen")
    if loaded and math.isfinite(losses[-1]) and losses[-1] < 0.8 * losses[0]:
        return CheckResult("overfit", "ok", f"{measured}, slowly, as rates for adapting a model let it", expected)
    if math.isfinite(losses[-1]) and len(losses) < _HOPELESS_AFTER and losses[-1] < losses[0]:
        measured += f", too few to tell; the {_SECONDS:.0f} s for this check were over"
        return CheckResult("overfit", "warn", measured, expected, "try it again while the machine is free")
    remedy = (
        "the model cannot learn even this: look at the learning rate, at frozen weights, at the labels and at what the "
        "optimiser holds"
    )
    return CheckResult("overfit", "fail", measured, expected, remedy)


def _moved(still: list[str], count: int, steps: int, rest: int) -> CheckResult:
    expected = "every weight that is to learn moves"
    if not still:
        told = f"; the turn of {rest} others did not come often enough" if rest else ""
        return CheckResult("update", "ok", f"all {count} tensors moved in {steps} steps{told}", expected)
    measured = f"{len(still)} tensors did not move in {steps} steps: {listed(still)}"
    remedy = "the optimiser does not hold them, or their learning rate or gradient is 0"
    return CheckResult("update", "fail", measured, expected, remedy)


def _floor(batch: Batch) -> float:
    """Return the least mean loss of the batch: texts that begin alike cannot be told apart by what was read so far."""
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
