"""A decoder that is added to a pretrained encoder: what it begins with is said, and it learns to denoise and to ask."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from lavra.cli import doc2query as doc2query_command
from lavra.cli import expand as expand_command
from lavra.core.errors import InputError
from lavra.models.hf.folders import open_hf_model
from lavra.models.hf.warm_start import make_encoder_decoder
from lavra.models.transforms.vocabulary import swap_vocabulary
from lavra.objectives.denoise.marks import sentinels_of, with_marks
from lavra.workflows.models.open import open_model
from sentence_folders import tiny_bert
from test_search_generator import write_collection

QUICK: dict[str, Any] = {
    "machine": {"device": "cpu", "threads": 1, "precision": "fp32"},
    "model": {"context": 32},
    "samples": 0,
    "steps": 2,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of four layers without a head for tokens, as sentence encoders are."""
    return tiny_bert(tmp_path_factory.mktemp("bert") / "bert", num_hidden_layers=4)


def test_the_decoder_begins_with_the_layers_of_the_encoder(bert: Path, tmp_path: Path) -> None:
    added = make_encoder_decoder(bert, tmp_path / "both", decoder_layers=2)
    model: Any = open_hf_model(tmp_path / "both").inner
    weights = dict(model.named_parameters())
    assert (added.layers, added.of) == (2, 4)
    for layer, of in ((0, 1), (1, 3)):  # evenly spaced, the last one among them
        ours, theirs = f"decoder.bert.encoder.layer.{layer}", f"encoder.encoder.layer.{of}"
        for name in ("attention.self.query.weight", "output.dense.weight", "attention.output.LayerNorm.weight"):
            assert torch.equal(weights[f"{ours}.{name}"], weights[f"{theirs}.{name}"])
        for name in ("self.key.weight", "output.dense.weight"):
            assert torch.equal(weights[f"{ours}.crossattention.{name}"], weights[f"{theirs}.attention.{name}"])
    transform = weights["decoder.cls.predictions.transform.dense.weight"]
    assert torch.equal(transform, torch.eye(len(transform)))
    assert f"new ({added.new:,} weights) and begins as the identity" in added.summary
    assert added.new > transform.numel()


def test_a_head_that_the_encoder_has_is_kept(bert: Path, tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "masked"
    masked: Any = transformers.AutoModelForMaskedLM.from_pretrained(str(bert))
    masked.save_pretrained(folder)
    for path in bert.glob("*token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    added = make_encoder_decoder(folder, tmp_path / "both")
    model: Any = open_hf_model(tmp_path / "both").inner
    kept, own = model.decoder.cls.predictions.transform.dense.weight, masked.cls.predictions.transform.dense.weight
    assert torch.equal(kept, own)
    assert added.new == 0
    assert "nothing is random" in added.summary


def test_both_sides_get_rows_for_new_tokens(bert: Path, tmp_path: Path) -> None:
    make_encoder_decoder(bert, tmp_path / "both")
    opened = open_model(str(tmp_path / "both"), "cpu")
    before = {name: weight.clone() for name, weight in opened.model.named_parameters()}
    old = opened.tokenizer
    new = with_marks(old, "span-corruption", (), decoder=False)
    assert len(sentinels_of(new)) > len(sentinels_of(old)) == 0
    model: Any = swap_vocabulary(opened.model, old, new)
    for table in (model.inner.encoder.get_input_embeddings(), model.inner.decoder.get_input_embeddings()):
        assert len(table.weight) >= new.vocabulary_size
        assert torch.equal(
            table.weight[: old.vocabulary_size],
            before["inner.encoder.embeddings.word_embeddings.weight"][: old.vocabulary_size],
        )
    assert model.inner.get_output_embeddings().weight is model.inner.decoder.get_input_embeddings().weight


def test_an_encoder_learns_to_denoise_and_then_to_ask(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    collection = write_collection(tmp_path / "beir")
    rows = [json.loads(line) for line in (collection / "corpus.jsonl").read_text().splitlines()]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    run = lavra.train(
        "text.jsonl", base=str(bert), objective={"name": "span-corruption"}, out="denoised", check=False, **QUICK
    )
    told = capsys.readouterr().err
    assert "is an encoder: a decoder of 3 of its 4 layers is added" in told
    assert "100 special tokens for span-corruption added" in told
    assert (run.plan["base"], run.plan["task"]) == (str(bert), "denoising")
    assert run.plan["optimizer"]["learning_rate"] == 3e-4
    options = ["--steps", "2", "--device", "cpu", "--no-check", "--validation-documents", "5"]
    assert doc2query_command.main(["train", "beir", "--from", "denoised", "--out", "queries", *options]) == 0
    assert "a decoder of" not in capsys.readouterr().err  # it has one already
    assert open_model("queries", "cpu").model.kind == "encoder-decoder"
    line = ["beir", "--model", "queries", "--queries", "1", "--device", "cpu", "--out", "expanded.jsonl"]
    assert expand_command.main(line) == 0
    assert len((tmp_path / "expanded.jsonl").read_text().splitlines()) == 120


def test_an_encoder_learns_to_ask_at_once(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_collection(tmp_path / "beir")
    line = ["train", "beir", "--from", str(bert), "--out", "queries", "--steps", "2", "--device", "cpu", "--no-check"]
    assert doc2query_command.main([*line, "--validation-documents", "5"]) == 0
    assert "is an encoder: a decoder of 3 of its 4 layers is added" in capsys.readouterr().err
    plan = json.loads((tmp_path / "queries" / "plan.json").read_text())
    assert (plan["task"], plan["base"], plan["optimizer"]["learning_rate"]) == ("seq2seq", str(bert), 3e-4)
    assert not (tmp_path / "queries-base").exists()


def test_an_encoder_of_lavras_own_is_refused_in_words(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"o rio número {n} passa por aqui"}) + "\n" for n in range(200)))
    shape = {"depth": 1, "width": 32, "heads": 2, "context": 32}
    options: dict[str, Any] = {**QUICK, "model": shape, "check": False, "text": {"vocabulary": 300}}
    own = lavra.train(text, objective={"name": "mlm"}, out=str(tmp_path / "own"), **options)
    with pytest.raises(InputError, match="an encoder of lavra's own, to which no decoder can be added"):
        lavra.train(text, base=str(own.path), objective={"name": "span-corruption"}, out=str(tmp_path / "no"), **QUICK)
