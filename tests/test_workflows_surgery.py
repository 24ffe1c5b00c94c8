"""Surgery in a run: said in words, measured before and after, resumed to the bit, exported or refused by name."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

import lavra
from lavra.core.errors import InputError
from lavra.models.native.store import read_spec
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.fault_injection import injected
from lavra.workflows.export.export import export
from little_tokenizers import byte_level, wordpiece
from test_workflows_carried import QUICK

pytestmark = pytest.mark.usefixtures("reference_in_this_process")

SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
RUN: dict[str, Any] = {**QUICK, "steps": 4, "checkpoint_every": 2}
LONG: dict[str, Any] = {**RUN, "optimization": {"batch_tokens": 768}}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    path.write_text("".join(json.dumps({"text": topics[name][:900]}) + "\n" for name in sorted(topics)[:24]))
    return str(path)


def base_of(architecture: str, folder: Path) -> str:
    """Write a random model of a class of transformers, with a tokenizer that fits it."""
    import transformers

    masked = architecture.endswith("ForMaskedLM")
    tokenizer = wordpiece() if masked else byte_level()
    torch.manual_seed(0)
    cls = getattr(transformers, architecture)
    special = {"pad_token_id": 0} if masked else {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"vocab_size": 608, "max_position_embeddings": 64, "n_positions": 64, "embedding_size": 8, **special}
    names = {"n_embd": 16, "n_layer": 2, "n_head": 2} if architecture == "GPT2LMHeadModel" else SHAPE
    cls(cls.config_class(**{**sizes, **names})).save_pretrained(folder)
    tokenizer.save(folder)
    settings = folder / "tokenizer_config.json"
    more = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} if masked else {}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **more, "model_max_length": 64}))
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_of("BertForMaskedLM", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_of("GPT2LMHeadModel", tmp_path_factory.mktemp("gpt2"))


def record_of(run: lavra.Run) -> dict[str, Any]:
    record = json.loads((run.path / "surgery.json").read_text())
    assert run.result["surgery"] == record
    return record


def test_other_positions_are_said_measured_and_recorded(bert: str, text: str, tmp_path: Path) -> None:
    options = {**RUN, "model": {"context": 32, "positions": "rope"}}
    run = lavra.train(text, base=bert, out=str(tmp_path / "run"), **options)
    record = record_of(run)
    assert record["changes"] == ["rotary positions instead of learned positions, whose mean is added to the embeddings"]
    losses = record["validation_loss"]
    assert losses["before"] != losses["after"]
    first = next(line for line in run.metrics if line["split"] == "validation")
    assert (first["step"], first["loss"]) == (0, losses["after"])
    said = (run.path / "events.log").read_text()
    assert f"{losses['before']:.4f} before and {losses['after']:.4f} right after" in said
    assert read_spec(run.path / "base").positions == read_spec(run.path / "model").positions == "rope"
    assert json.loads((run.path / "base" / "certificate.json").read_text())["holds"]  # of the model as it came
    made = export(str(run.path), tmp_path / "out")
    assert (made.family, made.certificate.holds) == ("roformer", True)


def test_a_killed_run_ends_in_the_same_bits(bert: str, text: str, tmp_path: Path) -> None:
    options = {**RUN, "base": bert, "model": {"context": 32, "positions": "alibi"}}
    whole = lavra.train(text, out=str(tmp_path / "whole"), **options)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:3:kill"):
            lavra.train(text, out=str(tmp_path / "killed"), **options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    resumed = lavra.resume(tmp_path / "killed")
    assert record_of(resumed) == record_of(whole)
    ours, theirs = (CheckpointStore(run.path / "checkpoints").latest() for run in (whole, resumed))
    assert ours is not None
    assert theirs is not None
    one, other = ours.load("master_weights"), theirs.load("master_weights")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(InputError, match="positions = 'alibi'"):
        export(str(whole.path), tmp_path / "out")


def test_a_longer_context_by_repeating_leaves_short_texts_as_they_were(gpt2: str, text: str, tmp_path: Path) -> None:
    run = lavra.train(text, base=gpt2, out=str(tmp_path / "run"), **{**LONG, "model": {"context": 96}})
    record = record_of(run)
    assert record["changes"] == ["a context of 96 tokens instead of 64, by repeating the learned ones"]
    assert record["context"] == 64
    assert record["validation_loss"]["before"] == pytest.approx(record["validation_loss"]["after"], abs=1e-6)
    assert json.loads((run.path / "plan.json").read_text())["context"] == 96
    made = export(str(run.path), tmp_path / "out")
    assert (made.family, made.certificate.holds) == ("gpt2", True)
    assert json.loads((made.folder / "config.json").read_text())["n_positions"] == 96
    assert json.loads((made.folder / "tokenizer_config.json").read_text())["model_max_length"] == 96


def test_a_wrapped_encoder_is_read_as_lavras_own_for_a_longer_context(bert: str, text: str, tmp_path: Path) -> None:
    run = lavra.train(text, base=bert, out=str(tmp_path / "run"), **{**LONG, "model": {"context": 128}})
    losses = record_of(run)["validation_loss"]
    assert losses["before"] == pytest.approx(losses["after"], abs=1e-6)
    made = export(str(run.path), tmp_path / "out")
    assert (made.family, made.certificate.holds) == ("bert", True)


def test_a_new_head_is_no_loss_to_compare(bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.workflows.labels.baseline.is_available", lambda: False)
    rows = [{"text": f"{'good' if number % 2 else 'bad'} number {number}", "label": number % 2} for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {**RUN, "model": {"positions": "alibi"}, "optimization": {}}
    run = lavra.train(str(tmp_path / "rows.jsonl"), base=bert, out=str(tmp_path / "run"), **options)
    assert record_of(run)["not_measured"] == "the head of the task is new"


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"positions": "learned"}, None),
        ({"positions": "relative"}, "needs weights that the model does not have"),
        ({"extension": "tile"}, "no more are asked for"),
        ({"context": 128, "extension": "linear"}, "give tile or interpolate"),
    ],
)
def test_what_changes_nothing_is_said_and_what_cannot_be_is_refused(
    model: dict[str, Any], named: str | None, gpt2: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**QUICK, "base": gpt2, "out": str(tmp_path / "run"), "model": {"context": 32, **model}}
    if named is None:
        run = lavra.train(text, **options)
        assert "has learned positions already: nothing is changed" in capsys.readouterr().err
        assert not (run.path / "surgery.json").exists()
    else:
        with pytest.raises(InputError, match=named):
            lavra.train(text, **options)


def test_a_family_that_lavra_does_not_read_is_named(text: str, tmp_path: Path) -> None:
    base = base_of("ElectraForMaskedLM", tmp_path / "base")
    options = {**QUICK, "base": base, "out": str(tmp_path / "run")}
    with pytest.raises(InputError, match=r"cannot be changed: .* is a model of type 'electra'"):
        lavra.train(text, **{**options, "model": {"positions": "alibi"}})
    with pytest.raises(InputError, match="--context 128 is more than the 64 positions"):
        lavra.train(text, **{**options, "model": {"context": 128}})
