"""Whatever `transformers` opens can be gone on from: options that our decoder lacks, odd memories, odd attention."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

import lavra
from lavra.config.training import TrainConfig
from lavra.core.configuration import from_table
from lavra.core.errors import InputError
from lavra.models.certificate import certify
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.workflows.models.open import open_model
from lavra.workflows.training.limits import refuse_impossible
from little_tokenizers import byte_level
from test_workflows_carried import QUICK, SHAPE

IDS = torch.arange(20)[None]
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}
LONG = {**YARN, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def folder_of(architecture: str, folder: Path, **fields: Any) -> tuple[Path, Any]:
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**{**SHAPE, "vocab_size": 600, "eos_token_id": 0, **fields})).eval()
    model.save_pretrained(folder)
    byte_level().save(folder)
    return folder, model


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        ({"rope_parameters": YARN}, "yarn"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": LONG}, "longrope"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "gelu_pytorch_tanh"),
    ],
)
def test_an_option_that_our_decoder_lacks_is_left_to_transformers(fields, option, tmp_path, capsys):
    folder, plain = folder_of("LlamaForCausalLM", tmp_path, **fields)
    model = open_model(str(folder), "cpu").model
    assert isinstance(model, HFModel)
    assert option in capsys.readouterr().err
    with torch.no_grad():
        ours = model.head(model.features(Batch(IDS, torch.full_like(IDS, IGNORED))))[0]
        assert torch.allclose(ours, plain(IDS).logits[0], atol=1e-5)


@pytest.mark.usefixtures("reference_in_this_process")
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GraniteForCausalLM"])
def test_an_attention_that_this_machine_lacks_is_replaced_by_torchs(architecture, tmp_path):
    folder, _ = folder_of(architecture, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_attn_implementation": "flash_attention_2"}))
    model = open_model(str(folder), "cpu").model
    assert isinstance(model, Decoder) is (architecture == "LlamaForCausalLM")
    assert certify(model, folder, [list(range(1, 20))]).holds


@pytest.mark.usefixtures("reference_in_this_process")
def test_a_run_whose_model_cannot_write_is_finished_and_says_so(tmp_path, capsys, monkeypatch):
    def refuse(*_: Any) -> bool:
        raise InputError("MambaForCausalLM writes nothing today", "ask tomorrow")

    monkeypatch.setattr("lavra.models.hf.caching.keeps_state", refuse)
    rows = "".join(json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)[:8])
    (tmp_path / "text.jsonl").write_text(rows)
    folder, _ = folder_of("MambaForCausalLM", tmp_path / "mamba", state_size=4)
    run = lavra.train(
        [str(tmp_path / "text.jsonl")], base=str(folder), out=str(tmp_path / "run"), **{**QUICK, "samples": 1}
    )
    assert run.status == "finished"
    assert "no sample text was generated: MambaForCausalLM writes nothing today" in capsys.readouterr().err
    assert open_model(str(run.path), "cpu").run is not None


@pytest.mark.parametrize(
    ("table", "flag"),
    [
        ({"samples": -1}, "--samples -1"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0"),
        ({"steps": 0}, "--steps 0"),
        ({"epochs": -1.0}, "--epochs -1"),
        ({"text": {"validation_share": 1.0}}, "--text.validation-share 1"),
        ({"machine": {"threads": 0}}, "--machine.threads 0"),
        ({"optimization": {"learning_rate": float("nan")}}, "--optimization.learning-rate nan"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused_before_anything_is_made(table, flag, tmp_path):
    with pytest.raises(InputError, match=f"{flag} is no value that a run can have"):
        lavra.train([str(tmp_path)], out=str(tmp_path / "run"), **table)
    assert not (tmp_path / "run").exists()


def test_the_defaults_are_numbers_that_a_run_can_have():
    refuse_impossible(TrainConfig())
    refuse_impossible(from_table(TrainConfig, {"samples": 0, "keep_checkpoints": 1}, "a test"))


def test_a_model_that_is_not_there_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(InputError, match="there is no model at"):
        lavra.train([str(tmp_path)], base=str(tmp_path / "model"), out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
