"""`lavra export`: the folder, its certificate from a fresh process, its tokenizer and its card."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from families import CONFIGURATIONS, reference
from lavra.cli.main import main
from lavra.core.errors import CheckFailed, InputError, LavraError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models import reference as reference_program
from lavra.models.certificate import Certificate, certify
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import save_decoder
from lavra.models.spec import DecoderSpec
from lavra.workflows.export.export import export
from lavra.workflows.export.model_card import model_card
from lavra.workflows.models.open import open_model

TEXTS = [topics[name] for name in sorted(topics)[:12]]
WITHOUT_LIMIT = next(one for one in CONFIGURATIONS if one[0] == "bloom")
"""A model that reads texts of any length."""
WORDS = "A função devolve 12 valores — não é?\n\n    for x in range(3): print('ok')"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 400)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the other process's program in this one, which has paid for its imports already."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder, tokens, out = command[-3:]
        reference_program.run(folder, Path(tokens), Path(out))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def model_folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    spec = DecoderSpec(vocabulary=tokenizer.vocabulary_size, context=96, depth=2, width=32, heads=2)
    model = build_decoder(spec, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    save_decoder(tmp_path / "model", model)
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


def test_an_export_is_opened_by_transformers_with_its_tokenizer(
    model_folder: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "exported"
    assert main(["export", str(model_folder), "--format", "hf", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["family"] == "nanochat"
    assert said["certificate"]["holds"] is True
    assert 0 < said["certificate"]["largest_difference"] < 1e-4
    stored = json.loads((out / "certificate.json").read_text())
    assert stored["certificate"] == said["certificate"]
    assert stored["certificate"]["perplexity"] == pytest.approx(stored["certificate"]["transformers_perplexity"])
    theirs = AutoTokenizer.from_pretrained(out)
    for text in (WORDS, *TEXTS[:3]):
        assert theirs(text)["input_ids"] == [tokenizer.document_bos, *tokenizer.encode(text)]
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.eos_token_id == tokenizer.end_of_document
    assert list(theirs(WORDS)) == ["input_ids", "attention_mask"]
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.generation_config.eos_token_id == tokenizer.end_of_document
    prompt = theirs(WORDS, return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=6, do_sample=False, eos_token_id=None)[0]
    read = [tokenizer.document_bos, *tokenizer.encode(WORDS)]
    assert made.tolist() == greedy(open_model(str(model_folder), "cpu").model, read, 6)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "certificate: the same model" in card
    assert main(["export", str(model_folder), "--out", str(out)]) == 0
    assert "holds this export already" in capsys.readouterr().err


def greedy(model: Decoder, ids: list[int], count: int) -> list[int]:
    with torch.no_grad():
        for _ in range(count):
            ids = [*ids, int(model.head(model(torch.tensor([ids])))[0, -1].argmax())]
    return ids


@pytest.mark.usefixtures("in_this_process")
def test_an_imported_folder_is_certified_on_both_ways(tokenizer: Tokenizer, tmp_path: Path) -> None:
    kind, options = CONFIGURATIONS[4]
    vocabulary = tokenizer.vocabulary_size + 5  # rows that no token uses, as OPT has
    reference(kind, {**options, "vocab_size": vocabulary}).save_pretrained(tmp_path / "source")
    tokenizer.save(tmp_path / "source")
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "text.txt").write_text(TEXTS[0], encoding="utf8")
    made = export(str(tmp_path / "source"), tmp_path / "out", [str(tmp_path / "text.txt")])
    assert made.family == kind
    assert made.of_source is not None
    assert made.of_source.holds
    assert made.certificate.holds
    assert (tmp_path / "out" / "chat_template.jinja").exists()
    opened = open_model(str(tmp_path / "out"), "cpu")
    assert opened.tokenizer.fingerprint == tokenizer.fingerprint
    assert opened.model.spec.vocabulary == vocabulary


@pytest.mark.usefixtures("in_this_process")
def test_an_export_that_was_killed_after_its_last_stroke_and_is_given_again_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (kind, options) in {"source": WITHOUT_LIMIT, "other": CONFIGURATIONS[0]}.items():
        reference(kind, options).save_pretrained(tmp_path / name)
    made = export(str(tmp_path / "source"), tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        export(str(tmp_path / "other"), tmp_path / "out")
    monkeypatch.setattr("lavra.workflows.export.export.certify", lambda *_, **__: pytest.fail("it is proved already"))
    assert export(str(tmp_path / "source"), tmp_path / "out").to_json() == made.to_json()


@pytest.mark.usefixtures("in_this_process")
def test_a_folder_without_tokenizer_is_compared_on_random_tokens(tmp_path: Path) -> None:
    kind, options = WITHOUT_LIMIT
    reference(kind, options).save_pretrained(tmp_path / "source")
    made = export(str(tmp_path / "source"), tmp_path / "out")
    assert made.family == kind
    assert made.certificate.tokens > 100
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lavra.json",
        "README.md",
        "certificate.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }


@pytest.mark.usefixtures("in_this_process")
def test_a_certificate_tells_a_lost_tie_and_another_model(tmp_path: Path) -> None:
    kind, options = CONFIGURATIONS[0]
    theirs = reference(kind, options)
    theirs.save_pretrained(tmp_path)
    from lavra.models.families.importing import import_decoder

    model = import_decoder(tmp_path).model.eval()
    windows = [[5, 6, 7, 8], [9, 10]]
    certificate = certify(model, tmp_path, windows)
    assert certificate.holds
    assert certificate.tokens == 6
    assert not replace(certificate, transformers_tied=False).holds
    assert not replace(certificate, missing=("lm_head.weight",)).holds
    assert "missing tensors: lm_head.weight" in str(replace(certificate, missing=("lm_head.weight",)))
    with torch.no_grad():
        model.embedding.weight[20] += 0.01
    changed = certify(model, tmp_path, windows)
    assert not changed.holds
    assert "NOT the same model" in str(changed)


@pytest.mark.usefixtures("in_this_process")
def test_nothing_is_left_when_the_logits_differ(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lavra.workflows.export.export as recipe

    def differing(*arguments: Any, **options: Any) -> Any:
        return replace(certify(*arguments, **options), largest_difference=1.0)

    monkeypatch.setattr(recipe, "certify", differing)
    with pytest.raises(CheckFailed, match="was not exported as it is"):
        export(str(model_folder), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_card_tells_the_figures_of_the_run() -> None:
    proof = Certificate("X", 9, 1e-6, 2.0, 1.0, 3.0, 3.0, True, True, True, (), (), "5", "2")
    figures = {"value": 12.345, "low": 11.0, "high": 13.5}
    result = {
        "step": 1200,
        "tokens": 3_000_000,
        "seconds": 90.0,
        "data": ["books/"],
        "perplexity": figures,
        "bits_per_byte": {**figures, "low": None, "high": None},
        "evaluated_documents": 7,
    }
    card = model_card("mine", "llama", DecoderSpec(), 12_345, proof, result)
    assert "Trained with lavra on `books/`: 1,200 steps, 3,000,000 tokens in 1.5 minutes." in card
    assert "On 7 validation documents" in card
    assert "| perplexity per token | 12.35 (11 to 13.5) |" in card
    assert "| bits per byte | 12.35 |" in card
    assert "12,345 parameters" in card
    assert "## Training" not in model_card("mine", "llama", DecoderSpec(), 1, proof, {})


def test_what_cannot_be_opened_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "there is no model at" in capsys.readouterr().err
    reference(*CONFIGURATIONS[0]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds no tokenizer"):
        open_model(str(tmp_path), "cpu")


def test_the_words_of_a_failing_process_are_kept(tmp_path: Path) -> None:
    model = build_decoder(DecoderSpec(vocabulary=64, context=8, depth=1, width=16, heads=1))
    with pytest.raises(LavraError, match="transformers could not run the model in"):
        certify(model, tmp_path, [[1, 2, 3]])
