"""A decoder on disk: what is written is what is read, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from byte_level import lively_decoder
from lavra.config.choices import Positions
from lavra.core.errors import CorruptFile, InputError
from lavra.models.native.building import count_parameters
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import (
    SPECIFICATION,
    WEIGHTS,
    decoder_from,
    load_decoder,
    read_spec,
    save_decoder,
    weights_to_save,
)
from lavra.models.presets import PRESETS, preset
from lavra.training.precision import MasterWeights

IDS = torch.arange(12)[None]


def saved(folder: Path, **fields: Any) -> Decoder:
    model = lively_decoder(**fields)
    save_decoder(folder, model)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("positions", get_args(Positions))
def test_a_decoder_comes_back_with_equal_bits(tmp_path: Path, positions: str, tied: bool):
    model = saved(tmp_path / "new" / "folder", positions=positions, tied=tied, norm_weight=True)
    loaded = load_decoder(tmp_path / "new" / "folder").eval()
    assert loaded.spec == model.spec == read_spec(tmp_path / "new" / "folder")
    for (name, weight), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(weight, other), name
        assert weight.dtype == other.dtype == torch.float64
    with torch.no_grad():
        for tables in (model, loaded):
            tables.float()  # tables of positions are not saved; those of a fresh model are float32
        assert torch.equal(loaded.head(loaded(IDS)), model.head(model(IDS)))
    assert count_parameters(loaded) == count_parameters(model)


def test_a_tied_head_is_written_once_and_stays_tied(tmp_path: Path):
    saved(tmp_path, tied=True)
    assert "output.weight" not in load_file(tmp_path / WEIGHTS)
    loaded = load_decoder(tmp_path)
    assert loaded.output.weight is loaded.embedding.weight
    assert "output.weight" not in weights_to_save(loaded)


def test_the_masters_are_written_instead_of_the_working_weights(tmp_path: Path):
    model = lively_decoder().float()
    master_weights = MasterWeights(model, "bf16")
    save_decoder(tmp_path, model, master_weights.weights)
    for name, weight in load_decoder(tmp_path).named_parameters():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, master_weights.weights[name])


def test_weights_keep_their_type(tmp_path: Path):
    save_decoder(tmp_path, lively_decoder().bfloat16())
    assert {weight.dtype for weight in load_decoder(tmp_path).parameters()} == {torch.bfloat16}


def test_a_folder_without_a_model_says_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no model \(model\.json is missing\)"):
        load_decoder(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_weights_are_named(tmp_path: Path, share: float):
    saved(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptFile, match=r"model\.safetensors cannot be read") as caught:
        load_decoder(tmp_path)
    assert caught.value.remedy


def test_missing_weights_are_named(tmp_path: Path):
    saved(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CorruptFile, match=r"model\.safetensors cannot be read"):
        load_decoder(tmp_path)


def test_a_specification_that_does_not_parse_is_named(tmp_path: Path):
    saved(tmp_path)
    content = (tmp_path / SPECIFICATION).read_text()
    for text in (content[:50], "", "[]", "{}", '{"format": 1}', '{"format": 1, "decoder": 3}'):
        (tmp_path / SPECIFICATION).write_text(text)
        with pytest.raises(CorruptFile, match=r"model\.json"):
            load_decoder(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("width", "wide"), ("layers", 3), ("positions", "left")])
def test_a_wrong_field_of_the_specification_is_named(tmp_path: Path, field: str, value: object):
    saved(tmp_path)
    record = json.loads((tmp_path / SPECIFICATION).read_text())
    record["decoder"][field] = value
    (tmp_path / SPECIFICATION).write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"model\.json.*{field}"):
        load_decoder(tmp_path)


def test_a_newer_format_wants_a_newer_lavra(tmp_path: Path):
    saved(tmp_path)
    record = json.loads((tmp_path / SPECIFICATION).read_text())
    (tmp_path / SPECIFICATION).write_text(json.dumps(record | {"format": 3}))
    with pytest.raises(CorruptFile, match="has format 3, not 2") as caught:
        load_decoder(tmp_path)
    assert caught.value.remedy == "update lavra"


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_the_specification_are_named(tmp_path: Path, change: str):
    saved(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    name = "blocks.0.mlp.up.weight"
    if change == "unknown":
        name = "blocks.7.mlp.up.weight"
        weights[name] = torch.zeros(3)
    elif change == "missing":
        del weights[name]
    else:
        weights[name] = weights[name][:-1]
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(CorruptFile, match=f"does not fit its specification: {name}"):
        load_decoder(tmp_path)


def test_weights_may_come_from_elsewhere():
    model = lively_decoder()
    other = decoder_from(model.spec, weights_to_save(model), "a checkpoint")
    for weight, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(weight, same)


def test_presets_are_found_by_name_and_near_misses_are_told():
    assert preset("gpt2-124m") is PRESETS["gpt2-124m"]
    with pytest.raises(InputError, match="no model preset 'gpt2-125m'") as caught:
        preset("gpt2-125m")
    assert "did you mean gpt2-124m?" in caught.value.remedy
