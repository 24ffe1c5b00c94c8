"""Prefixes: seen by every token of every document, learned alone, kept by the cache, opened by peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import hf_models as tiny
from edited_models import NAMES, base_model, learn, logits_of
from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.core.errors import InputError
from lavra.models.transforms.apply import apply_transforms, learned_weights, load_learned_weights, merge_transforms
from lavra.models.transforms.peft_files import save_adapter
from lavra.models.transforms.prefix import PrefixMemory

PREFIX = TransformConfig(adapter=AdapterConfig(kind="prefix", rank=5))


def prefixed(name: str, config: TransformConfig = PREFIX) -> Any:
    """Return a model with a prefix large enough to matter."""
    model = base_model(name)
    apply_transforms(model, config)
    with torch.no_grad():
        for key, parameter in learned_weights(model).items():
            if ".prefix." in key:
                parameter *= 40
    return model


@pytest.mark.parametrize("name", [*NAMES, "llama", "bart", "bert"])
def test_a_prefix_changes_what_is_said_and_learns_alone(name: str) -> None:
    model = base_model(name)
    before = logits_of(model).detach()
    frozen = {key: p.detach().clone() for key, p in model.named_parameters()}
    apply_transforms(model, PREFIX)
    assert set(learned_weights(model)) == {key for key, _ in model.named_parameters()} - set(frozen)
    assert all(p.shape[1] == 5 for p in learned_weights(model).values())
    losses = learn(model, rate=0.1)
    assert losses[-1] < losses[0]
    assert (logits_of(model) - before).abs().max() > 1e-3
    now = dict(model.named_parameters())
    assert all(torch.equal(value, now[key]) for key, value in frozen.items())


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "t5", "bart", "bert"])
@torch.no_grad()
def test_packed_and_padded_documents_see_the_prefix_and_only_themselves(name: str) -> None:
    model = prefixed(name)
    given = tiny.documents(model)
    alone = torch.cat([model.head(model.features(tiny.alone(document)))[0] for document in given])
    for batch in (tiny.packed(given), tiny.padded(given, "left"), tiny.padded(given, "right")):
        assert batch.document_ids is not None
        found = model.head(model.features(batch))[batch.document_ids >= 0]
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5 * max(1.0, float(alone.abs().max())))


@torch.no_grad()
def test_documents_packed_for_our_decoder_see_the_prefix_and_only_themselves() -> None:
    model = prefixed("ours")
    ids = torch.arange(10)[None]
    document_ids = torch.tensor([[0] * 4 + [1] * 6])
    positions = torch.cat((torch.arange(4), torch.arange(6)))[None]
    packed = model(ids, document_ids, positions)
    torch.testing.assert_close(packed[:, :4], model(ids[:, :4]), rtol=0, atol=1e-5)
    torch.testing.assert_close(packed[:, 4:], model(ids[:, 4:]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ours", "gpt2", "llama"])
@torch.no_grad()
def test_reading_with_a_cache_gives_the_same_features(name: str) -> None:
    model = prefixed(name)
    ids = torch.randint(6, 64, (2, 8), generator=torch.Generator().manual_seed(1))
    whole = model.features(tiny.Batch(ids, ids))
    cache = model.new_cache(2, 8)
    parts = [model.step(ids[:, :5], cache), *(model.step(ids[:, i : i + 1], cache) for i in range(5, 8))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=2e-5)


def test_checkpointed_blocks_keep_the_prefix() -> None:
    from edited_models import loss_of

    found = []
    for again in (False, True):
        model = prefixed("gpt2", TransformConfig(adapter=PREFIX.adapter, gradient_checkpointing=again)).train()
        torch.manual_seed(0)
        loss_of(model).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == 4
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
@torch.no_grad()
def test_peft_opens_a_prefix_over_the_base(name: str, tmp_path: Path) -> None:
    import peft

    from lavra.models.transforms.prefix import Prefix

    model = prefixed(name)
    save_adapter(tmp_path, model, Prefix(PREFIX.adapter), "a/base")
    theirs = peft.PeftModel.from_pretrained(tiny.plain_model(name), str(tmp_path)).eval()
    ids = tiny.documents(model)[0][0][None]
    expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model.head(model.features(tiny.Batch(ids, ids))), expected, rtol=0, atol=1e-5)
    assert (expected - tiny.plain_model(name)(input_ids=ids).logits).abs().max() > 0.01


def test_the_record_brings_a_prefix_back() -> None:
    model, again = prefixed("opt"), base_model("opt")
    apply_transforms(again, PREFIX)
    load_learned_weights(again, learned_weights(model), "step-1")
    assert torch.equal(logits_of(again), logits_of(model))
    assert model.context == base_model("opt").context - 5


def test_what_a_prefix_cannot_do_is_refused(tmp_path: Path) -> None:
    model = base_model("gpt2")
    transforms = apply_transforms(model, PREFIX)
    with pytest.raises(InputError, match="a prefix cannot be worked into the model's weights"):
        merge_transforms(model, transforms, logits_of)
    with pytest.raises(InputError, match="BloomForCausalLM cannot be given a prefix"):
        apply_transforms(base_model("bloom"), PREFIX)
    with pytest.raises(InputError, match=r"leave adapter\.targets out"):
        AdapterConfig(kind="prefix", targets=("q_proj",))
    for name in ("t5", "ours"):
        model = base_model(name)
        transforms = apply_transforms(model, PREFIX)
        assert any(isinstance(module, PrefixMemory) for module in model.modules())
        with pytest.raises(InputError, match="peft"):
            save_adapter(tmp_path, model, transforms[0], "a/base")  # pyright: ignore[reportArgumentType]
