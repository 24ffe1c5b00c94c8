"""How many continuations are decoded together, by device, memory, model and length."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fake_gpu import fake_gpu
from lavra.generation.batch_size import MOST_ROWS, cache_bytes_per_token, rows_at_once
from lavra.models.native.building import build_decoder
from lavra.models.spec import DecoderSpec

SPEC = DecoderSpec(vocabulary=400, context=64, depth=2, width=32, heads=4, kv_heads=2)
LARGE = replace(SPEC, vocabulary=50_000, context=4096)


def test_a_processor_takes_the_usual_number():
    assert rows_at_once(build_decoder(SPEC), 64, 17) == 17


def test_a_gpu_takes_what_its_memory_holds(monkeypatch: pytest.MonkeyPatch):
    free = 8 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr("lavra.generation.batch_size.device_of", lambda model: torch.device("cuda", 0))
    model = build_decoder(LARGE)
    short, long = rows_at_once(model, 64, 17), rows_at_once(model, 4_000_000, 17)
    assert short == MOST_ROWS
    assert 1 <= long < short
    assert long * 4_000_000 * cache_bytes_per_token(model) <= free
    free = 1
    assert rows_at_once(model, 64, 17) == 1


def test_on_a_fake_gpu():
    model = build_decoder(SPEC)
    with fake_gpu() as device:
        assert rows_at_once(model.to(device), 64, 17) == MOST_ROWS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_has_the_size_that_is_reckoned_with(dtype: torch.dtype):
    model = build_decoder(SPEC).to(dtype)
    cache = model.new_cache(3, 8)
    size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert size == 3 * 8 * cache_bytes_per_token(model)


def test_a_wrapped_model_is_reckoned_by_its_configuration():
    config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2, hidden_size=32, num_hidden_layers=2)
    wrapped = SimpleNamespace(
        parameters=lambda: iter([torch.zeros(1, dtype=torch.bfloat16)]),
        inner=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda decoder: config)),
    )
    assert cache_bytes_per_token(wrapped) == cache_bytes_per_token(build_decoder(SPEC).bfloat16())
