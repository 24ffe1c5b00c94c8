"""`lavra export` of models that `transformers` has itself: certified, with tokenizer and card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

import hf_models as tiny
from lavra.core.errors import CheckFailed
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.certificate import certify
from lavra.models.hf.folders import save_hf_model
from lavra.workflows.export import export as recipe
from lavra.workflows.export.export import export
from lavra.workflows.models.open import open_model

pytestmark = pytest.mark.usefixtures("reference_in_this_process")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([topics[name] for name in sorted(topics)[:12]], 400)


def folder_of(name: str, tokenizer: Tokenizer, folder: Path) -> Path:
    save_hf_model(folder, tiny.hf_model(name, vocab_size=tokenizer.vocabulary_size))
    tokenizer.save(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [("bert", "fill-mask", "fill.tokenizer.mask_token"), ("t5-gated", "text2text-generation", "AutoModelForSeq2SeqLM")],
)
def test_an_encoder_and_an_encoder_decoder_are_exported_with_their_certificate(name, task, words, tokenizer, tmp_path):
    source = folder_of(name, tokenizer, tmp_path / "source")
    made = export(str(source), tmp_path / "out")
    assert made.certificate.holds
    assert made.of_source is not None
    assert made.of_source.holds
    assert json.loads((tmp_path / "out/certificate.json").read_text())["certificate"]["holds"] is True
    card = (tmp_path / "out/README.md").read_text()
    assert f"pipeline_tag: {task}" in card
    assert words in card
    opened = open_model(str(tmp_path / "out"), "cpu")
    assert opened.tokenizer.encode("for x in range(3)") == tokenizer.encode("for x in range(3)")
    assert opened.model.tied is (name == "bert")


def test_nothing_is_left_when_the_logits_differ(tokenizer, tmp_path, monkeypatch):
    source = folder_of("bert", tokenizer, tmp_path / "source")

    def differing(model: Any, folder: Path, *arguments: Any, **options: Any) -> Any:
        found = certify(model, folder, *arguments, **options)
        return found if folder == source else replace(found, largest_difference=1.0)

    monkeypatch.setattr(recipe, "certify", differing)
    with pytest.raises(CheckFailed, match="was not exported as it is"):
        export(str(source), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
