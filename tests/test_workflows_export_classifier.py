"""`lavra export` of models with a head for labels: a folder that the pipelines of `transformers` open alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_models as tiny
from lavra.cli.main import main
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import CheckFailed, InputError
from lavra.data.examples.labelled import LabelColumns
from lavra.models.hf.folders import save_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.building import build_decoder
from lavra.models.native.store import save_decoder
from lavra.models.spec import DecoderSpec
from lavra.tasks.table import find_task
from lavra.workflows.export import classifier as recipe
from lavra.workflows.export.export import export
from lavra.workflows.labels.labeller import NetworkLabeller
from lavra.workflows.labels.predict import predict_texts
from lavra.workflows.models.open import open_language_model, open_model
from lavra.workflows.models.task_head import give_head, write_head
from little_tokenizers import byte_level, wordpiece

pytestmark = pytest.mark.usefixtures("reference_in_this_process")

TEXTS = ["era uma vez uma aldeia", "um rio", "a casa e a janela de um livro que ninguém leu", "não"]
FACTS: dict[str, dict[str, Any]] = {
    "classification": {"classes": ["mau", "bom & <b>", "assim"]},
    "multi-label": {"classes": ["rio", "casa"], "separator": "|"},
    "regression": {"classes": ["nota"], "mean": 3.5, "deviation": 2.0},
}


def classifier(folder: Path, name: str, task: str = "classification", pooling: str = "first", second: str = "") -> Path:
    """Write a random model with a head, whose every weight matters, and a tokenizer."""
    tokenizer = wordpiece() if name == "bert" else byte_level()
    if name in ("native", "nanochat"):
        spec = DecoderSpec(vocabulary=tokenizer.vocabulary_size, context=48, depth=1, width=32, heads=4)
        if name == "native":
            like = {"activation": "swiglu", "norm_weight": True, "qk_norm": False, "embedding_norm": False}
            spec = replace(spec, mlp_width=40, kv_heads=2, **like)
        model: Any = build_decoder(spec, 0)
        save_decoder(folder, model)
    else:
        model = tiny.hf_model(name, vocab_size=tokenizer.vocabulary_size)
    kind = model.kind if isinstance(model, HFModel) else "decoder"
    head = {"pooling": pooling, "dropout": 0.0, "kind": kind, "context": 48, "isolate": False, "class_weights": "none"}
    columns = LabelColumns("text", ("label",), second=second).to_json()
    facts = {**FACTS[task], "frequencies": [1.0, 2.0, 3.0][: len(FACTS[task]["classes"])], "columns": columns}
    facts["head"] = head
    give_head(model, find_task(task), facts, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.task_head.parameters():
            parameter.normal_(std=0.5)
    if isinstance(model, HFModel):
        save_hf_model(folder, model)
    tokenizer.save(folder)
    write_head(folder, model, {}, task, facts)
    return folder


@pytest.mark.parametrize(
    ("name", "task", "pooling", "architecture"),
    [
        ("bert", "classification", "first", "BertForSequenceClassification"),
        ("bert", "regression", "first", "BertForSequenceClassification"),
        ("roberta", "multi-label", "first", "RobertaForSequenceClassification"),
        ("deberta-v2", "classification", "first", "DebertaV2ForSequenceClassification"),
        ("modernbert", "classification", "first", "ModernBertForSequenceClassification"),
        ("gpt2", "classification", "last", "GPT2ForSequenceClassification"),
        ("native", "multi-label", "last", "LlamaForSequenceClassification"),
    ],
)
def test_a_pipeline_gives_what_lavra_gives(
    name: str, task: str, pooling: str, architecture: str, tmp_path: Path
) -> None:
    from transformers import pipeline

    source = classifier(tmp_path / "source", name, task, pooling)
    made = export(str(source), tmp_path / "out")
    assert made.certificate.holds
    assert made.certificate.architecture.endswith(architecture)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    classes = FACTS[task]["classes"]
    assert config["id2label"] == {str(number): name for number, name in enumerate(classes)}
    assert (
        config["problem_type"]
        == {
            "classification": "single_label_classification",
            "multi-label": "multi_label_classification",
            "regression": "regression",
        }[task]
    )
    asked = pipeline("text-classification", str(tmp_path / "out"), device="cpu")
    theirs = asked(TEXTS, top_k=None, batch_size=len(TEXTS))
    for opened in (open_model(str(source), "cpu"), open_model(str(tmp_path / "out"), "cpu")):
        ours = predict_texts(NetworkLabeller(opened), TEXTS)
        for mine, other in zip(ours, theirs, strict=True):
            scores = {one["label"]: one["score"] for one in other}
            assert mine.probabilities == pytest.approx(scores, abs=1e-4)


def test_a_pair_of_texts_is_encoded_alike(tmp_path: Path) -> None:
    made = export(str(classifier(tmp_path / "source", "bert", second="other")), tmp_path / "out")
    assert made.certificate.holds
    assert "text_pair" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "task", "pooling", "told", "remedy"),
    [
        ("bert", "classification", "mean", "takes the mean of the tokens", "--head.pooling first"),
        ("llama", "classification", "mean", "takes the mean of the tokens", "--head.pooling last"),
        ("llama", "regression", "last", "has no bias that could hold the mean", "train an encoder"),
        ("nanochat", "classification", "last", "no class of the family nanochat", "use the model with lavra"),
        ("modernbert", "classification", "mean", "takes the mean of the tokens", "--head.pooling first"),
    ],
)
def test_a_head_that_no_class_holds_is_refused_in_words(
    name: str, task: str, pooling: str, told: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        export(str(classifier(tmp_path / "source", name, task, pooling)), tmp_path / "out")
    assert told in caught.value.message
    assert remedy in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_where_the_outputs_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = classifier(tmp_path / "source", "bert")
    certify = recipe.certify_texts
    monkeypatch.setattr(recipe, "certify_texts", lambda ours, *rest: certify(ours + 0.01, *rest))
    with pytest.raises(CheckFailed, match="NOT the same model"):
        export(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_card_names_the_labels_and_the_use(tmp_path: Path) -> None:
    export(str(classifier(tmp_path / "source", "bert")), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "which of 3 classes a text belongs to: `mau`, `bom & <b>`, `assim`" in card
    assert 'pipeline("text-classification", "out")' in card


def test_the_head_of_a_decoder_has_no_bias_where_its_class_has_none() -> None:
    facts = {**FACTS["classification"], "head": {"pooling": "last", "dropout": 0.0, "kind": "decoder"}}
    assert find_task("classification").head(facts, 8).output.bias is None
    facts["head"]["kind"] = "encoder"
    assert find_task("classification").head(facts, 8).output.bias is not None


def test_a_model_for_labels_is_refused_where_text_is_predicted(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "labels", "bert")
    with pytest.raises(InputError) as caught:
        open_language_model(str(folder), "cpu")
    assert "was trained for labels (classification), and predicts no text" in caught.value.message
    assert "classify" in caught.value.remedy
    run = RunFolder.create(tmp_path / "linear", 'data = ["rows.csv"]')
    run.write_result({"delivers": "linear"})
    with pytest.raises(InputError, match="is linear: it labels texts"):
        open_model(str(run.path), "cpu")


def test_the_next_commands_of_an_export_are_those_of_a_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = classifier(tmp_path / "source", "bert")
    assert main(["export", str(source), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert "classify" in told
    assert "generate" not in told
