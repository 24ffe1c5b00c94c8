"""Bases in 8 and 4 bits: frozen, learned over, never cast, and brought back to full precision when folded."""

from __future__ import annotations

import pytest
import torch

from edited_models import NAMES, base_model, learn, logits_of
from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.core.errors import InputError
from lavra.models.transforms.apply import apply_transforms, learned_weights, merge_transforms
from lavra.models.transforms.quantizing import Quantize, is_quantized
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.precision import MasterWeights
from tiny_training import SPEC, lively, tiny_trainer

BITS = (8, 4)


def over(bits: int) -> TransformConfig:
    return TransformConfig(quantize_base=bits, adapter=AdapterConfig(kind="lora", rank=4))  # pyright: ignore[reportArgumentType]


def bits_per_weight(model: torch.nn.Module) -> set[float]:
    """Return the bits that each weight takes in the layers that are held in few."""
    found = set()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and is_quantized(layer.weight):
            packed = getattr(layer.weight.data, "qdata", layer.weight.data)
            found.add(8 * packed.numel() * packed.element_size() / (layer.in_features * layer.out_features))
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", BITS)
def test_an_adapter_learns_over_a_base_in_few_bits_and_folds_exactly(name: str, bits: int) -> None:
    model = base_model(name)
    before, names, dtypes = logits_of(model), set(model.state_dict()), {p.dtype for p in model.parameters()}
    transforms = apply_transforms(model, over(bits))
    rounded = (logits_of(model) - before).abs().max() / before.abs().max()
    assert 0 < rounded < (0.02 if bits == 8 else 0.5)
    assert bits_per_weight(model) == {bits}
    assert all(".lora_" in key for key in learned_weights(model))

    losses = learn(model)
    assert losses[-1] < losses[0]
    check = merge_transforms(model, transforms, logits_of)
    assert check.holds
    assert check.largest_difference <= 1e-5
    assert set(model.state_dict()) == names
    assert {p.dtype for p in model.parameters()} == dtypes


@pytest.mark.parametrize("kind", ["dora", "ia3"])
@pytest.mark.parametrize("bits", BITS)
def test_other_adapters_go_over_few_bits_too(kind: str, bits: int) -> None:
    model = base_model("gpt2")
    adapter = AdapterConfig(kind=kind, rank=4)  # pyright: ignore[reportArgumentType]
    transforms = apply_transforms(model, TransformConfig(quantize_base=bits, adapter=adapter))  # pyright: ignore[reportArgumentType]
    losses = learn(model)
    assert losses[-1] < losses[0]
    assert merge_transforms(model, transforms, logits_of).holds


@pytest.mark.parametrize("bits", BITS)
def test_masters_hold_what_learns_and_leave_packed_bits_alone(bits: int) -> None:
    model = base_model("opt")
    apply_transforms(model, over(bits))
    packed = {key: p for key, p in model.named_parameters() if is_quantized(p)}
    before = {key: (type(p), p.dtype) for key, p in packed.items()}
    full = logits_of(model)
    master_weights = MasterWeights(model, "bf16")
    assert set(master_weights.weights) == set(learned_weights(model))
    assert {key: (type(p), p.dtype) for key, p in packed.items()} == before
    assert model.output_projection()[0].dtype == torch.bfloat16
    torch.testing.assert_close(logits_of(model).float(), full, rtol=0, atol=0.1 * float(full.detach().abs().max()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_trainer_learns_over_a_base_in_4_bits(precision: str) -> None:
    model = lively(SPEC)
    apply_transforms(model, over(4))
    frozen = {key: p.data.clone() for key, p in model.named_parameters() if not p.requires_grad and is_quantized(p)}
    options = OptimizerOptions(name="muon", learning_rate=0.01)
    trainer = tiny_trainer(model=model, optimizer=options, precision=precision)  # pyright: ignore[reportArgumentType]
    losses = [trainer.run_step().loss for _ in range(5)]
    assert losses[-1] < losses[0]
    assert set(trainer.tensors()["master_weights"]) == set(learned_weights(model))
    now = dict(model.named_parameters())
    assert all(torch.equal(value, now[key].data) for key, value in frozen.items())
    assert len(trainer.optimizers.optimizers) == 1  # AdamW alone: Muon is not for low-rank factors


def test_the_same_weights_are_packed_in_the_same_way() -> None:
    first, second = (base_model("gpt2") for _ in range(2))
    for model in (first, second):
        Quantize(4).apply(model)
    assert torch.equal(logits_of(first), logits_of(second))


def test_few_bits_without_an_adapter_are_refused() -> None:
    with pytest.raises(InputError, match="weights in 4 bits cannot be trained themselves"):
        TransformConfig(quantize_base=4)
