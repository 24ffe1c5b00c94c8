"""The certificate of a wrapped model of each kind, against its folder opened by `transformers` in a fresh process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hf_models as tiny
from lavra.models.certificate import Certificate, certify
from lavra.models.hf.folders import save_hf_model
from lavra.models.hf.model import HFModel

_DRAWN = np.random.default_rng(0)
WINDOWS = [_DRAWN.integers(tiny.FIRST, tiny.VOCABULARY, length).tolist() for length in (20, 7, 12)]
SOURCES = [_DRAWN.integers(tiny.FIRST, tiny.VOCABULARY, length).tolist() for length in (5, 16, 9)]


pytestmark = pytest.mark.usefixtures("reference_in_this_process")


def certified(model: HFModel, folder: Path) -> Certificate:
    return certify(model, folder, WINDOWS, sources=SOURCES if model.kind == "encoder-decoder" else ())


@pytest.mark.parametrize("name", ["gpt2", "opt", "t5", "t5-gated", "bart", "mbart", "bert", "roberta", "modernbert"])
def test_a_saved_model_is_certified(name, tmp_path):
    model = tiny.shared_model(name)
    save_hf_model(tmp_path / "model", model)
    certificate = certified(model, tmp_path / "model")
    assert certificate.holds, str(certificate)
    assert certificate.tokens == sum(map(len, WINDOWS))
    assert certificate.perplexity == pytest.approx(certificate.transformers_perplexity, rel=1e-4)
    assert certificate.tied is certificate.transformers_tied is model.tied


@pytest.mark.heavy
def test_in_a_fresh_process(tmp_path, monkeypatch):
    monkeypatch.undo()
    model = tiny.shared_model("t5")
    save_hf_model(tmp_path / "model", model)
    assert certified(model, tmp_path / "model").holds


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_another_weight_and_a_lost_tensor_are_found(name, tmp_path):
    model = tiny.shared_model(name)
    save_hf_model(tmp_path / "model", model)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    victim = next(key for key in tensors if "layer_norm.weight" in key or "LayerNorm.weight" in key)
    save_file({**tensors, victim: tensors[victim] + 0.01}, path, metadata={"format": "pt"})
    assert not certified(model, tmp_path / "model").holds
    save_file({key: value for key, value in tensors.items() if key != victim}, path, metadata={"format": "pt"})
    assert certified(model, tmp_path / "model").missing == (victim,)


def test_a_head_that_was_untied_is_found(tmp_path):
    model = tiny.hf_model("bert")
    save_hf_model(tmp_path / "model", model)
    head = model.inner.cls.predictions.decoder
    head.weight = torch.nn.Parameter(head.weight.detach() + 0.01)
    torch.manual_seed(0)
    save_hf_model(tmp_path / "untied", model)
    model.tied = True
    certificate = certified(model, tmp_path / "untied")
    assert not certificate.transformers_tied
    assert not certificate.holds
