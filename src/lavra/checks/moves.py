"""Check that a step of the optimiser changes every weight that is to learn, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.gradients import listed
from lavra.checks.sandbox import InTurn, restored, train_on
from lavra.objectives.wrapping import innermost
from lavra.training.trainer import Trainer
from lavra.training.updates import GradualUnfreezing
from lavra.training.updates.perturbation import Perturbation

_STEPS = 8
"""Most steps, after which a weight that has not changed is dead. What starts at zero passes a gradient on to the layers
below only after a step, and some optimisers use the first gradient of a weight for their state alone."""

_LEAST_TURNS = 4
"""Fewest updates of a weight by which it can be called dead, where large matrices are updated in turn."""


def check_moves(check_context: CheckContext) -> list[CheckResult]:
    """Check that some steps with the optimiser and the updates of the run change every trainable weight, and no frozen
    one.

    The weight decay is switched off, because it would move a weight without a gradient, too. The learning rate is the
    peak, and layers that are held still at the beginning of the run learn from the start.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `moves`, which names the dead weights.
    """
    trainer = check_context.trainer
    weights = trainer.master_weights.weights
    with restored(trainer), _without_decay(trainer):
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        frozen = {name: one for name, one in check_context.model.named_parameters() if name not in weights}
        prints = {name: _fingerprint(parameter) for name, parameter in frozen.items()}
        train_on(trainer, innermost(check_context.objective), [[check_context.encoded]])
        turn, regularizing = InTurn(trainer), (Perturbation, GradualUnfreezing)
        trainer.updates = [*(one for one in trainer.updates if not isinstance(one, regularizing)), turn]
        trainer.schedule, trainer.steps = replace(trainer.schedule, shape="constant", warmup_steps=0), _STEPS
        still, steps = list(before), 0
        while still and steps < _STEPS:
            trainer.run_step()
            steps += 1
            still = [name for name in still if torch.equal(before[name], weights[name])]
        dead = [name for name in still if turn.learned[name] >= min(_LEAST_TURNS, steps)]
        changed = [name for name, parameter in frozen.items() if _fingerprint(parameter) != prints[name]]
    return [_result(dead, changed, len(before) - len(still), len(frozen), len(still) - len(dead), steps)]


def _result(dead: list[str], changed: list[str], moved: int, frozen: int, unknown: int, steps: int) -> CheckResult:
    expected = "a step changes every trainable weight, and no frozen one"
    faults = [
        (f"{len(dead)} trainable tensors did not change in {steps} steps: {listed(dead)}", dead),
        (f"{len(changed)} frozen tensors changed: {listed(changed)}", changed),
    ]
    found = [words for words, names in faults if names]
    if not found:
        told = f"; {unknown} were updated too rarely to tell" if unknown else ""
        held = f", and none of {frozen} frozen ones" if frozen else ""
        return CheckResult("moves", "ok", f"{moved} trainable tensors changed in {steps} steps{held}{told}", expected)
    remedies = []
    if dead:
        remedies.append(
            "the loss does not depend on them (a detached branch, a layer that is not used), or the optimiser does not "
            "hold them: check gradient_flow and optimizer"
        )
    if changed:
        remedies.append("something writes into them: give the optimiser only what is to learn")
    return CheckResult("moves", "fail", "; ".join(found), expected, "; ".join(remedies))


@contextmanager
def _without_decay(trainer: Trainer) -> Iterator[None]:
    """Switch the weight decay of all optimisers off during the block."""
    groups = [group for optimizer in trainer.optimizers.optimizers for group in optimizer.param_groups]
    decays = [group["weight_decay"] for group in groups]
    for group in groups:
        group["weight_decay"] = 0.0
    try:
        yield
    finally:
        for group, decay in zip(groups, decays, strict=True):
            group["weight_decay"] = decay


def _fingerprint(tensor: torch.Tensor) -> tuple[float, float]:
    """Return two sums that a change of a tensor changes; a copy of all frozen weights would take too much memory."""
    flat = tensor.detach().reshape(-1)
    flat = flat if flat.is_floating_point() else flat.view(torch.uint8)
    wide = torch.float32 if flat.device.type == "mps" else torch.float64
    # The second sum weighs by the place, so that an exchange of two elements is seen.
    places = torch.arange(1, len(flat) + 1, device=flat.device, dtype=torch.float32)
    return float(flat.sum(dtype=wide)), float(torch.dot(flat.float(), places.remainder_(1021.0)))
