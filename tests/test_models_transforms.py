"""Edits: adapters begin as the base, learn alone, fold exactly, and come back from their record; freezing by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edited_models import NAMES, base_model, learn, logits_of, loss_of
from lavra.config.transforms import AdapterConfig, AdapterKind, TransformConfig
from lavra.core.configuration import from_table, to_json
from lavra.core.errors import CorruptFile, InputError
from lavra.models.parameter_names import block_of
from lavra.models.transforms.apply import (
    apply_transforms,
    is_tied,
    learned_weights,
    load_learned_weights,
    merge_transforms,
)
from lavra.models.transforms.peft_files import save_adapter

KINDS: tuple[AdapterKind, ...] = ("lora", "rslora", "dora", "ia3")


def adapted(kind: AdapterKind, **fields: object) -> TransformConfig:
    return TransformConfig(adapter=AdapterConfig(kind=kind, rank=4, **fields))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_begins_as_the_base_learns_alone_and_folds_into_it(name: str, kind: AdapterKind) -> None:
    model = base_model(name)
    before, names = logits_of(model), set(model.state_dict())
    frozen = {key: value.clone() for key, value in model.state_dict().items()}
    transforms = apply_transforms(model, adapted(kind))
    torch.testing.assert_close(logits_of(model), before, rtol=0, atol=1e-5)  # DoRA divides by norms and multiplies

    assert all(".lora_" in key or ".ia3_l" in key for key in learned_weights(model))
    losses = learn(model)
    assert losses[-1] < losses[0]
    still = {key.replace(".base_layer", ""): value for key, value in model.state_dict().items()}
    assert all(torch.equal(value, still[key]) for key, value in frozen.items())

    check = merge_transforms(model, transforms, logits_of)
    assert check.holds
    assert check.largest_difference <= 1e-5
    assert check.tied == check.tied_before == is_tied(model)
    assert set(model.state_dict()) == names
    assert (logits_of(model) - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_base_record_and_learned_tensors_are_the_whole_edited_model(name: str) -> None:
    config = adapted("dora", modules_to_save=("output",) if name == "ours" else ("lm_head",))
    model = base_model(name)
    apply_transforms(model, config, seed=7)
    learn(model)
    again = base_model(name)
    apply_transforms(again, from_table(TransformConfig, to_json(config), "plan.json"), seed=7)
    assert not torch.equal(logits_of(again), logits_of(model))
    load_learned_weights(again, {key: value.clone() for key, value in learned_weights(model).items()}, "step-3")
    assert torch.equal(logits_of(again), logits_of(model))
    with pytest.raises(CorruptFile, match="step-3 holds other weights"):
        load_learned_weights(base_model(name), learned_weights(model), "step-3")


def test_the_seed_alone_decides_how_an_adapter_begins() -> None:
    def first(seed: int) -> torch.Tensor:
        model = base_model("ours")
        state = torch.get_rng_state()
        apply_transforms(model, adapted("lora"), seed)
        assert torch.equal(torch.get_rng_state(), state)
        return learned_weights(model)["blocks.0.attention.qkv.lora_A.default.weight"].clone()

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_targets_are_names_or_globs_and_default_to_the_linear_layers_of_the_blocks() -> None:
    model = base_model("gpt2")
    apply_transforms(model, adapted("lora", targets=("c_attn", "h.1.mlp")))
    layers = {key.partition(".lora_")[0] for key in learned_weights(model)}
    h = "inner.transformer.h"
    assert layers == {f"{h}.0.attn.c_attn", f"{h}.1.attn.c_attn", f"{h}.1.mlp.c_fc", f"{h}.1.mlp.c_proj"}

    model = base_model("opt")
    apply_transforms(model, adapted("lora"))
    assert all(block_of(key) for key in learned_weights(model))
    assert len(learned_weights(model)) == 2 * 2 * 6  # A and B, two blocks, four of attention and two of the MLP


def test_what_matches_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"'q_porj' matches none of the model's linear layers[\s\S]*q_proj"):
        apply_transforms(base_model("opt"), adapted("lora", targets=("q_porj",)))
    with pytest.raises(InputError, match=r"'heads' matches none of the model's modules[\s\S]*blocks.\*.attention.qkv"):
        apply_transforms(base_model("ours"), adapted("lora", modules_to_save=("heads",)))
    with pytest.raises(InputError, match="'decoder' matches none of the model's parameters"):
        apply_transforms(base_model("ours"), TransformConfig(freeze=("decoder",)))


@pytest.mark.parametrize("name", ["gpt2", "opt", "t5"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_the_saved_adapter_over_the_base(name: str, kind: AdapterKind, tmp_path: Path) -> None:
    import peft

    config = adapted(kind, modules_to_save=("lm_head",))
    model = base_model(name)
    transforms = apply_transforms(model, config)
    learn(model)
    save_adapter(tmp_path, model, transforms[0], "a/base")  # pyright: ignore[reportArgumentType]
    theirs = base_model(name)
    before = logits_of(theirs)
    theirs.inner = peft.PeftModel.from_pretrained(theirs.inner, str(tmp_path)).eval().base_model.model
    torch.testing.assert_close(logits_of(theirs), logits_of(model), rtol=0, atol=1e-6)
    assert (logits_of(theirs) - before).abs().max() > 1e-3


def test_a_module_trained_whole_is_trained_under_all_its_names_and_stays_tied() -> None:
    model = base_model("t5")
    transforms = apply_transforms(model, adapted("lora", modules_to_save=("lm_head",)))
    whole = [key for key in learned_weights(model) if ".lora_" not in key]
    assert whole == ["inner.shared.weight"]
    before = learned_weights(model)[whole[0]].clone()
    learn(model)
    assert not torch.equal(learned_weights(model)[whole[0]], before)
    assert merge_transforms(model, transforms, logits_of).holds
    assert model.tied


def test_the_vocabulary_of_an_adapter_over_another_one_is_trained_whole() -> None:
    model = base_model("ours")
    apply_transforms(model, TransformConfig(vocabulary=130, adapter=AdapterConfig(kind="lora", rank=4)))
    assert model.spec.vocabulary == 130
    assert learned_weights(model)["embedding.weight"].shape == (192, 32)
    assert model.output.weight is model.embedding.weight


def test_a_new_classification_head_is_trained_whole() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=64)
    config.num_labels = 3
    model = BertForSequenceClassification(config)
    apply_transforms(model, adapted("lora"))
    whole = {key for key in learned_weights(model) if ".lora_" not in key}
    assert whole == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_keep_their_values_and_nothing_else_is_frozen(name: str) -> None:
    model = base_model(name)
    pattern = {"ours": "blocks.0", "gpt2": "wte", "opt": "layers.[01].self_attn", "t5": "encoder.block"}[name]
    everything = dict(model.named_parameters())
    before = {key: value.detach().clone() for key, value in everything.items()}
    apply_transforms(model, TransformConfig(freeze=(pattern,)))
    marks = {"ours": "blocks.0.", "gpt2": ".wte.", "opt": ".self_attn.", "t5": "encoder.block."}
    frozen = {key for key in everything if marks[name] in key}
    assert frozen
    assert set(learned_weights(model)) == set(everything) - frozen
    learn(model, 1)
    assert {key for key, value in everything.items() if torch.equal(before[key], value)} >= frozen


def test_either_name_of_a_tied_embedding_freezes_it() -> None:
    model = base_model("ours")
    apply_transforms(model, TransformConfig(freeze=("output",)))
    assert not model.embedding.weight.requires_grad
    assert loss_of(model).requires_grad


def test_freezing_everything_or_beside_an_adapter_is_refused() -> None:
    with pytest.raises(InputError, match="leaves nothing to learn"):
        apply_transforms(base_model("ours"), TransformConfig(freeze=("*",)))
    with pytest.raises(InputError, match="an adapter freezes everything but itself"):
        TransformConfig(adapter=AdapterConfig(kind="lora"), freeze=("embedding",))


@pytest.mark.parametrize("name", [*NAMES, "bart"])
def test_checkpointed_blocks_give_the_same_loss_and_gradients_with_dropout(name: str) -> None:
    found = []
    for again in (False, True):
        dropout = {"gpt2": "resid_pdrop", "t5": "dropout_rate"}.get(name, "dropout")
        model = base_model(name, **({} if name == "ours" else {dropout: 0.2})).train()
        if name == "ours":
            for block in model.blocks:
                block.dropout = 0.2
        transforms = apply_transforms(model, TransformConfig(gradient_checkpointing=again))
        torch.manual_seed(5)
        loss = loss_of(model)
        loss.backward()
        found.append(
            {"loss": loss.detach()} | {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        )
        for edit in transforms:
            edit.merge(model)
        torch.manual_seed(5)
        assert torch.equal(loss_of(model).detach(), loss.detach())
    plain, recomputed = found
    assert set(plain) == set(recomputed)
    for key, value in plain.items():
        torch.testing.assert_close(recomputed[key], value, rtol=0, atol=1e-6)


def test_a_frozen_head_gives_the_features_the_same_gradient() -> None:
    from lavra.objectives.cross_entropy import summed_cross_entropy

    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(5, 8, generator=generator), torch.randn(20, 8, generator=generator)
    targets = torch.randint(0, 20, (5,), generator=generator)
    found = []
    for learned in (True, False):
        given, head = features.clone().requires_grad_(), weight.clone().requires_grad_(learned)
        summed_cross_entropy(given, head, targets).backward()
        assert (head.grad is not None) == learned
        found.append(given.grad)
    assert torch.equal(found[0], found[1])  # pyright: ignore[reportArgumentType]
