"""The encoder of lavra's own: both directions, windows, isolation, and what a head of a task reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.models.heads import SequenceHead, attach_head
from lavra.models.native.attention import attending_plainly
from lavra.models.native.attention_masks import attention_mask
from lavra.models.native.decoder import Decoder
from lavra.models.presets import as_encoder
from lavra.models.spec import DecoderSpec
from tiny_training import lively

LENGTH = 20
SPEC = as_encoder(DecoderSpec(vocabulary=100, context=32, depth=3, width=32, heads=4))
DECODER = DecoderSpec(vocabulary=100, context=32, depth=3, width=32, heads=4)


def tokens(rows: int = 2) -> torch.Tensor:
    return torch.randint(1, 100, (rows, LENGTH), generator=torch.Generator().manual_seed(rows))


def features(model: Decoder, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs)


@given(st.integers(1, 9), st.integers(0, 9), st.booleans(), st.data())
def test_a_mask_shows_what_its_definition_says(length: int, window: int, causal: bool, data: st.DataObject) -> None:
    ids = data.draw(st.none() | st.lists(st.integers(0, 1), min_size=length, max_size=length).map(sorted))
    document_ids = None if ids is None else torch.tensor([ids])
    mask = attention_mask(document_ids, length, None, causal=causal, window=window)
    seen = torch.ones(1, 1, length, length, dtype=torch.bool) if mask.allowed is None else mask.allowed
    if mask.allowed is None and mask.causal:
        seen = seen.tril()
    for query in range(length):
        for key in range(length):
            expected = ids is None or ids[query] == ids[key]
            expected &= not causal or key <= query
            expected &= not window or abs(query - key) <= window
            assert bool(seen[0, 0, query, key]) == expected


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi", "none"])
def test_a_token_sees_those_after_it(positions: str) -> None:
    changed = tokens().clone()
    changed[:, -1] = 7
    encoder = lively(replace(SPEC, positions=positions))  # pyright: ignore[reportArgumentType]
    decoder = lively(replace(DECODER, positions=positions))  # pyright: ignore[reportArgumentType]
    assert float((features(encoder, tokens()) - features(encoder, changed))[:, 0].abs().max()) > 1e-6
    assert float((features(decoder, tokens()) - features(decoder, changed))[:, 0].abs().max()) == 0.0


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi", "none"])
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("shape", [SPEC, DECODER], ids=["encoder", "decoder"])
def test_packed_documents_equal_documents_alone(shape: DecoderSpec, window: int, positions: str) -> None:
    model = lively(replace(shape, window=window, global_every=2, rope_local_base=100.0, positions=positions))  # pyright: ignore[reportArgumentType]
    lengths = [9, 3, 8]
    row = tokens(1)
    document_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None].int()
    positions_in = torch.cat([torch.arange(length) for length in lengths])[None]
    with torch.no_grad():
        packed = model(row, document_ids, positions_in)[0].split(lengths)
        for found, document in zip(packed, row[0].split(lengths), strict=True):
            torch.testing.assert_close(found, model(document[None])[0], atol=2e-5, rtol=1e-4)


def test_alibi_without_slopes_is_no_position_encoding() -> None:
    model, without = lively(replace(SPEC, positions="alibi")), lively(replace(SPEC, positions="none"))
    assert float((features(model, tokens()) - features(without, tokens())).abs().max()) > 1e-4
    assert model.slopes is not None
    model.slopes.zero_()
    torch.testing.assert_close(features(model, tokens()), features(without, tokens()), atol=1e-5, rtol=1e-5)


def test_alibi_of_an_encoder_is_symmetric() -> None:
    """Read backwards, a text gives the same features backwards."""
    model = lively(replace(SPEC, positions="alibi"))
    torch.testing.assert_close(
        features(model, tokens()).flip(1), features(model, tokens().flip(1)), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("shape", [SPEC, DECODER], ids=["encoder", "decoder"])
def test_a_window_as_long_as_the_text_and_one_that_no_block_has_change_nothing(shape: DecoderSpec) -> None:
    plain = features(lively(shape), tokens())
    for options in ({"window": LENGTH - 1}, {"window": 2, "global_every": 1}):
        assert torch.equal(features(lively(replace(shape, **options)), tokens()), plain)
    assert not torch.allclose(features(lively(replace(shape, window=2)), tokens()), plain, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"global_every": 2, "global_first": 1, "rope_local_base": 100.0}])
def test_generation_in_steps_keeps_to_the_window(options: dict[str, float]) -> None:
    model = lively(replace(DECODER, window=4, **options)).eval()  # pyright: ignore[reportArgumentType]
    inputs = tokens()
    real = torch.ones_like(inputs, dtype=torch.bool)
    real[1, :5] = False  # a shorter prompt, padded on the left
    cache = model.new_cache(2, LENGTH)
    with torch.no_grad():
        expected = torch.cat((model(inputs[:1])[:, 5:], model(inputs[1:, 5:])))
        parts = [model.step(inputs[:, :8], cache, real[:, :8])]
        parts += [model.step(inputs[:, place : place + 1], cache) for place in range(8, LENGTH)]
    torch.testing.assert_close(torch.cat(parts, 1)[:, 5:], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [0, 3])
def test_the_kernels_compute_what_the_plain_way_does(window: int) -> None:
    model = lively(replace(SPEC, window=window, global_every=2))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        (model(tokens()) ** 2).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    found = gradients()
    with attending_plainly():
        for one, other in zip(found, gradients(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_the_head_of_a_task_reads_what_stands_before_the_transform() -> None:
    model = lively(SPEC)
    assert model.head_transform is not None
    before = features(model, tokens())
    attach_head(model, SequenceHead(model.task_width(), 3))
    hidden = features(model, tokens())
    assert not torch.allclose(hidden, before)
    torch.testing.assert_close(model.head_transform(hidden), before)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        "head_transform.linear.weight",
        "head_transform.norm.weight",
        "output.weight",
        "output.bias",
    }


def test_an_encoder_writes_no_text() -> None:
    with pytest.raises(InputError, match="writes no text"):
        lively(SPEC).new_cache(1, 8)


@pytest.mark.parametrize(
    "options",
    [{"window": -1}, {"global_every": 2, "global_first": 2}, {"first_norm": False, "parallel": True}],
)
def test_fields_that_contradict_each_other_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        DecoderSpec(**options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="ngram_copy"):
        replace(SPEC, ngram_copy=True)
