"""When blocks are compiled, and taking it back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from lavra.models.native.decoder import Decoder
from lavra.training.acceleration import compiling
from lavra.training.acceleration.compiling import can_compile, compile_blocks, compile_step, should_compile
from tiny_training import SPEC, lively, tiny_trainer

CPU = torch.device("cpu")


def test_compiling_is_for_runs_that_repay_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert should_compile("auto", CPU, seconds=600)
    assert not should_compile("auto", CPU, seconds=20)
    assert should_compile("yes", CPU, seconds=1)
    assert not should_compile("no", CPU, seconds=1e6)
    assert not can_compile(torch.device("mps"))


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert not should_compile("auto", CPU, seconds=600)


def test_compilation_can_be_taken_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the folder of the cache is set there
    model, plain = lively(SPEC), lively(SPEC)
    undo = compile_blocks(model)
    assert all(block._compiled_call_impl is not None for block in model.blocks)
    undo()
    assert all(block._compiled_call_impl is None for block in model.blocks)
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids), plain(ids))
    assert list(dict(model.named_parameters())) == list(dict(plain.named_parameters()))


def test_a_step_is_compiled_with_its_loss_and_both_are_taken_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    trainer = tiny_trainer()
    objective = trainer.objective
    compilation = compile_step(trainer)
    assert trainer.objective == replace(objective, compiled=True)  # pyright: ignore[reportArgumentType]
    blocks = cast("Decoder", trainer.model).blocks
    assert all(block._compiled_call_impl is not None for block in blocks)
    compilation.undo()
    assert trainer.objective is objective
    assert all(block._compiled_call_impl is None for block in blocks)


def test_flags_of_one_trainer_are_not_those_of_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """They belong to the process, so a trainer that begins with the usual ones takes them back."""
    from torch._inductor import config

    monkeypatch.setattr(os, "environ", dict(os.environ) | {"XDG_CACHE_HOME": str(tmp_path)})
    usual = config.cpp.cxx
    compile_step(tiny_trainer()).set_flags("-O1")
    script = Path(config.cpp.cxx[1])
    assert script.name.endswith("-O1")
    assert script.read_text().endswith('"$@" -O1\n')
    compilation = compile_step(tiny_trainer())
    assert config.cpp.cxx == (None, compiling.cpp_compiler())
    compilation.undo()
    config.cpp.cxx = usual
