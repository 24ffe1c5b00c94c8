"""Which optimiser takes which parameter, and at what rate."""

from __future__ import annotations

import pytest
import torch

from edited_models import base_model
from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.core.errors import InputError
from lavra.models.transforms.apply import apply_transforms, learned_weights
from lavra.training.optimizers.optimizers import OptimizerOptions, Optimizers, layer_factors
from tiny_training import SPEC, lively, tiny_trainer


def taken(model: torch.nn.Module, options: OptimizerOptions) -> dict[str, tuple[str, float, float]]:
    """Return optimiser, rate and weight decay by parameter."""
    optimizers = Optimizers(dict(model.named_parameters()), options)
    return {
        optimizers.names[id(weight)]: (type(optimizer).__name__, group["lr"], group["weight_decay"])
        for optimizer in optimizers.optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    }


@pytest.mark.parametrize("name", ["ours", "gpt2", "opt", "t5", "bert", "bloom"])
def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(name: str) -> None:
    model = base_model(name)
    found = taken(model, OptimizerOptions(name="muon", weight_decay=0.1))
    assert set(found) == {key for key, _ in model.named_parameters()}
    muon = {key for key, (optimizer, *_) in found.items() if optimizer == "Muon"}
    blocks = (".h.", ".layers.", ".layer.", ".block.", "blocks.")
    shapes = {key: p.dim() for key, p in model.named_parameters()}
    assert muon == {
        key for key in found if shapes[key] == 2 and any(each in key for each in blocks) and "relative" not in key
    }
    assert not any(word in key for key in muon for word in ("embed", "wte", "wpe", "shared", "lm_head", "relative"))
    undecayed = [key for key, (optimizer, _, decay) in found.items() if optimizer == "AdamW" and not decay]
    assert all(
        shapes[key] < 2 or any(w in key for w in ("embed", "wte", "wpe", "shared", "relative")) for key in undecayed
    )


def test_adapters_are_learned_by_adamw() -> None:
    for kind in ("lora", "dora", "ia3"):
        model = base_model("t5")
        apply_transforms(model, TransformConfig(adapter=AdapterConfig(kind=kind, rank=4)))
        optimizers = Optimizers(learned_weights(model), OptimizerOptions(name="muon"))
        assert [type(each).__name__ for each in optimizers.optimizers] == ["AdamW"]


def test_embeddings_have_a_rate_of_their_own_that_the_reported_rate_is_not() -> None:
    model = lively(SPEC)
    options = OptimizerOptions(learning_rate=0.003, embedding_lr=0.15)
    lrs = {key: rate for key, (_, rate, _) in taken(model, options).items()}
    assert lrs["embedding.weight"] == 0.15
    assert lrs["output.weight"] == 0.003
    optimizers = Optimizers(dict(model.named_parameters()), options)
    optimizers.step(0.5)
    assert optimizers.learning_rate == pytest.approx(0.0015)
    assert {key: rate for key, (_, rate, _) in taken(model, OptimizerOptions(learning_rate=0.003)).items()}[
        "embedding.weight"
    ] == 0.003


def test_rates_decay_from_the_head_down_each_stack_by_itself() -> None:
    factors = layer_factors([key for key, _ in base_model("gpt2").named_parameters()], 0.5)
    prefix = "inner.transformer."
    assert factors[f"{prefix}h.1.mlp.c_fc.weight"] == 0.5
    assert factors[f"{prefix}h.0.ln_1.bias"] == 0.25
    assert factors[f"{prefix}wte.weight"] == factors[f"{prefix}wpe.weight"] == 0.125
    assert factors[f"{prefix}ln_f.weight"] == 1.0

    names = ["encoder.block.0.layer.0.a.weight", "encoder.block.1.layer.0.a.weight", "decoder.block.0.layer.2.a.weight"]
    factors = layer_factors([*names, "shared.weight", "lm_head.weight"], 0.1)
    assert list(factors.values()) == pytest.approx([0.01, 0.1, 0.1, 0.001, 1.0])


def test_every_rate_is_multiplied_and_one_changes_nothing() -> None:
    model = base_model("ours")
    plain, same = taken(model, OptimizerOptions()), taken(model, OptimizerOptions(layer_decay=1.0))
    assert plain == same
    decayed = taken(model, OptimizerOptions(layer_decay=0.5))
    factors = layer_factors(plain, 0.5)
    assert {key: rate for key, (_, rate, _) in decayed.items()} == pytest.approx(
        {key: rate * factors[key] for key, (_, rate, _) in plain.items()}
    )


def test_a_decayed_run_resumes_and_reports_the_whole_rate() -> None:
    options = OptimizerOptions(layer_decay=0.5, learning_rate=0.01)
    first = tiny_trainer(model=lively(SPEC), optimizer=options)
    report = [first.run_step() for _ in range(3)][-1]
    assert report.learning_rate == pytest.approx(0.01 * first.schedule.factor(2, 6))
    second = tiny_trainer(model=lively(SPEC, seed=1), optimizer=options)
    tensors = {group: {key: t.clone() for key, t in named.items()} for group, named in first.tensors().items()}
    second.restore(tensors.__getitem__, first.state())
    assert [first.run_step().loss for _ in range(2)] == [second.run_step().loss for _ in range(2)]


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(InputError, match="layer decay"):
        OptimizerOptions(layer_decay=decay)
