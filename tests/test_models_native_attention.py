"""Attention: every kernel gives the same, heads are shared right, positions mean distance, caches forget nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_level import lively_decoder
from lavra.config.choices import Positions
from lavra.core.errors import InputError
from lavra.models.native import attention
from lavra.models.native.attention import attend
from lavra.models.native.attention_masks import Mask, alibi_bias, alibi_slopes, causal_mask
from lavra.models.native.decoder import Decoder
from lavra.models.native.layers import rotary_table, rotate
from lavra.models.spec import DecoderSpec

KINDS = get_args(Positions)
ROWS = 2
HEADS = 4
LENGTH = 12
SIZE = 8


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heads(kv_heads: int = HEADS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        random(ROWS, HEADS, LENGTH, SIZE, seed=1),
        random(ROWS, kv_heads, LENGTH, SIZE, seed=2),
        random(ROWS, kv_heads, LENGTH, SIZE, seed=3),
    )


def by_definition(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, allowed: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Softmax of the allowed scores, one query at a time."""
    mixed = torch.zeros_like(queries)
    for row in range(queries.shape[0]):
        for head in range(queries.shape[1]):
            for query in range(queries.shape[2]):
                seen = allowed[row % allowed.shape[0], 0, query].nonzero().squeeze(1)
                scores = keys[row, head, seen] @ queries[row, head, query] / math.sqrt(queries.shape[-1])
                if bias is not None:
                    scores = scores + bias[row % bias.shape[0], head, query, seen]
                mixed[row, head, query] = scores.softmax(0) @ values[row, head, seen]
    return mixed


@pytest.fixture(params=["library", "plain", "stripes"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the library's kernel, then with the one that a compiled graph gets, whole and in stripes."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: request.param != "library")
    monkeypatch.setattr(attention, "_FEWEST_QUERIES", 5 if request.param == "stripes" else LENGTH)
    return request.param


DOCUMENT_IDS = torch.tensor([[0] * 5 + [1] * 7, [0] * 2 + [1] * 1 + [2] * 6 + [-1] * 3])
POSITIONS = torch.tensor([[*range(5), *range(7)], [0, 1, 0, *range(6), 0, 0, 0]])


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("document_ids", [None, DOCUMENT_IDS])
def test_every_kernel_is_attention(kv_heads: int, biased: bool, document_ids: torch.Tensor | None):
    queries, keys, values = heads(kv_heads)
    positions = torch.arange(LENGTH)[None] if document_ids is None else POSITIONS
    bias = alibi_bias(alibi_slopes(HEADS).double(), positions, positions) if biased else None
    found = attend(queries, keys, values, causal_mask(document_ids, LENGTH, bias))
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    allowed = (
        causal if document_ids is None else causal & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
    )
    repeated = (part.repeat_interleave(HEADS // kv_heads, 1) for part in (keys, values))
    torch.testing.assert_close(found, by_definition(queries, *repeated, allowed, bias), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("last", [1, 3])
def test_fewer_queries_than_keys_are_the_last_ones(last: int, biased: bool):
    queries, keys, values = heads()
    positions = torch.arange(LENGTH)[None]
    bias = alibi_bias(alibi_slopes(HEADS).double(), positions, positions) if biased else None
    whole = attend(queries, keys, values, Mask(bias=bias))
    part = attend(queries[:, :, -last:], keys, values, Mask(bias=None if bias is None else bias[:, :, -last:]))
    torch.testing.assert_close(part, whole[:, :, -last:])


def test_dropout_drops_attention_weights():
    queries, keys, values = heads()
    torch.manual_seed(0)
    dropped = torch.stack([attend(queries, keys, values, Mask(), dropout=0.5) for _ in range(2000)])
    assert not torch.equal(dropped[0], dropped[1])
    assert (dropped.mean(0) - attend(queries, keys, values, Mask())).abs().max() < 0.2


def test_a_single_document_may_go_without_segments():
    queries, keys, values = heads()
    one = torch.zeros(ROWS, LENGTH, dtype=torch.int32)
    with_mask = attend(queries, keys, values, causal_mask(one, LENGTH, None))
    torch.testing.assert_close(with_mask, attend(queries, keys, values, causal_mask(None, LENGTH, None)))


def reference_slopes(count: int) -> list[float]:
    """`get_slopes` of the code that came with the ALiBi paper."""
    if math.log2(count).is_integer():
        start = 2 ** (-(2 ** -(math.log2(count) - 3)))
        return [start * start**index for index in range(count)]
    closest = 2 ** math.floor(math.log2(count))
    return reference_slopes(closest) + reference_slopes(2 * closest)[0::2][: count - closest]


@pytest.mark.parametrize("count", [1, 2, 8, 12, 16, 20])
def test_alibi_slopes_are_those_of_the_paper(count: int):
    torch.testing.assert_close(alibi_slopes(count), torch.tensor(reference_slopes(count)))
    if count == 8:
        assert alibi_slopes(8).tolist() == [2.0**-power for power in range(1, 9)]


def test_alibi_punishes_distance():
    bias = alibi_bias(torch.tensor([0.5]), torch.tensor([[5]]), torch.arange(6)[None])
    assert bias.tolist() == [[[[-2.5, -2.0, -1.5, -1.0, -0.5, 0.0]]]]


@settings(max_examples=30)
@given(
    distance=st.integers(0, 20),
    shift=st.integers(1, 40),
    fraction=st.sampled_from([1.0, 0.5, 0.25]),
    base=st.sampled_from([100.0, 10000.0]),
)
def test_rotary_scores_depend_on_the_distance_only(distance: int, shift: int, fraction: float, base: float):
    spec = DecoderSpec(context=64, width=32, heads=2, rope_fraction=fraction, rope_base=base)
    table = rotary_table(spec).double()
    query, key = random(1, 1, 1, 16, seed=1), random(1, 1, 1, 16, seed=2)

    def score(query_position: int, key_position: int) -> float:
        turned_query = rotate(query, table[query_position][None, None, None])
        turned_key = rotate(key, table[key_position][None, None, None])
        assert turned_query.norm().item() == pytest.approx(query.norm().item())
        return float((turned_query * turned_key).sum())

    assert score(distance, 0) == pytest.approx(score(distance + shift, shift), abs=1e-5)
    if distance:
        assert score(distance, 0) != pytest.approx(score(0, 0), abs=1e-5)


def tiny(positions: str, **fields: object) -> Decoder:
    return lively_decoder(positions=positions, heads=4, kv_heads=2, width=32, context=24, **fields)


@pytest.mark.parametrize("positions", KINDS)
@pytest.mark.parametrize("parts", [(10,), (1,) * 10, (6, 1, 3)])
def test_reading_step_by_step_gives_the_features_of_the_whole(positions: str, parts: tuple[int, ...]):
    model = tiny(positions)
    ids = torch.randint(0, 257, (3, sum(parts)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(ids)
        cache = model.new_cache(3, sum(parts))
        stepped = torch.cat([model.step(part, cache) for part in ids.split(list(parts), 1)], 1)
    torch.testing.assert_close(stepped, whole)


@pytest.mark.parametrize("positions", KINDS)
def test_prompts_of_different_lengths_are_read_as_if_alone(positions: str):
    model = tiny(positions)
    lengths, width, more = (7, 3, 1), 7, 4
    ids = torch.randint(0, 257, (3, width + more), generator=torch.Generator().manual_seed(2))
    attention_mask = torch.tensor([[column >= width - length for column in range(width)] for length in lengths])
    with torch.no_grad():
        cache = model.new_cache(3, width + more)
        together = [model.step(ids[:, :width], cache, attention_mask)]
        together += [model.step(ids[:, column : column + 1], cache) for column in range(width, width + more)]
        stepped = torch.cat(together, 1)
        assert stepped.isfinite().all()
        for row, length in enumerate(lengths):
            alone = model(ids[row : row + 1, width - length :])
            torch.testing.assert_close(stepped[row : row + 1, width - length :], alone)


@pytest.mark.parametrize("positions", KINDS)
def test_selected_rows_of_a_cache_go_on_as_those_rows(positions: str):
    model = tiny(positions)
    ids = torch.randint(0, 257, (3, 6), generator=torch.Generator().manual_seed(3))
    attention_mask = torch.tensor([[True] * 6, [False] * 2 + [True] * 4, [False] * 5 + [True]])
    rows = torch.tensor([2, 0, 0, 1])
    following = torch.randint(0, 257, (4, 2), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        cache = model.new_cache(3, 8)
        model.step(ids, cache, attention_mask)
        cache.select(rows)
        found = model.step(following, cache)
        for row, origin in enumerate(rows.tolist()):
            alone = model.new_cache(1, 8)
            model.step(ids[origin : origin + 1], alone, attention_mask[origin : origin + 1])
            torch.testing.assert_close(found[row : row + 1], model.step(following[row : row + 1], alone))


def test_a_full_cache_says_so():
    model = tiny("rope")
    cache = model.new_cache(1, 3)
    model.step(torch.zeros(1, 2, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="holds 3 tokens; 4 were given"):
        model.step(torch.zeros(1, 2, dtype=torch.long), cache)


def test_shared_heads_are_repeated_heads():
    """A grouped model equals an ordinary one whose key and value heads are copies."""
    grouped = tiny("rope")
    spec = grouped.spec
    ordinary = Decoder(replace(spec, kv_heads=0)).double().eval()
    weights = dict(grouped.named_parameters())
    with torch.no_grad():
        for name, parameter in ordinary.named_parameters():
            if not name.endswith("qkv.weight"):
                parameter.copy_(weights[name])
                continue
            sizes = [spec.heads * spec.size_of_head] + [spec.key_value_heads * spec.size_of_head] * 2
            query, key, value = weights[name].split(sizes)
            repeated = [
                part.view(spec.key_value_heads, spec.size_of_head, -1).repeat_interleave(2, 0).flatten(0, 1)
                for part in (key, value)
            ]
            parameter.copy_(torch.cat((query, *repeated)))
        ids = torch.randint(0, 257, (2, 9), generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(ordinary(ids), grouped(ids))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "model.depth is 0"),
        ({"width": 30, "heads": 4}, "not divisible by model.heads 4"),
        ({"heads": 4, "kv_heads": 3}, "not a multiple of model.kv_heads 3"),
        ({"width": 12, "heads": 4}, "rotary positions need an even width"),
        ({"dropout": 1.0}, "model.dropout is 1.0"),
    ],
)
def test_impossible_shapes_are_refused(fields: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        DecoderSpec(**fields)  # pyright: ignore[reportArgumentType]


def test_a_specification_survives_its_dictionary_and_names_unknown_fields():
    spec = DecoderSpec(depth=3, positions="alibi")
    assert DecoderSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(InputError, match="unknown field of a model: layers"):
        DecoderSpec.from_dict({"layers": 3})


def test_fresh_weights_are_a_function_of_the_seed_and_start_at_the_uniform_distribution():
    from lavra.models.native.building import build_decoder

    spec = DecoderSpec(vocabulary=100, context=8, depth=2, width=32, heads=2)
    first, again, other = build_decoder(spec, 1), build_decoder(spec, 1), build_decoder(spec, 2)
    for (name, weight), same in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, same), name
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    logits = first.head(first(torch.arange(8)[None]))
    assert logits.shape == (1, 8, 100)
    assert torch.equal(logits, torch.zeros_like(logits))
