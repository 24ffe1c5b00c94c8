"""Options of the blocks of lavra's own models: each at its neutral value changes nothing, else it does what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask
from lavra.models.native.building import build_decoder, parameters_of
from lavra.models.native.decoder import Decoder
from lavra.models.native.layers import Block
from lavra.models.presets import as_encoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.objectives.base import loss_at_targets
from tiny_training import lively

SPEC = DecoderSpec(vocabulary=100, context=32, depth=3, width=32, heads=4, kv_heads=2, norm_weight=True)
OPTIONS: dict[str, dict[str, Any]] = {
    "capped": {"attention_cap": 2.0, "logit_cap": 3.0},
    "sandwich": {"norm_placement": "both"},
    "normformer": {"normformer": True},
    "normformer, gated": {"normformer": True, "activation": "swiglu", "parallel": True},
    "deepnorm": {"norm_placement": "after", "deepnorm": True},
    "value residual": {"value_residual": True},
    "shared": {"shared_blocks": 1},
    "experts": {"experts": 4, "shared_experts": 1, "balance_loss": 0.1},
    "experts, gated": {"experts": 3, "activation": "swiglu", "balance_bias": True},
    "shared in turn": {"shared_blocks": 2, "window": 3, "global_every": 2},
    "wide": {"shared_blocks": 1, "own_norms": True, "experts": 4, "balance_loss": 0.1},
    "queries and keys normed whole": {"qk_norm": True, "qk_norm_whole": True, "qk_norm_weight": True},
    "gated shared experts": {"experts": 3, "shared_experts": 2, "shared_gate": True},
}
LENGTH = 14


def tokens(rows: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(1, 100, (rows, length), generator=torch.Generator().manual_seed(rows))


def features(model: Decoder, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_packed_documents_equal_documents_alone(kind: str, name: str) -> None:
    model = lively(replace(SPEC if kind == "decoder" else as_encoder(replace(SPEC, kv_heads=0)), **_fit(kind, name)))
    lengths, row = [9, 5], tokens(1)
    ids = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))[None].int()
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        packed = model.eval()(row, ids, places)[0].split(lengths)
        for found, document in zip(packed, row[0].split(lengths), strict=True):
            torch.testing.assert_close(found, model(document[None])[0], atol=2e-5, rtol=1e-4)


def _fit(kind: str, name: str) -> dict[str, Any]:
    """Return the options as a kind of model can have them: an encoder of ours has no norm before its first block."""
    return OPTIONS[name] | ({} if kind == "decoder" else {"first_norm": True})


@pytest.mark.parametrize("name", OPTIONS)
def test_generation_in_steps_gives_the_same_features(name: str) -> None:
    model = lively(replace(SPEC, **OPTIONS[name])).eval()
    cache = model.new_cache(2, LENGTH)
    with torch.no_grad():
        parts = [model.step(tokens()[:, :5], cache)]
        parts += [model.step(tokens()[:, place : place + 1], cache) for place in range(5, LENGTH)]
    torch.testing.assert_close(torch.cat(parts, 1), features(model, tokens()), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_saved_and_learned_whole(name: str, tmp_path: Path) -> None:
    from lavra.models.native.store import load_decoder, save_decoder

    model = lively(replace(SPEC, **OPTIONS[name]))
    save_decoder(tmp_path, model)
    assert torch.equal(features(load_decoder(tmp_path), tokens()), features(model, tokens()))
    inputs = tokens()
    loss_at_targets(model, Batch(inputs, inputs, weight=float(inputs.numel())), 0.0).sum.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters_of(model.spec)


def test_scores_are_capped_before_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 2, 6, 4, generator=generator) * 3 for _ in range(3))
    scores = queries @ keys.mT / 2.0
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    expected = (2.0 * torch.tanh(scores / 2.0)).masked_fill(hidden, float("-inf")).softmax(-1) @ values
    torch.testing.assert_close(attend(queries, keys, values, Mask(), cap=2.0), expected)
    assert not torch.allclose(attend(queries, keys, values, Mask()), expected, atol=1e-2)
    torch.testing.assert_close(attend(queries, keys, values, Mask(), cap=1e6), attend(queries, keys, values, Mask()))


def test_dropout_of_capped_attention_is_applied() -> None:
    model = lively(replace(SPEC, attention_cap=2.0, dropout=0.5))
    torch.manual_seed(0)
    one, other = model.train()(tokens()), model(tokens())
    assert not torch.allclose(one, other)
    ones = torch.ones(1, 1, 400, 4)
    torch.manual_seed(0)
    mixed = attend(ones, ones, ones, Mask(causal=False), 0.5, cap=1.0)
    assert float(mixed.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(mixed.std()) > 0


def test_the_loss_is_that_of_the_capped_logits() -> None:
    model = lively(replace(SPEC, logit_cap=1.5))
    inputs = tokens()
    targets = inputs.roll(-1, 1)
    logits = model.head(model(inputs))
    assert float(logits.detach().abs().max()) <= 1.5
    found = loss_at_targets(model, Batch(inputs, targets, weight=float(targets.numel())), 0.0).sum
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_as_many_shared_blocks_as_blocks_are_plain_blocks() -> None:
    assert torch.equal(features(lively(replace(SPEC, shared_blocks=3)), tokens()), features(lively(SPEC), tokens()))
    one = replace(SPEC, depth=1)
    assert torch.equal(features(lively(replace(one, shared_blocks=1)), tokens()), features(lively(one), tokens()))


def test_one_shared_block_has_the_parameters_of_one_and_learns_for_all() -> None:
    shared = lively(replace(SPEC, shared_blocks=1))
    assert parameters_of(shared.spec) == parameters_of(replace(SPEC, depth=1))
    apart = build_decoder(SPEC)
    apart.load_state_dict(shared.state_dict())
    for model in (shared, apart):
        (model(tokens()) ** 2).sum().backward()
    for name, parameter in shared.blocks[0].named_parameters():
        total = sum(dict(block.named_parameters())[name].grad for block in apart.blocks)  # pyright: ignore[reportArgumentType, reportCallIssue]
        torch.testing.assert_close(parameter.grad, total, atol=1e-3, rtol=1e-3)


def test_norms_of_their_own_that_are_alike_are_those_of_a_shared_block() -> None:
    plain, wide = lively(replace(SPEC, shared_blocks=1)), build_decoder(replace(SPEC, shared_blocks=1, own_norms=True))
    wide.load_state_dict(plain.state_dict())
    assert torch.equal(features(wide, tokens()), features(plain, tokens()))
    assert parameters_of(wide.spec) - parameters_of(plain.spec) == 2 * 2 * 32  # two more depths, with two gains each
    with torch.no_grad():
        wide.blocks[1].mlp_norm.weight.mul_(2.0)  # pyright: ignore[reportAttributeAccessIssue]
    assert not torch.allclose(features(wide, tokens()), features(plain, tokens()), atol=1e-3)


def test_one_wide_block_with_one_expert_is_a_plain_model() -> None:
    one = replace(SPEC, depth=1)
    wide = build_decoder(replace(one, shared_blocks=1, own_norms=True, experts=1, experts_per_token=1))
    plain = lively(one)
    state = {name.replace(".mlp.", ".mlp.experts.0."): weight for name, weight in plain.state_dict().items()}
    assert all("router" in name for name in wide.load_state_dict(state, strict=False).missing_keys)
    assert torch.equal(features(wide, tokens()), features(plain, tokens()))


def test_wide_blocks_are_exported_as_blocks_of_their_own(tmp_path: Path) -> None:
    shape = {"qk_norm": False, "embedding_norm": False, "activation": "swiglu"}
    model = lively(replace(SPEC, **shape, shared_blocks=1, own_norms=True, experts=3))
    assert export_decoder(tmp_path, model, {}).family == "mixtral"
    again = import_decoder(tmp_path).model
    assert (again.spec.shared_blocks, again.spec.own_norms) == (0, False)
    torch.testing.assert_close(features(again, tokens()), features(model, tokens()))


def test_norms_over_one_head_are_norms_over_all() -> None:
    one = replace(SPEC, heads=1, kv_heads=1, qk_norm_weight=True)
    assert torch.equal(features(lively(replace(one, qk_norm_whole=True)), tokens()), features(lively(one), tokens()))


def test_a_wide_open_gate_lets_shared_experts_through() -> None:
    shape = {"experts": 3, "shared_experts": 1}
    gated, plain = build_decoder(replace(SPEC, **shape, shared_gate=True)), lively(replace(SPEC, **shape))
    missing = gated.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == [f"blocks.{number}.mlp.shared_gate.weight" for number in range(3)]
    with torch.no_grad():
        for block in gated.blocks:
            block.mlp.shared_gate.weight.zero_()  # a half  # pyright: ignore[reportAttributeAccessIssue]
        for block in plain.blocks:
            block.mlp.shared.down.weight.mul_(0.5)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(features(gated, tokens()), features(plain, tokens()), atol=1e-5, rtol=1e-4)


def test_shared_blocks_are_exported_as_blocks_of_their_own(tmp_path: Path) -> None:
    llama = replace(SPEC, qk_norm=False, embedding_norm=False, activation="swiglu", shared_blocks=2, depth=4)
    model = lively(llama)
    assert export_decoder(tmp_path, model, {}).family == "llama"
    again = import_decoder(tmp_path).model
    assert again.spec.shared_blocks == 0
    torch.testing.assert_close(features(again, tokens()), features(model, tokens()))


def _without_norms(model: Decoder) -> None:
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention_post = block.mlp.norm = block.mlp_post = None


@pytest.mark.parametrize("options", [{"normformer": True}, {"norm_placement": "both"}])
def test_without_the_norms_that_it_adds_it_is_a_plain_model(options: dict[str, Any]) -> None:
    model, plain = build_decoder(replace(SPEC, initialization="gpt2", **options)), lively(SPEC)
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    assert all("post" in name or "mlp.norm" in name or "head_gain" in name for name in missing)
    assert not torch.allclose(features(model, tokens()), features(plain, tokens()), atol=1e-3)
    _without_norms(model)  # the factors of heads begin at one
    torch.testing.assert_close(features(model, tokens()), features(plain, tokens()))


def test_the_values_of_the_first_block_are_mixed_in() -> None:
    model, plain = build_decoder(replace(SPEC, value_residual=True)), lively(SPEC)
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["blocks.1.attention.value_mix", "blocks.2.attention.value_mix"]
    assert not torch.allclose(features(model, tokens()), features(plain, tokens()), atol=1e-3)
    first, block = model.blocks[0], model.blocks[1]
    assert isinstance(first, Block)
    assert isinstance(block, Block)
    assert block.attention.value_mix is not None
    x, y = torch.randn(2, 1, 5, 32, generator=torch.Generator().manual_seed(0))
    values, own = first.attention.project(x)[2], block.attention.project(y)[2]
    with torch.no_grad():
        mixed = block.attention(y, None, Mask(), first_values=values)
        block.attention.value_mix.copy_(torch.tensor([1.0, 0.0]))
        alone = block.attention(y, None, Mask(), first_values=values)
        torch.testing.assert_close(alone, block.attention(y, None, Mask()))
        block.attention.value_mix.copy_(torch.tensor([0.0, 1.0]))
        theirs = block.attention(y, None, Mask(), first_values=values)
    assert not torch.allclose(own, values)
    torch.testing.assert_close(mixed, (alone + theirs) / 2, atol=1e-5, rtol=1e-4)  # attention is linear in its values
    for each in model.blocks[1:]:
        each.attention.value_mix.data.copy_(torch.tensor([1.0, 0.0]))  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType, reportCallIssue]
    torch.testing.assert_close(features(model, tokens()), features(plain, tokens()))


def test_deepnorm_without_its_factor_is_a_norm_after_each_sum() -> None:
    after = replace(SPEC, norm_placement="after")
    deep = replace(after, deepnorm=True)
    assert deep.residual_scale == pytest.approx(6**0.25)
    model, plain = build_decoder(deep), lively(after)
    model.load_state_dict(plain.state_dict())
    assert not torch.allclose(features(model, tokens()), features(plain, tokens()), atol=1e-3)
    block, x = model.blocks[0], torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    assert isinstance(block, Block)
    attended = block.attention(x, None, Mask())
    middle = block.attention_norm(x * 6**0.25 + attended)
    expected = block.mlp_norm(middle * 6**0.25 + block.mlp(middle))
    torch.testing.assert_close(block(x, None, Mask()), expected)
    for each in model.blocks:
        each.residual_scale = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(features(model, tokens()), features(plain, tokens()))


def test_deepnorm_begins_with_smaller_values_and_outputs() -> None:
    after = replace(SPEC, norm_placement="after", initialization="gpt2")
    plain, deep = build_decoder(after), build_decoder(replace(after, deepnorm=True))
    smaller, keys = (8 * 3) ** -0.25, 6 * 8
    for one, other in zip(plain.blocks, deep.blocks, strict=True):
        assert isinstance(one, Block)
        assert isinstance(other, Block)
        torch.testing.assert_close(other.attention.qkv.weight[:keys], one.attention.qkv.weight[:keys])
        torch.testing.assert_close(other.attention.qkv.weight[keys:], one.attention.qkv.weight[keys:] * smaller)
        torch.testing.assert_close(other.mlp.down.weight, one.mlp.down.weight * smaller)


@pytest.mark.parametrize(
    "options",
    [
        {"deepnorm": True},
        {"normformer": True, "norm_placement": "both"},
        {"shared_blocks": 4},
        {"shared_blocks": 2, "value_residual": True},
        {"attention_cap": -1.0},
        {"own_norms": True},
        {"own_norms": True, "shared_blocks": 1, "norm_weight": False},
        {"qk_norm_whole": True, "qk_norm": False},
        {"factorized": True},
        {"shared_gate": True},
        {"experts": 3, "shared_gate": True},
        {"parallel": True, "norm_placement": "both"},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"model\."):
        replace(SPEC, **options)
