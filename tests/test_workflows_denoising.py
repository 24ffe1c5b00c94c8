"""Denoising from end to end: trained, resumed, checked, measured, exported, and put to work."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

import lavra
from lavra.checks.documents import check_documents, check_padding
from lavra.checks.gradients import check_accumulation
from lavra.checks.influence import check_influence
from lavra.checks.labels import check_labels
from lavra.checks.suite import run_checks
from lavra.cli.main import main
from lavra.config.generation import GenerateOptions
from lavra.config.training import (
    MachineConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizationConfig,
    TextConfig,
    TrainConfig,
)
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.hf.model import HFModel
from lavra.training.batches import DistributedInfo
from lavra.workflows.evaluate import evaluate
from lavra.workflows.generation.infill import infill
from lavra.workflows.models.open import open_model
from lavra.workflows.training.checking import check_context
from lavra.workflows.training.job import TrainingJob

OBJECTIVES = ("span-corruption", "ul2", "prefix-lm", "fim", "mlm+causal")
VOCABULARY = 400
SHAPE: dict[str, Any] = {"depth": 2, "width": 32, "heads": 2, "context": 64}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name][:1500] for name in sorted(topics)[:24]]


@pytest.fixture(scope="module")
def text(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def t5(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("t5")
    shape: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    ids: dict[str, Any] = {"pad_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 0}
    T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, **shape, **ids)).save_pretrained(folder)
    Tokenizer.train(texts, VOCABULARY).save(folder)
    return folder


def train(data: Path, out: Path, objective: str, **fields: Any) -> lavra.Run:
    given: dict[str, Any] = {
        "check": False,
        "steps": 6,
        "samples": 0,
        "machine": {"threads": 1, "precision": "fp32", "compile": "no"},
        "objective": {"name": objective, **fields.pop("asked", {})},
        "optimization": {"batch_tokens": 256},
        **fields,
    }
    if "base" not in given:
        given = {"model": SHAPE, "text": {"vocabulary": VOCABULARY}, **given}
    return lavra.train(data, out=str(out), **given)


@pytest.fixture(scope="module")
def runs(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, lavra.Run]:
    folder = tmp_path_factory.mktemp("runs")
    names = (*OBJECTIVES, "causal")
    return {name: train(text, folder / name, name, checkpoint_every=3) for name in names}


def losses(run: lavra.Run) -> list[float]:
    return [line["loss"] for line in run.metrics if line["split"] == "train"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_knows_what_it_learned(runs: dict[str, lavra.Run], name: str):
    run = runs[name]
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["objective"] == name
    assert plan["context"] == SHAPE["context"]
    assert plan["model"]["context"] >= plan["context"]
    assert plan["growth"] >= 1.0
    assert (plan["growth"] > 1.0) is (name not in ("mlm+causal", "prefix-lm"))
    assert plan["model"]["prefix_attention"] is (name != "fim")
    total = sum(source["total"] for source in run.result["data_usage"])
    assert total == 6 * 256
    often = run.result["targets_per_token"]
    low, high = {"span-corruption": (0.1, 0.6), "fim": (0.99, 1.1), "prefix-lm": (0.3, 0.7)}.get(name, (0.2, 1.0))
    assert low < often < high
    assert f"{often:.3g} times" in (run.path / "report.html").read_text(encoding="utf8")


def test_bits_per_byte_are_those_of_texts_from_left_to_right(runs: dict[str, lavra.Run]):
    assert "bits_per_byte" not in runs["span-corruption"].result
    for name in ("ul2", "prefix-lm", "fim", "mlm+causal"):
        assert runs[name].result["bits_per_byte"]["value"] < 9
    for name in ("span-corruption", "ul2", "prefix-lm", "mlm+causal"):
        assert runs[name].result["denoising"]["loss"]["value"] > 0
        assert not any("bits_per_byte" in line for line in runs[name].metrics)
    assert any("bits_per_byte" in line for line in runs["fim"].metrics if line["split"] == "validation")
    for name in ("span-corruption", "ul2", "fim"):
        filled = runs[name].result["infilling"]
        assert 0 <= filled["exact_match"]["value"] <= 1
        assert filled["bits_per_byte"]["value"] > 0
    assert "infilling" not in runs["causal"].result


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_stopped_run_goes_on_in_the_same_bits(runs: dict[str, lavra.Run], name: str, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(runs[name].path, copy)
    shutil.rmtree(copy / "checkpoints" / "step-6", ignore_errors=True)
    lines = [line for line in (copy / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] <= 3]
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (copy / "result.json").unlink()
    shutil.rmtree(copy / "model")
    lavra.resume(copy)
    for file in ("model/model.safetensors",):
        assert (copy / file).read_bytes() == (runs[name].path / file).read_bytes()


def test_fim_at_rate_zero_is_the_causal_run_to_the_bit(text: Path, runs: dict[str, lavra.Run], tmp_path: Path):
    """The vocabularies differ by three tokens, which are never learned; losses differ by their share alone."""
    plain = train(text, tmp_path / "plain", "causal", text={"tokenizer": str(runs["fim"].path)})
    zero = train(text, tmp_path / "zero", "fim", text={"tokenizer": str(runs["fim"].path)}, asked={"fim_rate": 0.0})
    assert losses(plain) == losses(zero)
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (plain, zero)]
    assert weights[0] == weights[1]


def test_ul2r_goes_on_from_a_causal_model(text: Path, runs: dict[str, lavra.Run], tmp_path: Path):
    with pytest.raises(InputError, match="ul2r goes on from a causal model"):
        train(text, tmp_path / "new", "ul2r")
    run = train(text, tmp_path / "run", "ul2r", base=str(runs["causal"].path))
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["model"]["prefix_attention"] is False
    opened = open_model(str(run.path))
    assert opened.tokenizer.document_bos == opened.tokenizer.inner.token_to_id("[S2S]")
    assert opened.model.vocabulary == opened.tokenizer.vocabulary_size
    assert run.result["bits_per_byte"]["value"] < 9
    lavra.resume(run.path)


@pytest.mark.parametrize("objective", ["span-corruption", "ul2"])
def test_an_encoder_decoder_of_our_own_denoises_text(text: Path, tmp_path: Path, objective: str):
    shape = {**SHAPE, "architecture": "encoder-decoder", "depth": 1}
    run = train(text, tmp_path / "run", objective, model=shape, text={"vocabulary": VOCABULARY})
    plan = json.loads((run.path / "plan.json").read_text())
    assert (plan["model"]["architecture"], plan["model"]["prefix_attention"]) == ("encoder-decoder", False)
    assert plan["context"] == SHAPE["context"]
    assert 0.5 < plan["growth"] < 1.0
    assert plan["bigram_contexts"] == 0
    names = open_model(str(run.path), "cpu").tokenizer.inner.get_vocab(with_added_tokens=True)
    assert {"<extra_id_0>", "<extra_id_99>"} <= set(names)
    assert losses(run)[-1] < losses(run)[0]
    further = train(text, tmp_path / "further", objective, base=str(run.path), model={"context": 32})
    plan = json.loads((further.path / "plan.json").read_text())
    assert (plan["context"], plan["model"]["architecture"]) == (32, "encoder-decoder")


def test_an_encoder_decoder_denoises_text(text: Path, t5: Path, tmp_path: Path):
    run = train(text, tmp_path / "run", "span-corruption", base=str(t5), model={"context": 64})
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["context"] == 64
    assert run.result["infilling"]["bits_per_byte"]["value"] > 0
    opened = open_model(str(run.path))
    assert isinstance(opened.model, HFModel)
    assert opened.model.vocabulary >= VOCABULARY + 100
    assert run.result["denoising"]["loss"]["value"] > 0
    with pytest.raises(InputError, match=r"mlm\+causal needs a decoder"):
        train(text, tmp_path / "other", "mlm+causal", base=str(t5))


def test_a_decoder_of_transformers_reads_a_prefix_causally_or_says_that_it_cannot(text: Path, tmp_path: Path):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path / "mamba"
    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    MambaForCausalLM(MambaConfig(**shape, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    Tokenizer.train([text.read_text()], VOCABULARY).save(folder)
    with pytest.raises(InputError, match="prefix-lm needs a decoder that sees"):
        train(text, tmp_path / "prefix", "prefix-lm", base=str(folder))
    with pytest.raises(InputError, match="a decoder of transformers attends causally"):
        train(text, tmp_path / "both", "ul2", base=str(folder), asked={"prefix_attention": "bidirectional"})


def test_a_prepared_text_without_the_tokens_is_refused(text: Path, tmp_path: Path):
    lavra.prepare(str(text), out=str(tmp_path / "prepared"))
    with pytest.raises(InputError, match=r"has no token <\|fim_prefix\|>"):
        train(tmp_path / "prepared", tmp_path / "run", "fim", text={})


# The checks.


def checked(text: Path, home: Path, name: str) -> dict[str, Any]:
    config = TrainConfig(
        data=(str(text),),
        steps=6,
        model=ModelConfig(**SHAPE),
        text=TextConfig(vocabulary=VOCABULARY),
        objective=ObjectiveConfig(name=name),
        optimization=OptimizationConfig(batch_tokens=256),
        machine=MachineConfig(threads=1, precision="fp32", compile="no"),
    )
    job = TrainingJob.create(config, home, None, DistributedInfo())
    job.build()
    chosen = [check_influence, check_documents, check_padding, check_labels, check_accumulation]
    try:
        return {one.name: one for one in run_checks(check_context(job), [(one, 0.0) for one in chosen]).results}
    finally:
        job.close()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_passes_the_checks(text: Path, tmp_path: Path, name: str):
    found = checked(text, tmp_path, name)
    assert {key: one.measured for key, one in found.items() if one.verdict != "ok"} == {}
    assert {"causal_leak", "document_leak", "padding", "labels", "accumulation"} <= set(found)
    assert ("prefix" in found) is (name != "fim")


def test_a_prefix_that_is_read_causally_is_found(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lavra.models.native import decoder

    plain = decoder.causal_mask
    monkeypatch.setattr(decoder, "causal_mask", lambda *given, **_: plain(*given[:4]))
    assert checked(text, tmp_path, "prefix-lm")["prefix"].verdict == "fail"


def test_a_text_that_is_read_whole_is_found(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lavra.models.native import decoder

    plain = decoder.causal_mask

    def everything(ids: Any, length: int, bias: Any, bounds: Any, prefix: torch.Tensor) -> Any:
        return plain(ids, length, bias, bounds, torch.ones_like(prefix))

    monkeypatch.setattr(decoder, "causal_mask", everything)
    assert checked(text, tmp_path, "prefix-lm")["causal_leak"].verdict == "fail"


# Put to work.


def test_middles_are_written(runs: dict[str, lavra.Run], t5: Path):
    options = GenerateOptions(max_new_tokens=5, greedy=True)
    pairs = [("The state", " is an object."), ("", "")]
    for name in ("fim", "span-corruption", "ul2"):
        made = infill(str(runs[name].path), pairs, options)
        assert [one.prompt for one in made] == ["The state", ""]
        assert all(len(one.tokens) <= 5 for one in made)
        assert made == infill(str(runs[name].path), pairs, options)
    with pytest.raises(InputError, match="no tokens by which a middle is asked for"):
        infill(str(runs["causal"].path), pairs, options)
    with pytest.raises(InputError, match="prefix and suffix have"):
        infill(str(runs["fim"].path), [("word " * 200, "")], options)


def test_the_command_line_fills_in(runs: dict[str, lavra.Run], capsys: pytest.CaptureFixture[str]):
    run = str(runs["fim"].path)
    words = ["generate", run, "--prefix", "The state", "--suffix", " is.", "--max-new-tokens", "4", "--greedy"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prefix"], found["suffix"], len(found["generations"])) == ("The state", " is.", 1)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("The state")
    assert shown.endswith(" is.\n")
    assert main([*words, "--prompt", "x"]) == 2


@pytest.mark.parametrize("name", ["fim", "ul2", "span-corruption", "prefix-lm"])
def test_evaluate_measures_both_ways(runs: dict[str, lavra.Run], name: str, capsys: pytest.CaptureFixture[str]):
    found = evaluate(str(runs[name].path))
    figures = found.to_json()
    assert figures["bits_per_byte"]["value"] > 0
    assert ("infilling" in figures) is (name != "prefix-lm")
    assert ("infilling, on" in found.table) is (name != "prefix-lm")
    assert ("never to read a text from left to right" in capsys.readouterr().err) is (name == "span-corruption")


def test_a_model_that_fills_in_is_exported_and_a_prefix_is_not(runs: dict[str, lavra.Run], tmp_path: Path):
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["export", str(runs["fim"].path), "--out", str(tmp_path / "fim")]) == 0
        assert main(["export", str(runs["prefix-lm"].path), "--out", str(tmp_path / "prefix")]) == 2
    assert "<|fim_middle|>" in (tmp_path / "fim" / "tokenizer.json").read_text(encoding="utf8")
    again = open_model(str(tmp_path / "fim"))
    assert again.tokenizer.inner.token_to_id("<|fim_middle|>") is not None
