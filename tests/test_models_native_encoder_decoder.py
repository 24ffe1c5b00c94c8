"""The encoder-decoder of lavra's own: isolation on both sides, the cache, relative positions, and its dry run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.models.native.encoder_decoder import EncoderDecoder
from lavra.models.native.relative_positions import bucket_of
from lavra.models.presets import as_encoder_decoder
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import matrix_parameters, training_flops_per_token
from lavra.planning.machine.memory import estimate_memory
from tiny_training import lively

SPEC = as_encoder_decoder(DecoderSpec(vocabulary=100, context=64, depth=4, width=32, heads=4))
SHAPES = [
    SPEC,
    replace(SPEC, positions="rope", attention_scale=0.0, qk_norm=True, kv_heads=2, encoder_depth=3),
    replace(SPEC, positions="alibi", norm="layernorm", norm_placement="after", final_norm=False, mlp_bias=True),
    replace(SPEC, positions="none", attention_bias=True, output_bias=True, embedding_norm=True, tied=True),
]
NAMES = ["relative", "rope", "alibi", "none"]


def tokens(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 100, (1, length), generator=torch.Generator().manual_seed(seed + length))


def made(spec: DecoderSpec) -> EncoderDecoder:
    model = lively(spec).eval()
    assert isinstance(model, EncoderDecoder)
    return model


def alone(model: EncoderDecoder, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.features(Batch(target, target, model_inputs={"encoder_inputs": source}))


def packed(parts: list[torch.Tensor], padding: int, prefix: str = "") -> dict[str, torch.Tensor]:
    lengths = torch.tensor([part.shape[1] for part in parts])
    places = torch.cat([torch.arange(int(length)) for length in lengths])[None]
    ids = torch.repeat_interleave(torch.arange(len(parts)), lengths)[None].int()
    return {
        f"{prefix}inputs": F.pad(torch.cat(parts, 1), (0, padding)),
        f"{prefix}document_ids": F.pad(ids, (0, padding), value=-1),
        f"{prefix}positions": F.pad(places, (0, padding)),
    }


@pytest.mark.parametrize("spec", SHAPES, ids=NAMES)
def test_packed_examples_equal_examples_alone(spec: DecoderSpec) -> None:
    model = made(spec)
    sources, targets = [tokens(9), tokens(4), tokens(12)], [tokens(5, 1), tokens(7, 1), tokens(3, 1)]
    both: dict[str, Any] = packed(targets, 2)
    batch = Batch(both["inputs"], both["inputs"], both["document_ids"], both["positions"])
    batch.model_inputs = packed(sources, 3, "encoder_")
    with torch.no_grad():
        found = model.features(batch)
    assert torch.isfinite(found).all()
    for part, source, target in zip(found.split([5, 7, 3, 2], 1), sources, targets, strict=False):
        torch.testing.assert_close(part, alone(model, source, target), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", SHAPES, ids=NAMES)
def test_writing_in_steps_gives_the_same_features(spec: DecoderSpec) -> None:
    model = made(spec)
    sources, targets = [tokens(9), tokens(4)], [tokens(8, 1), tokens(6, 2)]
    cache = model.new_cache(2, 8, [source[0].tolist() for source in sources])
    ids = torch.cat((targets[0], F.pad(targets[1], (2, 0))))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :2] = False
    with torch.no_grad():
        parts = [model.step(ids[:, :3], cache, mask[:, :3])]
        parts += [model.step(ids[:, place : place + 1], cache) for place in range(3, 8)]
    found = torch.cat(parts, 1)
    torch.testing.assert_close(found[:1], alone(model, sources[0], targets[0]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[1:, 2:], alone(model, sources[1], targets[1]), atol=2e-5, rtol=1e-4)


def test_caches_are_copied_reordered_and_joined() -> None:
    model = made(SPEC)
    sources, targets = [tokens(9), tokens(4), tokens(6)], [tokens(5, 1), tokens(5, 2), tokens(3, 3)]
    first = model.new_cache(2, 6, [source[0].tolist() for source in sources[:2]])
    second = model.new_cache(1, 6, [sources[2][0].tolist()])
    with torch.no_grad():
        model.step(torch.cat(targets[:2])[:, :4], first)
        model.step(targets[2][:, :2], second)
        first.select(torch.tensor([1, 0]))
        both = first.join(second, 6)
        last = torch.cat((targets[1][:, 4:], targets[0][:, 4:], targets[2][:, 2:]))
        found = model.step(last, both)
    for row, number in enumerate((1, 0, 2)):
        expected = alone(model, sources[number], targets[number])[0, -1]
        torch.testing.assert_close(found[row, 0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_buckets_are_those_of_t5(causal: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 300)
    for buckets, longest in ((32, 128), (8, 40)):
        theirs = T5Attention._relative_position_bucket(-distance, not causal, buckets, longest)
        assert torch.equal(bucket_of(distance, buckets, longest, causal=causal), theirs)


def test_a_bias_of_zero_is_no_position_encoding() -> None:
    model, without = made(SPEC), made(replace(SPEC, positions="none"))
    without.load_state_dict(model.state_dict(), strict=False)
    assert model.relative is not None
    assert model.encoder.relative is not None
    with torch.no_grad():
        different = alone(model, tokens(9), tokens(5))
        model.relative.embedding.weight.zero_()
        model.encoder.relative.embedding.weight.zero_()
    expected = alone(without, tokens(9), tokens(5))
    assert not torch.allclose(different, expected, atol=1e-4)
    torch.testing.assert_close(alone(model, tokens(9), tokens(5)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"positions": "learned"}, {"window": 4}, {"bigram_embedding": 64}, {"ngram_copy": True}]
)
def test_what_it_does_not_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="model"):
        replace(SPEC, **options)


def test_flops_and_memory_count_both_sides() -> None:
    model = made(replace(SPEC, encoder_depth=3))
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embedding" not in name)
    assert matrix_parameters(model.spec) == matrices
    short, long = (training_flops_per_token(SPEC, 32, source=source) for source in (32, 64))
    assert long > short
    few, more = (estimate_memory(DryRun(SPEC, 32, source_context=source), 2).activations for source in (32, 64))
    assert more > few
