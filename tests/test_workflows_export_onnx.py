"""A classifier that is exported for ONNX Runtime computes what it computed, and missing packages are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.test_workflows_export_classifier import TEXTS, classifier

from lavra.core.errors import CheckFailed, InputError
from lavra.workflows.export import onnx as recipe
from lavra.workflows.export.onnx import GRAPH, export_onnx
from lavra.workflows.labels.labeller import NetworkLabeller
from lavra.workflows.labels.predict import predict_texts
from lavra.workflows.models.open import open_model

pytestmark = pytest.mark.usefixtures("reference_in_this_process")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs onnx, onnxscript, onnxruntime"):
        export_onnx("anything", tmp_path / "out")


def test_onnxruntime_gives_what_lavra_gives_for_texts_of_other_lengths(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    import numpy as np
    from transformers import AutoTokenizer

    source = str(classifier(tmp_path / "source", "bert"))
    made = export_onnx(source, tmp_path / "out")
    assert made.same_prediction == 1.0
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["weights"] == "float32"
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / GRAPH), providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = predict_texts(NetworkLabeller(open_model(source, "cpu")), TEXTS)
    for text, one in zip(TEXTS, ours, strict=True):
        logits = session.run(["logits"], dict(tokenizer([text], return_tensors="np")))[0][0]
        shares = np.exp(logits - logits.max())
        np.testing.assert_allclose(shares / shares.sum(), list(one.probabilities.values()), atol=1e-4)


def test_another_model_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(recipe, "_ALLOWED", -1.0)
    with pytest.raises(CheckFailed, match="computes another model"):
        export_onnx(str(classifier(tmp_path / "source", "bert")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
