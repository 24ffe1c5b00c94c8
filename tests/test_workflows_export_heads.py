"""Models with the head of a task are exported as the class of `transformers` that has it, and open again in lavra."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_models as tiny
from labelled_rows import encoder, pair_wordpiece
from lavra.core.errors import CheckFailed
from lavra.models.head_certificate import HeadCertificate
from lavra.models.hf.model import HFModel
from lavra.tasks.table import find_task
from lavra.tasks.tagging import tag
from lavra.workflows.export import export as recipe
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model, read_hugging_face
from lavra.workflows.models.saved_base import write_model
from lavra.workflows.models.task_head import give_head
from little_tokenizers import byte_level

pytestmark = pytest.mark.usefixtures("reference_in_this_process")

CLASSES = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
HEAD = {"pooling": "mean", "dropout": 0.1, "class_weights": "none"}
FACTS: dict[str, dict[str, Any]] = {
    "token-classification": {"classes": CLASSES, "frequencies": [1, 1, 1, 1, 9], "entities": True, "head": HEAD},
    "question-answering": {"columns": {"overlap": 8}, "unanswerable": 0.0, "answer_tokens": 30, "head": HEAD},
}


def headed(folder: Path, task: str, family: str = "bert") -> Path:
    """Write a model with a head of large random weights, as a run leaves it."""
    if family == "bert":
        base, tokenizer = encoder(folder / "base"), pair_wordpiece()
        model: Any = open_model(str(base), "cpu", new_head=True).model
    else:
        tokenizer = byte_level()
        fields = {"vocab_size": tokenizer.vocabulary_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        base = folder / "base"
        tiny.plain_model(family, **fields).save_pretrained(base)
        tokenizer.save(base)
        model = read_hugging_face(base)
    give_head(model, find_task(task), FACTS[task], seed=0)
    with torch.no_grad():
        for parameter in model.task_head.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(1))
    write_model(folder / "model", model, tokenizer, base, task=(task, FACTS[task]))
    return folder / "model"


@pytest.mark.parametrize(
    ("task", "family", "architecture"),
    [
        ("token-classification", "bert", "BertForTokenClassification"),
        ("question-answering", "bert", "BertForQuestionAnswering"),
        ("token-classification", "llama", "LlamaForTokenClassification"),
        ("token-classification", "gpt2", "GPT2ForTokenClassification"),
        ("question-answering", "gpt2", "GPT2ForQuestionAnswering"),
    ],
)
def test_it_is_the_class_with_that_head_and_opens_again(task: str, family: str, architecture: str, tmp_path: Path):
    made = export(str(headed(tmp_path, task, family)), tmp_path / "out")
    assert isinstance(made.certificate, HeadCertificate)
    assert made.certificate.holds
    assert made.certificate.architecture == architecture
    assert made.certificate.same_prediction == 1.0
    written = json.loads((tmp_path / "out/certificate.json").read_text())["certificate"]
    assert HeadCertificate.from_json(written) == made.certificate
    config = json.loads((tmp_path / "out/config.json").read_text())
    if task == "token-classification":
        assert config["id2label"] == {str(number): name for number, name in enumerate(CLASSES)}
        assert config["label2id"] == {name: number for number, name in enumerate(CLASSES)}
    assert f"pipeline_tag: {task}" in (tmp_path / "out/README.md").read_text()
    again = export(str(tmp_path / "out"), tmp_path / "again")
    assert again.certificate.holds
    opened = open_model(str(tmp_path / "again"), "cpu")
    assert opened.task == (task, FACTS[task])
    assert export(str(tmp_path / "out"), tmp_path / "again").certificate == again.certificate  # it is there already


def test_a_pipeline_gives_the_same_tags(tmp_path: Path):
    from transformers import pipeline

    model = headed(tmp_path, "token-classification")
    export(str(model), tmp_path / "out")
    opened = open_model(str(model), "cpu")
    words = ["Rui", "Silva", "mora", "em", "Porto", "Alegre", "desde", "1903"]
    found = pipeline("token-classification", str(tmp_path / "out"), ignore_labels=[])(" ".join(words))
    begins = [0, *(len(" ".join(words[:number])) + 1 for number in range(1, len(words)))]
    theirs = {one["start"]: one["entity"] for one in found}
    assert tag(opened.model, opened.tokenizer, FACTS["token-classification"], [words]) == [
        [theirs[begin] for begin in begins]
    ]


def test_a_span_class_gives_the_same_scores_with_both_kinds_of_tokens(tmp_path: Path):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from lavra.data.examples.rows import ExampleRow
    from lavra.data.examples.spans import SpanColumns
    from lavra.tasks.text_parts import outputs_of_tokens

    model = headed(tmp_path, "question-answering")
    export(str(model), tmp_path / "out")
    opened = open_model(str(model), "cpu")
    question, context = "Quem mora?", "Ana mora em Lisboa."
    [parts] = SpanColumns().encode([ExampleRow("", "", context, question)], opened.tokenizer, None)
    [ours] = outputs_of_tokens(opened.model, parts, lambda part, outputs: outputs)
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(
        question, context, return_tensors="pt", return_token_type_ids=True
    )
    assert ids["input_ids"][0].tolist() == parts[0].tokens.tolist()
    with torch.no_grad():
        theirs = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out")(**ids)
    assert torch.allclose(ours, torch.stack([theirs.start_logits[0], theirs.end_logits[0]], -1), atol=1e-5)


def test_a_family_whose_class_has_further_layers_keeps_its_head_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made = export(str(headed(tmp_path, "token-classification", "modernbert")), tmp_path / "out")
    assert "has more than a linear layer on the last hidden states" in capsys.readouterr().err
    assert not isinstance(made.certificate, HeadCertificate)
    assert made.certificate.holds
    opened = open_model(str(tmp_path / "out"), "cpu")
    assert opened.task is not None
    assert isinstance(opened.model, HFModel)
    assert opened.model.for_task_head


def test_nothing_is_left_when_the_outputs_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dataclasses import replace

    from lavra.models.head_certificate import certify_head

    monkeypatch.setattr(recipe, "certify_head", lambda *given: replace(certify_head(*given), largest_difference=1.0))
    with pytest.raises(CheckFailed, match=r"the outputs of its head for .* differ by at most 1\.00e"):
        export(str(headed(tmp_path, "token-classification")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
