"""SAM, ASAM, AWP, FGM and gradual unfreezing: what each does, that it is nothing at its neutral value, and resumes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from safetensors.torch import load_file, save_file

from hf_models import hf_model
from lavra.core.errors import InputError
from lavra.models.protocols import IGNORED
from lavra.objectives.causal import Causal
from lavra.training.batches import DistributedInfo
from lavra.training.precision import MasterWeights, Precision
from lavra.training.step import Step
from lavra.training.trainer import Trainer
from lavra.training.updates import (
    AdversarialWeights,
    AnomalyGuard,
    Clip,
    FastGradientMethod,
    GradualUnfreezing,
    SharpnessAware,
)
from lavra.training.updates.perturbation import Perturbation, perturbed
from tiny_training import (
    CONTEXT,
    SPEC,
    Capture,
    Chain,
    Poisoned,
    all_tensors,
    assert_same_bits,
    distance,
    lively,
    run,
    tiny_trainer,
)
from two_processes import in_two_processes

NEUTRAL: dict[str, Chain] = {
    "sam": lambda _: [SharpnessAware(0.0)],
    "asam": lambda _: [SharpnessAware(0.0, adaptive=True, ascent_fraction=0.5)],
    "awp": lambda _: [AdversarialWeights(0.0)],
    "awp that never starts": lambda _: [AdversarialWeights(0.1, start=1.0)],
    "fgm": lambda trainer: [FastGradientMethod(0.0, trainer.master_weights)],
    "unfreezing": lambda trainer: [GradualUnfreezing(trainer.master_weights.weights, 0.0)],
}
ACTIVE: dict[str, Chain] = {
    "sam": lambda _: [SharpnessAware(0.1), Clip(0.5)],
    "sam by a part": lambda _: [SharpnessAware(0.1, ascent_fraction=0.5), Clip(0.5)],
    "asam": lambda _: [SharpnessAware(0.5, adaptive=True), Clip(0.5)],
    "awp": lambda _: [AdversarialWeights(0.02, start=0.4), Clip(0.5)],
    "awp clamped": lambda _: [AdversarialWeights(0.02, "clamped", 0.01), Clip(0.5)],
    "fgm": lambda trainer: [FastGradientMethod(0.5, trainer.master_weights), Clip(0.5)],
    "unfreezing": lambda trainer: [GradualUnfreezing(trainer.master_weights.weights, 0.8), Clip(0.5)],
    "unfreezing within sam": lambda trainer: [
        SharpnessAware(0.1),
        GradualUnfreezing(trainer.master_weights.weights, 0.8),
    ],
}
ROWS = 8


def trainer_with(chain: Chain, **options: Any) -> Trainer:
    settings: dict[str, Any] = {"model": lively(SPEC), "global_batch_size": ROWS, "micro_batch_size": ROWS} | options
    return tiny_trainer(updates=chain, **settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_at_its_neutral_value_it_is_the_run_without_it(name: str, precision: Precision):
    without, neutral = (trainer_with(chain, precision=precision) for chain in (lambda _: [], NEUTRAL[name]))
    assert [one.loss for one in run(without)] == [one.loss for one in run(neutral)]
    assert_same_bits(all_tensors(neutral), all_tensors(without))
    assert neutral.gradients_per_step == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ACTIVE)
def test_a_resumed_run_is_one_that_was_never_stopped(name: str, precision: Precision):
    whole, first, second = (trainer_with(ACTIVE[name], precision=precision, micro_batch_size=4) for _ in range(3))
    run(whole)
    run(first, 3)
    saved = {group: {key: value.clone() for key, value in part.items()} for group, part in first.tensors().items()}
    second.restore(saved.__getitem__, first.state())
    run(second)
    assert_same_bits(all_tensors(second), all_tensors(whole))
    plain = trainer_with(lambda _: whole.updates[1:], precision=precision, micro_batch_size=4)
    run(plain)
    shared = all_tensors(plain)
    assert distance({name: tensor for name, tensor in all_tensors(whole).items() if name in shared}, shared) > 1e-4


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
@pytest.mark.parametrize("name", ACTIVE)
def test_micro_batches_add_up_to_the_batch(name: str, micro_batch_size: int):
    found = []
    for size in (micro_batch_size, ROWS):
        capture = Capture()
        trainer = trainer_with(
            lambda trainer, capture=capture: [*ACTIVE[name](trainer), capture],
            micro_batch_size=size,
            objective=Causal(CONTEXT, label_smoothing=0.1),
        )
        run(trainer, 1)
        found.append(capture)
    parts, whole = found
    assert parts.losses[0] == pytest.approx(whole.losses[0], rel=1e-5)
    assert distance(parts.gradients[0], whole.gradients[0]) < 1e-4


def test_a_part_of_the_rows_is_the_same_on_several_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lavra.training.step.sums_over_ranks", lambda values, _: list(values))

    def rows(world: int, rank: int, size: int) -> list[list[int]]:
        info = DistributedInfo(rank, world)
        trainer = trainer_with(lambda _: [], distributed=info, micro_batch_size=size)
        step = Step(0, 0.0, trainer)
        step._share = 0.5
        return [row for batch in step._begin() for row in batch.inputs.tolist()]

    whole = rows(1, 0, ROWS)
    assert len(whole) == ROWS // 2
    assert whole == rows(1, 0, 2) == rows(2, 0, 4) + rows(2, 1, 2)


def as_rank(folder: Path) -> None:
    """What each of the processes below does: train with a perturbation that follows a part of the rows."""
    from lavra.training.distributed import join_ranks, wait_for_ranks

    distributed = join_ranks(torch.device("cpu"))
    capture = Capture()
    trainer = trainer_with(
        lambda trainer: [*ACTIVE["sam by a part"](trainer), capture], micro_batch_size=2, distributed=distributed
    )
    report = run(trainer, 1)[0]
    wait_for_ranks(distributed)
    figures = torch.tensor([report.loss, report.metrics["perturbed_loss"]], dtype=torch.float64)
    save_file({"figures": figures, **capture.gradients[0]}, folder / f"{distributed.rank}.safetensors")
    torch.distributed.destroy_process_group()


def test_two_processes_climb_where_one_climbs(tmp_path: Path):
    in_two_processes(f"from test_training_updates_techniques import as_rank; as_rank(Path({str(tmp_path)!r}))")
    capture = Capture()
    trainer = trainer_with(lambda trainer: [*ACTIVE["sam by a part"](trainer), capture])
    report = run(trainer, 1)[0]
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.pop("figures").tolist() == pytest.approx([report.loss, report.metrics["perturbed_loss"]], rel=1e-5)
        assert distance(found, capture.gradients[0]) < 1e-4


def test_a_part_without_a_target_is_replaced_by_the_whole():
    step = Step(0, 0.0, trainer_with(lambda _: []))
    (batch,) = step.micro_batches
    batch.targets[::2] = IGNORED
    batch._weigh()
    assert step.backward(share=0.5) == step.backward()


def test_sam_climbs_by_rho_along_the_gradient_and_the_loss_rises():
    capture = Capture()
    trainer = trainer_with(lambda _: [capture, SharpnessAware(0.1)])
    (report,) = run(trainer, 1)
    assert report.metrics["perturbed_loss"] > report.loss
    gradient = capture.gradients[0]
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in gradient.values()))
    other = trainer_with(lambda _: [])
    with torch.no_grad():
        for name, weight in other.master_weights.weights.items():
            weight.add_(gradient[name] * (0.1 / norm))
    (uphill,) = run(other, 1)
    assert uphill.loss == pytest.approx(report.metrics["perturbed_loss"], rel=1e-6)


@pytest.mark.parametrize("name", ["sam", "asam", "awp clamped", "fgm"])
def test_the_loss_rises_in_bf16_too(name: str):
    trainer = trainer_with(lambda trainer: ACTIVE[name](trainer), precision="bf16")
    (report,) = run(trainer, 1)
    assert report.metrics["perturbed_loss"] > report.loss


def changes_of(update: Perturbation, trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return the change that an update makes at the first step, and leave the gradients as they were."""
    step = Step(0, 0.0, trainer)
    step.backward()
    return {name: change.clone() for name, change in update.changes(step).items()}


def test_asam_is_sam_in_units_of_the_weights():
    trainer = trainer_with(lambda _: [])
    changes = changes_of(SharpnessAware(0.5, adaptive=True), trainer)
    weights = trainer.master_weights.weights
    sizes = {name: weights[name].detach().abs() + 0.01 for name in changes if not name.endswith("bias")}
    scaled = math.sqrt(
        sum(float((change / sizes.get(name, torch.ones(()))).square().sum()) for name, change in changes.items())
    )
    assert scaled == pytest.approx(0.5, rel=1e-4)
    plain = changes_of(SharpnessAware(0.5), trainer)
    assert math.sqrt(sum(float(one.square().sum()) for one in plain.values())) == pytest.approx(0.5, rel=1e-4)


def test_awp_moves_each_matrix_by_its_share_and_the_clamped_form_no_weight_farther_than_its_limit():
    trainer = trainer_with(lambda _: [])
    weights = trainer.master_weights.weights
    changes = changes_of(AdversarialWeights(0.02), trainer)
    assert set(changes) == {name for name, weight in weights.items() if weight.dim() > 1}
    for name, change in changes.items():
        assert float(change.norm()) == pytest.approx(0.02 * float(weights[name].detach().norm()), rel=1e-4)
    clamped = changes_of(AdversarialWeights(0.02, "clamped", 0.01), trainer)
    for name, change in clamped.items():
        inside = change.abs() <= 0.01 * weights[name].detach().abs() + 1e-12
        assert bool(inside.all())
        kept = change.abs() < 0.0099 * weights[name].detach().abs()
        torch.testing.assert_close(change[kept], changes[name][kept])


def test_fgm_adds_the_gradient_of_a_moved_embedding():
    clean, both = Capture(), Capture()
    trainer = trainer_with(lambda trainer: [clean, FastGradientMethod(0.5, trainer.master_weights), both])
    assert trainer.updates[1].tables == ["embedding.weight"]  # pyright: ignore[reportAttributeAccessIssue]
    run(trainer, 1)
    gradient = clean.gradients[0]["embedding.weight"]
    uphill = Capture()
    other = trainer_with(lambda _: [uphill])
    with torch.no_grad():
        other.master_weights.weights["embedding.weight"].add_(gradient * (0.5 / gradient.norm()))
    run(other, 1)
    expected = {name: part + uphill.gradients[0][name] for name, part in clean.gradients[0].items()}
    assert distance(both.gradients[0], expected) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert", "gpt2", "llama"])
def test_fgm_finds_the_table_of_tokens_and_no_other(family: str):
    model = hf_model(family)
    (name,) = FastGradientMethod(1.0, MasterWeights(model, "fp32")).tables
    assert model.get_parameter(name) is model.inner.get_input_embeddings().weight


def test_the_head_learns_first_and_the_embedding_last():
    capture = Capture()
    chain: Chain = lambda trainer: [GradualUnfreezing(trainer.master_weights.weights, 0.5), capture]  # noqa: E731
    run(trainer_with(chain, global_batch_size=2, micro_batch_size=2, steps=8), 5)
    learned = [
        {name.split(".")[0] + name.split(".")[1] * name.startswith("blocks") for name in gradients}
        for gradients in capture.gradients
    ]
    head = learned[0]
    assert "output" in head
    assert learned == [head, head, head | {"blocks1"}, head | {"blocks0", "blocks1"}, set.union(*learned)]
    assert "embedding" in learned[4] - learned[3]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_come_back_to_the_bit_also_after_an_error(precision: Precision):
    trainer = trainer_with(lambda _: [], precision=precision)
    before = all_tensors(trainer)
    changes = {name: torch.full_like(weight, 0.3) for name, weight in trainer.master_weights.weights.items()}
    with perturbed(trainer.master_weights, changes):
        assert distance(all_tensors(trainer), before) > 0.1
    with pytest.raises(ZeroDivisionError), perturbed(trainer.master_weights, changes):
        raise ZeroDivisionError
    assert_same_bits(all_tensors(trainer), before)


def test_a_second_gradient_that_is_not_finite_is_an_anomaly():
    told: list[str] = []

    class Infinite(SharpnessAware):
        def changes(self, step: Any) -> dict[str, torch.Tensor]:
            return {name: part * math.inf for name, part in super().changes(step).items()}

    trainer = trainer_with(lambda _: [AnomalyGuard("skip", lambda step, reason: told.append(reason)), Infinite(0.1)])
    before = all_tensors(trainer)
    report = run(trainer, 1)[0]
    assert not report.applied
    assert math.isfinite(report.loss)
    assert told == ["sam: the gradient at the perturbed weights is not finite"]
    assert_same_bits(all_tensors(trainer), before)


def test_a_first_gradient_that_is_not_finite_is_never_followed():
    trainer = trainer_with(
        lambda _: [AnomalyGuard("skip", lambda step, reason: None), SharpnessAware(0.1)],
        objective=Poisoned({0}, 6),
    )
    assert [report.applied for report in run(trainer, 2)] == [False, True]


def test_compiled_blocks_are_not_compiled_again():
    chain: Chain = lambda trainer: [SharpnessAware(0.1), GradualUnfreezing(trainer.master_weights.weights, 0.5)]  # noqa: E731
    trainer = trainer_with(chain, precision="bf16")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for block in trainer.model.blocks:  # pyright: ignore[reportAttributeAccessIssue]
        block.compile(backend="eager", dynamic=False)
    run(trainer, 1)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    run(trainer)
    assert graphs == torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_the_gradient_is_clipped_as_it_is_applied():
    before, after = Capture(), Capture()
    run(trainer_with(lambda _: [SharpnessAware(0.3), before, Clip(0.05), after]), 1)
    (uphill,), (clipped,) = before.gradients, after.gradients
    norm = math.sqrt(sum(float(part.double().square().sum()) for part in clipped.values()))
    assert norm == pytest.approx(0.05, rel=1e-4)
    assert distance({name: part * (0.05 / _norm(uphill)) for name, part in uphill.items()}, clipped) < 1e-5


def _norm(gradients: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in gradients.values()))


def test_what_a_step_costs():
    chain: Chain = lambda _: [SharpnessAware(0.1, ascent_fraction=0.25), AdversarialWeights(0.1, start=0.5)]  # noqa: E731
    assert trainer_with(chain).gradients_per_step == 1.75


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SharpnessAware(-1.0), "a distance of -1"),
        (lambda: SharpnessAware(0.1, ascent_fraction=0.0), "by 0 of the rows"),
        (lambda: AdversarialWeights(0.1, "other"), "'other' is no form"),  # pyright: ignore[reportArgumentType]
        (lambda: AdversarialWeights(0.1, limit=0.0), "a limit of 0"),
        (lambda: GradualUnfreezing(["a"], 1.0), "over 1 of the run"),
    ],
)
def test_impossible_values_are_refused(make: Any, told: str):
    with pytest.raises(InputError, match=told):
        make()


def test_an_embedding_that_does_not_learn_cannot_be_perturbed():
    model = lively(SPEC)
    model.embedding.weight.requires_grad_(False)
    with pytest.raises(InputError, match="needs one that is trained"):
        trainer_with(lambda trainer: [FastGradientMethod(0.5, trainer.master_weights)], model=model)
