"""A step's gradient can be computed again, elsewhere, and what is only measured is never smoothed."""

from __future__ import annotations

import pytest
import torch

from lavra.objectives.causal import Causal
from lavra.training.step import Step
from lavra.training.updates import Clip
from lavra.training.updates.base import Inner, Outcome, Update
from tiny_training import CONTEXT, SPEC, all_tensors, assert_same_bits, lively, run, tiny_trainer


class Ascent(Update):
    """Sharpness-aware minimisation in its plainest form: the gradient of a point a little uphill.

    Args:
        rho: distance uphill; 0 is no update at all.
        record: whether the second gradient's loss is taken for the step's.
    """

    name = "ascent"
    gradients_per_step = 2

    def __init__(self, rho: float, record: bool) -> None:
        self.rho, self.record = rho, record
        self.norms: list[float] = []

    def around(self, step: Step, inner: Inner) -> Outcome:
        weights = step.master_weights.weights
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        norm = step.gradient_norm()
        with torch.no_grad():
            for weight in weights.values():
                if weight.grad is not None:
                    weight += self.rho / norm * weight.grad
        step.master_weights.copy_to_model()
        step.backward(record=self.record)
        self.norms.append(norm)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
        step.master_weights.copy_to_model()
        return inner()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_second_gradient_leaves_the_steps_own_figures(precision):
    ascent = Ascent(0.5, record=False)
    trainer = tiny_trainer(model=lively(SPEC), precision=precision, updates=lambda trainer: [ascent])
    plain = tiny_trainer(model=lively(SPEC), precision=precision)
    (report,), (usual,) = run(trainer, 1), run(plain, 1)
    assert report.loss == usual.loss
    assert report.gradient_norm == usual.gradient_norm == ascent.norms[0]
    moved = [
        torch.equal(trainer.master_weights.weights[name], plain.master_weights.weights[name])
        for name in plain.master_weights.weights
    ]
    assert not all(moved)


def test_a_second_gradient_can_be_the_steps():
    trainer = tiny_trainer(model=lively(SPEC), updates=lambda trainer: [Ascent(0.5, record=True)])
    (report,), (usual,) = run(trainer, 1), run(tiny_trainer(model=lively(SPEC)), 1)
    assert report.loss > usual.loss


def test_at_no_distance_it_is_the_plain_step():
    trainer, plain = tiny_trainer(updates=lambda trainer: [Ascent(0.0, record=False)]), tiny_trainer()
    run(trainer)
    run(plain)
    assert all(
        torch.equal(weight, plain.master_weights.weights[name])
        for name, weight in trainer.master_weights.weights.items()
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_smoothing_is_for_learning_also_where_only_the_head_learns(frozen):
    trainer = tiny_trainer(model=lively(SPEC))
    (batch,) = trainer.batches.micro_batches(0)
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(not frozen or name.startswith("output"))
    plain, smoothed = Causal(CONTEXT), Causal(CONTEXT, label_smoothing=0.2)
    usual = plain.loss(trainer.model, batch).sum.item()
    assert smoothed.loss(trainer.model, batch).sum.item() != pytest.approx(usual, rel=1e-3)
    assert smoothed.loss(trainer.model, batch, learning=False).sum.item() == pytest.approx(usual, rel=1e-6)


def test_gradients_of_several_updates_add_up():
    class Sometimes(Ascent):
        name, gradients_per_step = "sometimes", 1.25

    trainer = tiny_trainer(updates=lambda trainer: [Ascent(0.0, record=False), Clip(), Sometimes(0.0, record=False)])
    assert trainer.gradients_per_step == 2.25
    assert tiny_trainer().gradients_per_step == 1.0


def test_an_update_that_only_has_a_name_is_the_run_without_it():
    class Nothing(Update):
        name = "nothing"

    trainer, plain = tiny_trainer(updates=lambda trainer: [Nothing()]), tiny_trainer()
    run(trainer)
    run(plain)
    assert_same_bits(all_tensors(trainer), all_tensors(plain))
    tensors, state = trainer.tensors(), trainer.state()
    again = tiny_trainer(updates=lambda trainer: [Nothing()])
    again.restore(tensors.__getitem__, state)
    assert again.step == trainer.step
