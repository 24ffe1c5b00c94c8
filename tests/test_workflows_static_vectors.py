"""Static vectors that are trained: they begin as they are, learn, and are written as static vectors again."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lavra
from lavra.cli.main import main
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.decoder import Decoder
from lavra.training.fault_injection import injected
from lavra.vectors.static import StaticEncoder
from lavra.workflows.embeddings.open_encoder import encoder_of, open_encoder, open_parts
from lavra.workflows.models.open import open_model
from lavra.workflows.models.saved_base import write_model
from lavra.workflows.models.static_base import open_static, rate_of_static
from little_tokenizers import TEXTS, byte_level, wordpiece
from test_tasks_embedding import TINY, write

SAME = {"rtol": 0, "atol": 1e-6}
OPTIONS: dict[str, Any] = {name: value for name, value in TINY.items() if name not in ("model", "text")}


def static_folder(folder: Path, tokenizer: Tokenizer) -> Path:
    """Write random static vectors; those of special tokens are zero, as in exported ones."""
    table = torch.randn(tokenizer.vocabulary_size, 16, generator=torch.Generator().manual_seed(0))
    table[[number for number, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special]] = 0.0
    folder.mkdir()
    StaticEncoder(table, tokenizer, prompts={"query": "question: "}).save(folder)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [{"query": f"the number {n} of the river", "passage": f"a river has number {n}"} for n in range(80)]
    return write(tmp_path / "pairs.jsonl", rows)


@pytest.mark.parametrize("tokenizer", [wordpiece, byte_level])
def test_they_begin_with_the_vectors_of_the_folder(tokenizer: Any, tmp_path: Path) -> None:
    folder = static_folder(tmp_path / "static", tokenizer())
    opened = open_static(str(folder))
    assert opened is not None
    assert isinstance(opened.model, Decoder)
    assert 0.015 < rate_of_static(opened.model) < 0.025  # relative to numbers of variance one
    write_model(tmp_path / "model", opened.model, opened.tokenizer, None)
    parts = open_parts(str(tmp_path / "model"), prompts={"query": "question: "})
    ours, texts = encoder_of(parts, device="cpu", precision="fp32"), [text[:400] for text in TEXTS[:20]]
    for kind in ("text", "query"):
        np.testing.assert_allclose(
            ours.encode(texts, kind=kind), open_encoder(str(folder)).encode(texts, kind=kind), **SAME
        )


def test_they_learn_and_are_written_as_static_vectors_again(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    folder = static_folder(tmp_path / "static", wordpiece())
    run = lavra.train(pairs, base=str(folder), out=str(tmp_path / "run"), **OPTIONS)
    assert {one["verdict"] for one in json.loads((run.path / "checks.json").read_text())["checks"]} <= {"ok", "warn"}
    losses = [line["loss"] for line in run.metrics if line["split"] == "train"]
    assert losses[-1] < losses[0]
    model = open_model(str(run.path), "cpu").model
    assert isinstance(model, Decoder)
    assert not model.embedding.weight[model.spec.silent].any()  # what ends a text counts for nothing
    capsys.readouterr()
    line = ["export", str(run.path), "--format", "static", "--out", str(tmp_path / "exported"), "--json"]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["certificate"]["holds"]
    texts = [text[:400] for text in TEXTS[:20]]
    exported, before = (open_encoder(str(place)) for place in (tmp_path / "exported", folder))
    for kind in ("text", "query"):
        ours = open_encoder(str(run.path), device="cpu", precision="fp32").encode(texts, kind=kind)
        np.testing.assert_allclose(exported.encode(texts, kind=kind), ours, **SAME)
        assert not np.allclose(before.encode(texts, kind=kind), ours, **SAME)


def test_a_killed_run_of_them_ends_in_the_same_bits(pairs: Path, tmp_path: Path) -> None:
    folder = static_folder(tmp_path / "static", wordpiece())
    options = {**OPTIONS, "check": False}
    whole = lavra.train(pairs, base=str(folder), out=str(tmp_path / "whole"), **options)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        with injected("step.apply:4:kill"):
            lavra.train(pairs, base=str(folder), out=str(tmp_path / "killed"), **options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    resumed = lavra.resume(tmp_path / "killed")
    ours, theirs = (open_model(str(run.path), "cpu").model.state_dict() for run in (whole, resumed))
    assert torch.equal(ours["embedding.weight"], theirs["embedding.weight"])


def test_they_predict_no_tokens(tmp_path: Path) -> None:
    folder = static_folder(tmp_path / "static", wordpiece())
    text = write(tmp_path / "text.jsonl", [{"text": text} for text in TEXTS[:20]])
    with pytest.raises(InputError, match="holds static vectors, which predict no tokens"):
        lavra.train(text, base=str(folder), out=str(tmp_path / "run"), **OPTIONS)


def test_other_poolings_are_no_static_vectors(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = static_folder(tmp_path / "static", wordpiece())
    options = {**OPTIONS, "check": False, "head": {"pooling": "max"}, "steps": 1}
    run = lavra.train(pairs, base=str(folder), out=str(tmp_path / "run"), **options)
    assert main(["export", str(run.path), "--format", "static", "--out", str(tmp_path / "exported")]) == 2
