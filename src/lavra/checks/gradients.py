"""Checks of gradients: accumulation over micro-batches is exact, and exactly the trainable weights get gradients."""

from __future__ import annotations

import math

import torch
from torch import nn

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.batches import ragged
from lavra.checks.sandbox import train_on
from lavra.core.errors import LavraError
from lavra.core.units import counted
from lavra.models.protocols import Batch, eval_mode
from lavra.objectives.base import ComparingObjective, group_of
from lavra.training.acceleration.temporary_weights import full_precision, lively
from lavra.training.precision import LossScale
from lavra.training.step import Step
from lavra.training.trainer import Trainer

TOLERANCE = 1e-5
"""Largest relative difference of losses and gradients that should be equal."""
_OF_COMPARED = 1e-3
"""The same where rows are compared: vectors that are nearly equal leave small differences of large numbers."""
_NAMED = 5  # names that a message lists before it counts the rest


def check_accumulation(check_context: CheckContext) -> list[CheckResult]:
    """Check that N micro-batches of one row give the same loss and gradient as one batch of N rows.

    An objective that mixes neighbouring rows is checked with micro-batches of the rows that it mixes.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `accumulation`.
    """
    name = "accumulation"
    expected = f"the same loss and gradient to {TOLERANCE:g}, although rows have different numbers of targets"
    tolerance, batch = TOLERANCE, check_context.encoded
    if isinstance(check_context.objective, ComparingObjective):
        tolerance, expected = _OF_COMPARED, f"the same loss and gradient to {_OF_COMPARED:g}"
    else:
        batch = ragged(batch)
    rows, group = batch.inputs.shape[0], group_of(check_context.objective)
    if rows <= group:
        return [CheckResult(name, "warn", f"the batch has {counted(rows, 'row')} only", expected, "give more text")]
    singles = [batch.take(slice(row, row + group)) for row in range(0, rows, group)]
    with full_precision(check_context.trainer), lively(check_context.trainer), eval_mode(check_context.model):
        loss, gradients = _gradient(check_context, [batch])
        loss_of_singles, others = _gradient(check_context, singles)
    # The distance of the gradients relative to their norm (both as one vector over all weights), in float64.
    weight = max(math.sqrt(sum(float(one.double().square().sum()) for one in gradients.values())), 1e-30)
    squares = (
        float((gradients[key].double() - others[key].double()).square().sum()) for key in gradients.keys() & others
    )
    apart = max(math.sqrt(sum(squares)) / weight, abs(loss - loss_of_singles) / max(abs(loss), 1e-30))
    measured = (
        f"1 x {rows} rows: loss {loss:.6f}; {len(singles)} x {counted(group, 'row')}: {loss_of_singles:.6f}; "
        f"loss and gradient differ by at most {apart:.1e}"
    )
    if apart <= tolerance and gradients.keys() == others.keys():
        return [CheckResult(name, "ok", measured, expected)]
    remedy = "add up sums and weights over micro-batches and divide once; a mean of means overweights short rows"
    return [CheckResult(name, "fail", measured, expected, remedy)]


def check_gradients(check_context: CheckContext) -> list[CheckResult]:
    """Check that every trainable parameter gets a finite gradient, and that tied weights are one tensor.

    Args:
        check_context: Training set-up to check.

    Returns:
        A result named `gradient_flow` and one named `tied_weights`.
    """
    with full_precision(check_context.trainer), lively(check_context.trainer), eval_mode(check_context.model):
        _, gradients = _gradient(check_context, [check_context.encoded])
    dead, bad, stuck, thawed = [], [], [], []
    for name, parameter in check_context.model.named_parameters():
        gradient = gradients.get(name)
        if name in check_context.frozen:
            if parameter.requires_grad:
                thawed.append(name)
        elif not parameter.requires_grad:
            stuck.append(name)
        elif gradient is None or not gradient.any():
            dead += [] if _without_tokens(name, gradients) else [name]
        elif not torch.isfinite(gradient).all():
            bad.append(name)
    faults = [
        ("without gradient", dead, "the loss does not depend on them: check that the model uses them"),
        ("with a gradient that is not finite", bad, "look for overflow, logarithms of 0 and roots of 0"),
        ("frozen by mistake", stuck, "set requires_grad on them before the trainer is made"),
        ("trainable by mistake", thawed, "freeze them before the trainer is made"),
    ]
    found = [(words, names, remedy) for words, names, remedy in faults if names]
    count = sum(1 for _ in check_context.model.named_parameters())
    expected = "a finite gradient other than 0 for every trainable parameter, and none for frozen ones"
    measured = "; ".join(f"{len(names)} {words}: {listed(names)}" for words, names, _ in found)
    trainable = count - len(check_context.frozen)
    measured = measured or f"{count} tensors: {trainable} have a gradient, {len(check_context.frozen)} are frozen"
    verdict = "fail" if found else "ok"
    flow = CheckResult("gradient_flow", verdict, measured, expected, "; ".join(remedy for _, _, remedy in found))
    return [flow, check_tied(check_context.module, check_context.tied, "tied_weights")]


def _without_tokens(name: str, gradients: dict[str, torch.Tensor]) -> bool:
    """Return whether a parameter belongs to one of several experts that no token of the batch chose.

    It is so where another expert of the same mixture has a gradient.
    """
    mixture, experts, rest = name.partition(".experts.")
    kind = rest.partition(".")[2]
    others = (grad for key, grad in gradients.items() if key.startswith(mixture + experts) and key.endswith(kind))
    return bool(experts) and any(bool(grad.any()) for grad in others)


def check_tied(module: nn.Module, tied: bool, name: str) -> CheckResult:
    """Check whether head and embedding share one tensor, as they should, and return the result.

    Args:
        module: Model with an `output_projection` method.
        tied: Whether they should share one tensor.
        name: Name of the result.
    """
    head = module.output_projection()[0]  # pyright: ignore[reportCallIssue]
    shared = any(
        layer.weight.data_ptr() == head.data_ptr() for layer in module.modules() if isinstance(layer, nn.Embedding)
    )
    measured = f"head and embedding are {'one tensor' if shared else 'two tensors'}"
    expected = "one tensor, since the model is tied" if tied else "two tensors, since the model is not tied"
    if shared == tied:
        return CheckResult(name, "ok", measured, expected)
    remedy = "tie them after loading (output.weight = embedding.weight)" if tied else "give the head its own weight"
    return CheckResult(name, "fail", measured, expected, f"{remedy}; otherwise training contradicts the configuration")


def check_optimizer(check_context: CheckContext) -> list[CheckResult]:
    """Check that the optimiser updates every trainable weight, each once, with a learning rate above 0.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `optimizer`.
    """
    trainer = check_context.trainer
    names = {id(weight): name for name, weight in trainer.master_weights.weights.items()}
    held: dict[str, float] = {}
    twice: list[str] = []
    for optimizer, lrs in zip(trainer.optimizers.optimizers, trainer.optimizers.lrs, strict=True):
        for group, rate in zip(optimizer.param_groups, lrs, strict=True):
            for weight in group["params"]:
                name = names.get(id(weight), "a tensor that is not a weight of the model")
                twice += [name] if name in held else []
                held[name] = float(rate)
    missing = sorted(set(names.values()) - set(held))
    still = sorted(name for name, rate in held.items() if not rate > 0)
    most = max(trainer.schedule.factor(step, trainer.steps) for step in _some(trainer))
    faults = [
        f"{len(wrong)} {words}: {listed(wrong)}"
        for words, wrong in (
            ("not in the optimiser", missing),
            ("with learning rate 0", still),
            ("in the optimiser twice", twice),
        )
        if wrong
    ] + ([] if most > 0 else ["the schedule is 0 at every step"])
    lrs = sorted(set(held.values()))
    measured = "; ".join(faults) or f"{len(held)} tensors with peak learning rates from {lrs[0]:g} to {lrs[-1]:g}"
    remedy = "make the optimiser after the model is complete, with all its parameters and learning rates above 0"
    expected = "every trainable weight is in the optimiser once, with a learning rate above 0"
    return [CheckResult("optimizer", "fail" if faults else "ok", measured, expected, remedy if faults else "")]


def _some(trainer: Trainer) -> list[int]:
    return sorted({trainer.steps * share // 16 for share in range(16)} | {min(trainer.steps - 1, 10)})


def _gradient(check_context: CheckContext, micro_batches: list[Batch]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss of one training step over micro-batches, and its gradients by parameter name."""
    trainer = check_context.trainer
    kept = trainer.batches, trainer.objective, trainer.scale, trainer.report
    try:
        train_on(trainer, check_context.objective, [micro_batches])
        trainer.scale, trainer.report = LossScale(False), _refuse
        step = Step(0, 0.0, trainer, recover=False)
        step.backward()
        weights = trainer.master_weights.weights
        found = {name: weight.grad.detach().clone() for name, weight in weights.items() if weight.grad is not None}
        return step.loss, found
    finally:
        trainer.master_weights.clear()
        trainer.batches, trainer.objective, trainer.scale, trainer.report = kept


def _refuse(text: str) -> None:
    raise LavraError(f"the check's batch does not fit into memory: {text}", "choose a smaller model")


def listed(names: list[str]) -> str:
    """Return the first few names as text, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
