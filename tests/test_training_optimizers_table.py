"""The optimisers by name: each against its library or its paper, at its neutral values, and in a trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from edited_models import base_model
from hf_models import FAMILIES
from lavra.cli import options as command_line
from lavra.config.choices import OptimizerName
from lavra.config.training import OptimizationConfig, TrainConfig
from lavra.core.configuration import from_toml
from lavra.core.errors import InputError
from lavra.models.native.building import build_decoder
from lavra.models.parameter_names import kind_of
from lavra.objectives.causal import Causal
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.memory import estimate_memory
from lavra.training.optimizers import soap
from lavra.training.optimizers.adafactor import Adafactor
from lavra.training.optimizers.adamw import AdamW
from lavra.training.optimizers.adamw8bit import AdamW8bit
from lavra.training.optimizers.lion import Lion
from lavra.training.optimizers.optimizers import OptimizerOptions, Optimizers, layer_factors
from lavra.training.optimizers.schedule_free import ScheduleFreeAdamW
from lavra.training.optimizers.shampoo import Shampoo, inverse_root
from lavra.training.optimizers.soap import SOAP
from lavra.training.optimizers.table import METHODS
from lavra.training.updates import AnomalyGuard, Clip, GradualUnfreezing, ScheduleFreeWeights, SharpnessAware
from lavra.workflows.training.limits import refuse_impossible
from lavra.workflows.training.optimization import optimizer_options, options_after_bigrams, schedule_of
from tiny_training import SPEC, Poisoned, all_tensors, assert_same_bits, distance, lively, run, tiny_trainer

NAMES: tuple[OptimizerName, ...] = get_args(OptimizerName)
SHAPES = ((64, 96), (96, 64), (7,))


def drawn(shapes: tuple[tuple[int, ...], ...] = SHAPES, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def learned(make: Callable[[Any], Any], steps: int, shapes: Any = SHAPES) -> list[torch.Tensor]:
    """Return weights after some steps on the same gradients for every optimiser."""
    weights = [torch.nn.Parameter(weight) for weight in drawn(shapes)]
    optimizer = make(weights)
    for step in range(steps):
        for weight, gradient in zip(weights, drawn(shapes, step + 1), strict=True):
            weight.grad = gradient * 0.1 + weight.detach() * 0.2
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_the_table_holds_every_name_and_each_weight_goes_to_one_optimiser() -> None:
    assert set(METHODS) == set(NAMES)
    weights = dict(build_decoder(SPEC).named_parameters())
    for name in NAMES:
        optimizers = Optimizers(weights, OptimizerOptions(name))
        held = [id(weight) for one in optimizers.optimizers for group in one.param_groups for weight in group["params"]]
        assert sorted(held) == sorted(map(id, weights.values()))


# Against the libraries and the papers.


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lion_is_the_librarys_to_the_bit(decay: float) -> None:
    library = pytest.importorskip("pytorch_optimizer")
    ours = learned(lambda weights: Lion(weights, lr=0.01, weight_decay=decay), 6)
    theirs = learned(lambda weights: library.Lion(weights, lr=0.01, betas=(0.9, 0.99), weight_decay=decay), 6)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_adafactor_is_torchs_to_the_bit() -> None:
    ours = learned(lambda weights: Adafactor(weights, lr=0.02, weight_decay=0.1), 6)
    theirs = learned(
        lambda weights: torch.optim.Adafactor(weights, lr=0.02, eps=(1e-15, 0.1), weight_decay=0.1, foreach=False), 6
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_adafactor_leaves_the_row_of_a_token_that_never_occurs_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = Adafactor([weight])
    for _ in range(3):
        weight.grad = torch.zeros(4, 3)
        weight.grad[1] = 1e-9
        optimizer.step()
    assert torch.equal(weight.detach()[0], torch.ones(3))
    assert float(weight.detach()[1, 0]) < 0.98


def test_soap_is_the_librarys() -> None:
    library = pytest.importorskip("pytorch_optimizer")
    shapes = SHAPES[:2]
    ours = learned(lambda weights: SOAP(weights, lr=0.01), 25, shapes)
    theirs = learned(lambda weights: library.SOAP(weights, lr=0.01, weight_decay=0.0), 25, shapes)
    for one, other, begun in zip(ours, theirs, drawn(shapes), strict=True):
        assert float((one - other).norm()) < 2e-3 * float((other - begun).norm())


def test_schedule_free_adamw_is_the_librarys_with_its_averages() -> None:
    library = pytest.importorskip("pytorch_optimizer")
    made: list[Any] = []

    def make(kind: Any, **options: Any) -> Callable[[list[torch.Tensor]], Any]:
        def build(weights: list[torch.Tensor]) -> Any:
            made.append(kind(weights, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, **options))
            return made[-1]

        return build

    ours = learned(make(ScheduleFreeAdamW), 12)
    theirs = learned(make(library.ScheduleFreeAdamW), 12)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    averages = [made[0].averaged(weight) for weight in made[0].param_groups[0]["params"]]
    made[1].eval()
    for one, other in zip(averages, made[1].param_groups[0]["params"], strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-5, atol=1e-6)


def test_schedule_free_averages_what_the_paper_averages() -> None:
    weight, rates = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64)), [0.02, 0.05, 0.1, 0.1]
    optimizer = ScheduleFreeAdamW([weight], betas=(0.8, 0.95), eps=0.0)
    x = z = 1.0
    square = total = 0.0
    for step, rate in enumerate(rates, 1):
        y = (1 - 0.8) * z + 0.8 * x
        assert float(weight.detach()) == pytest.approx(y, rel=1e-12)
        gradient = y - 3.0
        square = 0.95 * square + 0.05 * gradient * gradient
        z -= rate * gradient / math.sqrt(square / (1 - 0.95**step))
        total += rate * rate
        x += (z - x) * rate * rate / total
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = (weight - 3.0).detach()
        optimizer.step()
        assert float(optimizer.averaged(weight)) == pytest.approx(x, rel=1e-10)


def test_adamw_of_8_bits_is_the_librarys_to_the_bit() -> None:
    library = pytest.importorskip("bitsandbytes").optim
    shapes = SHAPES[:2]
    ours = learned(lambda weights: AdamW8bit(weights, lr=0.01, weight_decay=0.1), 6, shapes)
    theirs = learned(
        lambda weights: library.AdamW8bit(weights, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1), 6, shapes
    )
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_shampoo_goes_where_the_paper_says_as_far_as_adam_goes() -> None:
    shape, steps = (6, 9), 4
    begun, weight = drawn((shape,))[0], torch.nn.Parameter(drawn((shape,))[0])
    optimizer = Shampoo([weight], lr=0.1, betas=(0.9, 0.95), frequency=2)
    mean, square, left, right = (torch.zeros(*size, dtype=torch.float64) for size in (shape, shape, (6, 6), (9, 9)))
    expected = begun.double()
    roots: tuple[torch.Tensor, ...] = ()
    for step in range(1, steps + 1):
        gradient = drawn((shape,), step)[0]
        weight.grad = gradient.clone()
        optimizer.step()
        wide = gradient.double()
        mean, square = 0.9 * mean + 0.1 * wide, 0.95 * square + 0.05 * wide * wide
        left, right = 0.95 * left + 0.05 * wide @ wide.T, 0.95 * right + 0.05 * wide.T @ wide
        adam = (mean / (1 - 0.9**step)) / (square / (1 - 0.95**step)).sqrt()
        if step % 2 == 0:
            roots = tuple(power(part, -0.25) for part in (left, right))
        direction = adam if not roots else roots[0] @ mean @ roots[1]
        expected -= 0.1 * direction * adam.norm() / direction.norm()
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-3, atol=1e-3)


def power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(0.0) + 1e-6 * values[-1]
    return vectors @ torch.diag(values.pow(exponent)) @ vectors.T


def test_the_inverse_root_is_one_and_a_zero_matrix_has_a_finite_one() -> None:
    matrix = drawn(((12, 20),))[0]
    statistics = matrix @ matrix.T
    root = inverse_root(statistics, 4).double()
    torch.testing.assert_close(
        root @ root @ root @ root @ statistics.double(), torch.eye(12).double(), rtol=1e-3, atol=1e-3
    )
    assert torch.isfinite(inverse_root(torch.zeros(3, 3), 4)).all()


# Neutral values.


def test_lion_without_averages_is_the_sign_of_the_gradient() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = Lion([weight], lr=0.5, betas=(0.0, 0.0))
    for gradient in ([1.0, -2.0, 0.0], [-3.0, -0.1, 0.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    assert weight.tolist() == [0.0, 1.0, 0.0]


def test_shampoo_is_adam_until_its_first_roots() -> None:
    ours = learned(lambda weights: Shampoo(weights, lr=0.01, eps=1e-10), 9, SHAPES[:2])
    adam = learned(lambda weights: AdamW(weights, lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0), 9, SHAPES[:2])
    for one, other in zip(ours, adam, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_soap_without_bases_is_adam_from_the_second_gradient_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LARGEST_SIDE", 0)
    weights = [torch.nn.Parameter(torch.ones(4, 5)) for _ in range(2)]
    ours = SOAP([weights[0]], lr=0.01, betas=(0.9, 0.95), eps=0.0)
    adam = AdamW([weights[1]], lr=0.01, betas=(0.9, 0.95), eps=0.0, weight_decay=0.0)
    for step in range(5):
        for weight in weights:
            weight.grad = drawn(((4, 5),), step)[0]
        ours.step()
        if step:
            adam.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_small_weights_and_embeddings_keep_a_state_of_32_bits() -> None:
    pytest.importorskip("bitsandbytes")
    weights = {
        "embedding.weight": torch.zeros(400, 64),
        "blocks.0.mlp.up.weight": torch.zeros(64, 64),
        "blocks.0.attention.output.weight": torch.zeros(64, 63),
        "blocks.0.norm.weight": torch.zeros(5000),
        "output.weight": torch.zeros(400, 64),
    }
    optimizers = Optimizers(weights, OptimizerOptions("adamw-8bit"))
    kinds = {
        optimizers.names[id(weight)]: type(one).__name__
        for one in optimizers.optimizers
        for group in one.param_groups
        for weight in group["params"]
    }
    eight = {"blocks.0.mlp.up.weight", "output.weight"}
    assert kinds == {name: "AdamW8bit" if name in eight else "AdamW" for name in weights}


# In a trainer.


def trainer_with(name: OptimizerName, **options: Any) -> Any:
    def chain(trainer: Any) -> list[Any]:
        averages = METHODS[name].averages
        return [
            *([ScheduleFreeWeights(trainer.master_weights, trainer.optimizers)] if averages else []),
            *options.get("updates", lambda _: [])(trainer),
        ]

    settings = {"optimizer": OptimizerOptions(name), "steps": 12, "model": lively(SPEC)} | options
    return tiny_trainer(**{**settings, "updates": chain})


@pytest.fixture(autouse=True)
def _with_bitsandbytes(request: pytest.FixtureRequest) -> None:
    if "adamw-8bit" in request.node.name:
        pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("name", NAMES)
def test_each_learns(name: OptimizerName) -> None:
    lr = 0.003 * METHODS[name].lr_factor
    trainer = trainer_with(name, optimizer=OptimizerOptions(name, learning_rate=lr), steps=40)
    reports = run(trainer)
    assert all(report.applied for report in reports)
    assert reports[-1].loss < 0.9 * reports[0].loss


@pytest.mark.parametrize("name", NAMES)
def test_a_refused_step_leaves_weights_and_state_as_they_were(name: OptimizerName) -> None:
    trainer = trainer_with(
        name,
        steps=6,
        objective=Poisoned({3}, 6),
        updates=lambda _: [AnomalyGuard("skip", lambda step, reason: None)],
    )
    run(trainer, 3)
    before = all_tensors(trainer)
    (report,) = run(trainer, 1)
    assert not report.applied
    assert_same_bits(all_tensors(trainer), before)
    assert run(trainer, 1)[0].applied


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_joins_later_counts_its_own_steps(name: OptimizerName) -> None:
    """Gradual unfreezing: what joins late starts with the state, and the corrections, of a first step."""
    trainer = trainer_with(
        name, updates=lambda trainer: [GradualUnfreezing(trainer.master_weights.weights, 0.5), Clip(1.0)]
    )
    before = {key: weight.detach().clone() for key, weight in trainer.master_weights.weights.items()}
    run(trainer, 2)
    (late, early) = "embedding.weight", "output.weight"
    assert torch.equal(before[late], trainer.master_weights.weights[late])
    assert not any(key.startswith(f"{late}|") for key in trainer.optimizers.tensors())
    run(trainer)
    steps = {key.split("|")[0]: float(value) for key, value in trainer.optimizers.tensors().items() if "|step" in key}
    if late in steps and early in steps:
        assert steps[late] < steps[early] == 12.0
    assert not torch.equal(before[late], trainer.master_weights.weights[late])


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_sharpness_and_a_resume_give_the_run(name: OptimizerName, tmp_path: Path) -> None:
    from test_training_restore import through_disk

    def make(size: int = 4) -> Any:
        return trainer_with(name, micro_batch_size=size, updates=lambda _: [SharpnessAware(0.05), Clip(0.5)])

    whole, parts, stopped = make(), make(2), make()
    run(whole)
    run(parts, 1)
    one = make()
    run(one, 1)
    assert distance(parts.tensors()["master_weights"], one.tensors()["master_weights"]) < 1e-3
    run(stopped, 11)  # beyond the tenth step, in which bases and roots are renewed
    load, state = through_disk(stopped, tmp_path / "saved")
    resumed = make()
    resumed.restore(load, state)
    run(resumed)
    assert_same_bits(all_tensors(resumed), all_tensors(whole))
    with whole.eval_mode(), resumed.eval_mode():
        assert_same_bits(all_tensors(resumed), all_tensors(whole))


@pytest.mark.parametrize("name", NAMES)
def test_rates_decay_by_layer(name: OptimizerName) -> None:
    weights = dict(build_decoder(SPEC).named_parameters())

    def rates(decay: float) -> dict[str, float]:
        optimizers = Optimizers(weights, OptimizerOptions(name, layer_decay=decay))
        return {
            optimizers.names[id(weight)]: group["lr"]
            for one in optimizers.optimizers
            for group in one.param_groups
            for weight in group["params"]
        }

    factors = layer_factors(weights, 0.5)
    assert rates(0.5) == pytest.approx({key: rate * factors[key] for key, rate in rates(1.0).items()})


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_knows_the_bytes_of_the_state(name: OptimizerName) -> None:
    spec = replace(SPEC, vocabulary=512, context=64, width=128)
    dry_run = DryRun(spec, 64, "fp32", OptimizerOptions(name))
    trainer = dry_run.trainer(2, lambda: build_decoder(spec))
    run(trainer, 2)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in trainer.optimizers.tensors().values())
    assert estimate_memory(dry_run, 2).optimizer == pytest.approx(measured, rel=0.03)


def test_the_state_in_bytes_for_each_weight_is_what_the_guide_says() -> None:
    spec = replace(SPEC, vocabulary=512, context=64, width=128, depth=4)
    weights = sum(weight.numel() for weight in build_decoder(spec).parameters())
    found = {
        name: estimate_memory(DryRun(spec, 64, "fp32", OptimizerOptions(name)), 1).optimizer / weights for name in NAMES
    }
    assert found["adamw"] == pytest.approx(8.0, rel=0.02)
    assert found["lion"] == pytest.approx(4.0, rel=0.02)
    assert found["schedule-free-adamw"] == pytest.approx(8.0, rel=0.02)
    assert found["adafactor"] < 0.2
    assert found["adamw-8bit"] < 0.6 * found["adamw"]
    assert found["adamw"] < found["soap"]
    assert found["adamw"] < found["shampoo"]


# The averages of the schedule-free one.


def test_schedule_free_is_measured_at_its_averages_and_learns_on_as_if_it_had_not_been() -> None:
    measured, plain = trainer_with("schedule-free-adamw"), trainer_with("schedule-free-adamw")
    with measured.eval_mode():
        assert_same_bits(measured.tensors()["master_weights"], plain.tensors()["master_weights"])
    for trainer in (measured, plain):
        run(trainer, 5)
    raw = {key: weight.detach().clone() for key, weight in measured.master_weights.weights.items()}
    optimizer = measured.optimizers.optimizers[0]
    expected = {key: optimizer.averaged(weight) for key, weight in measured.master_weights.weights.items()}
    with measured.eval_mode():
        assert_same_bits({key: w.detach() for key, w in measured.master_weights.weights.items()}, expected)
    assert distance(expected, raw) > 1e-4
    run(measured)
    run(plain)
    assert_same_bits(all_tensors(measured), all_tensors(plain))


def test_schedule_free_takes_no_other_average() -> None:
    config = TrainConfig(("text",), optimization=OptimizationConfig(name="schedule-free-adamw"))
    refuse_impossible(config)
    with pytest.raises(InputError, match="averages the weights by itself"):
        refuse_impossible(replace(config, average=replace(config.average, kind="ema")))
    assert schedule_of(config.optimization, False, 100).shape == "constant"
    assert schedule_of(replace(config.optimization, schedule="cosine"), False, 100).shape == "cosine"


# Options.


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(InputError) as told:
        from_toml(TrainConfig, '[optimization]\nname = "lyon"', "recipe.toml")
    assert all(name in str(told.value) for name in NAMES)
    assert "did you mean 'lion'" in str(told.value)


def test_the_flag_has_a_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    def parsed(name: str) -> TrainConfig:
        return command_line.parse(TrainConfig, ["text", "--optimizer", name], prog="lavra train", description="")[0]

    assert parsed("soap").optimization.name == "soap"
    with pytest.raises((SystemExit, InputError)) as told:
        parsed("sop")
    said = capsys.readouterr().err + str(told.value)
    assert all(name in said for name in NAMES)


def test_rates_are_those_of_adamw_times_a_factor_unless_they_are_given() -> None:
    adamw = optimizer_options(OptimizationConfig(name="adamw"), True)
    for name in NAMES:
        found = optimizer_options(OptimizationConfig(name=name), True)
        assert found.learning_rate == pytest.approx(adamw.learning_rate * METHODS[name].lr_factor)
        asked = OptimizationConfig(name=name, learning_rate=0.5)
        assert optimizer_options(asked, True).learning_rate == 0.5
    lion = optimizer_options(OptimizationConfig(name="lion"), False, spec=SPEC)
    assert lion.embedding_lr == pytest.approx(0.15 * 0.2)


def test_after_a_warm_start_only_head_and_embedding_are_gentle() -> None:
    config = OptimizationConfig(name="soap")
    options = optimizer_options(config, False, spec=SPEC)
    found = options_after_bigrams(config, options, 1e5, 8192)
    assert found.learning_rate < 0.1 * options.learning_rate
    assert found.matrix_lr == pytest.approx(options.learning_rate * 1e5 / 8192**1.5 / 0.3)
    given = replace(config, learning_rate=0.01)
    assert options_after_bigrams(given, optimizer_options(given, False, spec=SPEC), 1e5, 8192).matrix_lr is None


def test_betas_and_eps_reach_the_optimiser_and_their_defaults_are_its_own() -> None:
    weights = dict(build_decoder(SPEC).named_parameters())

    def settings(**asked: Any) -> dict[str, tuple[Any, Any]]:
        options = optimizer_options(OptimizationConfig(**asked), False, spec=SPEC)
        found = Optimizers(weights, options).optimizers
        return {type(one).__name__: (one.param_groups[0].get("betas"), one.param_groups[0].get("eps")) for one in found}

    assert settings(name="adamw") == {"AdamW": ((0.9, 0.95), 1e-10)}
    assert settings(name="adamw", beta2=0.999, eps=1e-8) == {"AdamW": ((0.9, 0.999), 1e-8)}
    assert settings(name="soap") == {"SOAP": ((0.95, 0.95), 1e-8), "AdamW": ((0.9, 0.95), 1e-10)}
    assert settings(name="lion", beta1=0.95) == {"Lion": ((0.95, 0.99), None)}
    assert settings(name="adafactor") == {"Adafactor": (None, 1e-15)}
    for name, asked, told in (("adafactor", {"beta1": 0.9}, "no betas"), ("lion", {"eps": 1e-8}, "no eps")):
        with pytest.raises(InputError, match=told):
            settings(name=name, **asked)


# The weight decay, by the kind of a parameter.


@pytest.mark.parametrize("name", ["ours", *FAMILIES])
def test_a_matrix_is_decayed_and_nothing_else(name: str) -> None:
    model = base_model(name)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    linear = {
        id(module.weight): module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    }
    found = {"embedding": 0, "matrix": 0, "other": 0}
    for key, weight in model.named_parameters():
        expected = "embedding" if id(weight) in tables else "matrix" if id(weight) in linear else "other"
        assert kind_of(key, weight.dim()) == expected, key
        found[expected] += 1
    assert all(found.values()) or name == "ours"  # whose norms have no weights
    optimizers = Optimizers(dict(model.named_parameters()), OptimizerOptions("adamw", weight_decay=0.1))
    decayed = {id(w) for g in optimizers.optimizers[0].param_groups if g["weight_decay"] for w in g["params"]}
    assert decayed == set(linear) - tables


def test_names_that_hold_the_word_and_are_no_embeddings() -> None:
    matrices = [
        "embed_out.weight",
        "electra.embeddings_project.weight",
        "albert.encoder.embedding_hidden_mapping_in.weight",
    ]
    assert {kind_of(name, 2) for name in matrices} == {"matrix"}
    assert kind_of("backbone.layers.0.mixer.A_log", 2) == "other"
    assert kind_of("model.layers.0.mlp.experts.gate_up_proj", 3) == "matrix"
    assert kind_of("model.layers.0.mlp.experts.gate_up_proj_bias", 2) == "other"


# The gradient of the embedding.


def gradients(model: Any, factor: float) -> dict[str, torch.Tensor]:
    trainer = tiny_trainer(model=model, optimizer=OptimizerOptions(embedding_gradient=factor))
    from lavra.training.step import Step

    step = Step(0, 0.0, trainer)
    step.backward()
    found = {
        name: weight.grad.clone() for name, weight in trainer.master_weights.weights.items() if weight.grad is not None
    }
    return {**found, "loss": torch.tensor(step.loss, dtype=torch.float64)}


def test_the_gradient_of_the_embedding_shrinks_and_nothing_else_changes() -> None:
    plain, shrunk = gradients(lively(SPEC), 1.0), gradients(lively(SPEC), 0.1)
    torch.testing.assert_close(shrunk.pop("embedding.weight"), 0.1 * plain.pop("embedding.weight"))
    assert_same_bits(shrunk, plain)


def test_a_head_that_is_the_embedding_adds_its_whole_gradient() -> None:
    tied = replace(SPEC, tied=True)
    plain, half, none = (gradients(lively(tied), factor)["embedding.weight"] for factor in (1.0, 0.5, 1e-9))
    torch.testing.assert_close(half, (plain + none) / 2, rtol=1e-4, atol=1e-6)
    assert float((none - plain).norm()) > 1e-3


def test_a_wrapped_model_shrinks_it_too_and_a_frozen_embedding_is_refused() -> None:
    from lavra.training.embedding_gradient import shrink_embedding_gradient

    model = base_model("gpt2")
    shrink_embedding_gradient(model, 0.25)
    ids = torch.tensor([[1, 2]])
    model.embed(ids).sum().backward()
    table = model.inner.get_input_embeddings().weight
    assert float(table.grad[1].mean()) == pytest.approx(0.25)
    table.requires_grad_(False)
    with pytest.raises(InputError, match="needs an embedding that is trained"):
        shrink_embedding_gradient(model, 0.5)


def test_a_factor_of_one_moves_no_bit() -> None:
    plain, same = tiny_trainer(), tiny_trainer(optimizer=OptimizerOptions(embedding_gradient=1.0))
    run(plain)
    run(same)
    assert_same_bits(all_tensors(same), all_tensors(plain))


# The z-loss.


def test_z_loss_is_the_square_of_the_log_normaliser_and_zero_moves_no_bit() -> None:
    from lavra.objectives.cross_entropy import summed_cross_entropy

    features, head = (part.double().requires_grad_() for part in drawn(((5, 3), (7, 3))))
    targets, kept = torch.tensor([0, 6, -100, 3, 2]), torch.tensor([True, True, False, True, True])
    weights = torch.tensor([1.0, 0.5, 1.0, 2.0, 0.0])
    loss = summed_cross_entropy(features, head, targets, weights=weights, z_loss=0.3, label_smoothing=0.1)
    loss.backward()
    assert features.grad is not None
    assert head.grad is not None
    found = features.grad.clone(), head.grad.clone()
    features.grad = head.grad = None
    logits = features @ head.T
    log_p = logits.log_softmax(-1)
    plain = -(0.9 * log_p.gather(1, targets.clamp(min=0)[:, None])[:, 0] + 0.1 * log_p.mean(-1))
    expected = ((plain + 0.3 * logits.logsumexp(-1) ** 2) * weights * kept).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(found[0], features.grad)
    torch.testing.assert_close(found[1], head.grad)


def test_z_loss_reaches_the_objective_inside_and_is_not_measured() -> None:
    from lavra.objectives.cutout import Cutout
    from lavra.objectives.span import Span
    from lavra.objectives.z_loss import with_z_loss

    plain = Causal(32)
    assert with_z_loss(plain, 0.0) is plain
    trainer = tiny_trainer(objective=with_z_loss(plain, 0.1))
    batch = trainer.batches.micro_batches(0)[0]
    learned_loss, measured, without = (
        float(objective.loss(trainer.model, batch, learning=learning).sum.detach())
        for objective, learning in ((trainer.objective, True), (trainer.objective, False), (plain, True))
    )
    assert learned_loss > measured == pytest.approx(without)
    import numpy as np

    wrapped = with_z_loss(Cutout(plain, np.zeros(400, dtype=bool), 0.1, None), 0.2)
    assert wrapped.inner.z_loss == 0.2
    with pytest.raises(InputError, match="predict tokens"):
        with_z_loss(Span(32), 0.1)
