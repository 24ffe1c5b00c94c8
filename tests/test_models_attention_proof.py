"""Ways to attend are compared with the plain one before they are trusted, and documents need no dense mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from byte_level import lively_decoder
from lavra.models.native import attention, decoder
from lavra.models.native.attention import attend, attending_plainly, distrusted_ways, wrong_way
from lavra.models.native.attention_masks import Mask, causal_mask, document_bounds
from lavra.models.protocols import Batch

HEADS = 4
KV_HEADS = 2
LENGTH = 24
SIZE = 8
DOCUMENT_IDS = torch.tensor([[0] * 9 + [1] * 15, [0] * 1 + [1] * 12 + [2] * 7 + [-1] * 4], dtype=torch.int32)


@pytest.fixture(autouse=True)
def trusting() -> Iterator[None]:
    """Let nothing that a test gives up be given up for the next."""
    before = attention._distrusted, set(attention._proved)
    attention._distrusted = frozenset()
    attention._proved.clear()
    yield
    attention._distrusted = before[0]
    attention._proved.clear()
    attention._proved.update(before[1])


def drawn(heads: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, heads, LENGTH, SIZE, generator=torch.Generator("cpu").manual_seed(seed)).to(dtype)


def given_heads(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return drawn(HEADS, 1, dtype), drawn(KV_HEADS, 2, dtype), drawn(KV_HEADS, 3, dtype)


MASKS = {"causal": Mask(), "masked": causal_mask(DOCUMENT_IDS, LENGTH, None)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", list(MASKS))
def test_the_library_is_right_here(way: Any, dtype: torch.dtype):
    assert wrong_way(way, *given_heads(dtype), MASKS[way]) is None


def wrong_forward(mixed: torch.Tensor) -> torch.Tensor:
    return mixed * 1.02


def wrong_backward(mixed: torch.Tensor) -> torch.Tensor:
    """Right values whose gradient is not a number in one place."""
    mixed.register_hook(lambda gradient: gradient.clone().index_fill_(2, torch.tensor([5]), float("nan")))
    return mixed * 1.0


@pytest.mark.parametrize("fault", [wrong_forward, wrong_backward])
@pytest.mark.parametrize("way", list(MASKS))
def test_a_wrong_kernel_is_given_up_and_the_plain_way_goes_on(
    way: Any, fault: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    kernel = attention.WAYS[way]
    monkeypatch.setitem(attention.WAYS, way, lambda *given: fault(kernel(*given)))
    parts = [part.requires_grad_() for part in given_heads()]
    found = attend(*parts, MASKS[way])
    assert distrusted_ways() == (way,)
    assert f"the kernel '{way}' is wrong" in capsys.readouterr().err
    with attending_plainly():
        assert torch.equal(found, attend(*parts, MASKS[way]))
    found.sum().backward()
    assert all(part.grad.isfinite().all() for part in parts)  # pyright: ignore[reportOptionalMemberAccess]


def test_a_kernel_that_raises_is_given_up(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: Any) -> torch.Tensor:
        raise RuntimeError("No available kernel. Aborting execution.\nmore")

    monkeypatch.setitem(attention.WAYS, "causal", missing)
    assert wrong_way("causal", *given_heads(), Mask()) == "RuntimeError: No available kernel. Aborting execution."
    assert attend(*given_heads(), Mask()).isfinite().all()


def test_a_kind_is_proved_once(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(attention, "wrong_way", lambda *given, **_: asked.append(given[0]))
    for _ in range(3):
        attend(*given_heads(), Mask())
        attend(*given_heads(), MASKS["masked"])
    assert asked == ["causal", "masked"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=9), min_size=1, max_size=3))
def test_bounds_are_where_documents_begin(rows: list[list[int]]):
    length = max(sum(row) for row in rows)
    document_ids = torch.full((len(rows), length), -1, dtype=torch.int32)
    expected = []
    for number, row in enumerate(rows):
        start = 0
        for segment, size in enumerate(row):
            document_ids[number, start : start + size] = segment
            expected.append(number * length + start)
            start += size
        if start < length:
            expected.append(number * length + start)  # padding is a document of its own
    bounds = document_bounds(document_ids)
    assert bounds.dtype == torch.int32
    assert bounds[: len(expected)].tolist() == expected
    assert (bounds[len(expected) :] == document_ids.numel()).all()
    assert len(bounds) > len(expected)


def test_few_sizes_of_bounds_serve_many_batches():
    sizes = {
        len(document_bounds(torch.arange(4096).div(length, rounding_mode="floor")[None]))
        for length in range(1, 4000, 7)
    }
    assert len(sizes) <= 4


def by_documents(
    q: Any, k: Any, v: Any, starts: Any, other: Any, longest: int, longest_key: int, **options: Any
) -> Any:
    """Stand in for the kernel, which only GPUs have: each document by itself."""
    assert starts is other
    assert options == {"window_size": (-1, 0), "enable_gqa": q.shape[1] != k.shape[1]}
    assert longest == longest_key >= int(starts.diff().max())
    mixed = torch.zeros_like(q)
    for start, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        part = [tensor[start:end].transpose(0, 1)[None] for tensor in (q, k, v)]
        if end > start:
            mixed[start:end] = F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
    return mixed


@pytest.fixture
def kernel_for_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", by_documents)
    monkeypatch.setattr(decoder, "takes_documents", lambda device, dtype, size: attention.trusts("documents"))


@pytest.mark.usefixtures("kernel_for_documents")
def test_attention_by_documents_is_attention_under_the_dense_mask():
    mask = causal_mask(DOCUMENT_IDS, LENGTH, None, document_bounds(DOCUMENT_IDS))
    assert mask.allowed is None
    assert attention.choose_way(*given_heads()[:2], mask) == "documents"
    torch.testing.assert_close(attend(*given_heads(), mask), attend(*given_heads(), MASKS["masked"]))
    assert distrusted_ways() == ()


@pytest.mark.usefixtures("kernel_for_documents")
@pytest.mark.parametrize("positions", ["rope", "learned", "alibi"])
def test_a_decoder_needs_no_dense_mask_for_documents(positions: str, monkeypatch: pytest.MonkeyPatch):
    model = lively_decoder(positions=positions, heads=4, kv_heads=2, width=32, context=LENGTH)
    ids = torch.randint(0, 257, DOCUMENT_IDS.shape, generator=torch.Generator("cpu").manual_seed(4))
    batch = Batch(ids, ids, DOCUMENT_IDS, torch.arange(LENGTH).expand(2, -1))
    taken = []
    kernel = attention.WAYS["documents"]
    monkeypatch.setitem(attention.WAYS, "documents", lambda *given: taken.append(1) or kernel(*given))
    by_bounds = model.features(batch)
    assert bool(taken) == (positions != "alibi")
    monkeypatch.setattr(decoder, "takes_documents", lambda *_: False)
    torch.testing.assert_close(by_bounds, model.features(batch))


@pytest.mark.usefixtures("kernel_for_documents")
def test_a_wrong_kernel_for_documents_gives_way_to_a_mask(monkeypatch: pytest.MonkeyPatch):
    kernel = attention.WAYS["documents"]
    monkeypatch.setitem(attention.WAYS, "documents", lambda *given: kernel(*given) + 1)
    mask = causal_mask(DOCUMENT_IDS, LENGTH, None, document_bounds(DOCUMENT_IDS))
    torch.testing.assert_close(attend(*given_heads(), mask), attend(*given_heads(), MASKS["masked"]))
    assert distrusted_ways() == ("documents",)


def test_bounds_never_outlive_their_segments():
    batch = Batch(DOCUMENT_IDS.long(), DOCUMENT_IDS.long(), DOCUMENT_IDS)
    first = batch.bounds
    assert batch.bounds is first
    part = batch.take(slice(1, 2))
    assert part.bounds is not None
    assert torch.equal(part.bounds, document_bounds(DOCUMENT_IDS[1:]))
    assert Batch(DOCUMENT_IDS.long(), DOCUMENT_IDS.long()).bounds is None
