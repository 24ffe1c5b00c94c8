"""Compiled steps of every kind of block: what is compiled is compiled, is right, and is said."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from denoising import decoder_for, objective_for
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.presets import as_encoder_decoder
from lavra.models.spec import DecoderSpec
from lavra.objectives.causal import Causal
from lavra.objectives.denoise.objective import denoise_for
from lavra.training.acceleration.compiling import USUAL, can_compile, compile_blocks, compile_step
from lavra.training.acceleration.proof import prove_compilation
from lavra.training.trainer import Trainer
from lavra.workflows.training.compiled_parts import compiled_parts
from plans import a_plan
from replaced_tokens import detector, electra
from tiny_training import CONTEXT, SPEC, lively, run, tiny_trainer

CPU = torch.device("cpu")

KINDS = ("plain", "experts", "windows", "windows in some blocks", "prefix", "cross-attention", "generator")


def spec_of(kind: str) -> DecoderSpec:
    fields: dict[str, dict[str, Any]] = {
        "experts": {"experts": 4, "balance_loss": 0.01},
        "windows": {"window": 8},
        "windows in some blocks": {"window": 8, "global_every": 2},
    }
    return replace(SPEC, depth=3, **fields.get(kind, {}))


def model_and_objective(kind: str) -> tuple[Decoder, Any]:
    if kind == "generator":
        return detector(), electra()
    if kind == "prefix":
        return decoder_for("prefix-lm"), objective_for("prefix-lm")
    if kind == "cross-attention":
        from denoising import tokenizer_for
        from lavra.config.denoising import DenoisingConfig

        tokenizer = tokenizer_for("span-corruption", decoder=False)
        shape = as_encoder_decoder(replace(SPEC, kv_heads=0))
        shape = replace(shape, vocabulary=tokenizer.vocabulary_size, context=2 * CONTEXT)
        mixture = DenoisingConfig().mixture("span-corruption")
        return lively(shape), denoise_for(tokenizer, mixture, CONTEXT, shift=lambda ids: [0, *ids[:-1]])
    return lively(spec_of(kind)), Causal(CONTEXT)


def trainer_of(kind: str, report: Any = None) -> Trainer:
    model, objective = model_and_objective(kind)
    return tiny_trainer(model=model, objective=objective, steps=3, report=report or (lambda _: None))


@pytest.mark.heavy
@pytest.mark.skipif(not can_compile(CPU), reason="there is no compiler")
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_step_of_every_kind_is_compiled_and_right(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    from torch._dynamo.utils import counters

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # Inductor's own code reads the environment, too
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    counters.clear()
    told: list[str] = []
    trainer, plain = trainer_of(kind, told.append), trainer_of(kind)
    compilation = compile_step(trainer)
    prove_compilation(trainer)
    assert compilation.flags == USUAL, told
    assert counters["stats"]["unique_graphs"] > 0
    # A break is what `torch.compiler.disable` makes around the experts; nothing else goes on without the compiler.
    reasons = " ".join(counters["graph_break"])
    assert bool(reasons) is (kind == "experts"), reasons
    assert not [one for one in counters["unimplemented"] if "recompile" in one]
    trainer.proved = trainer.batches.micro_batch_size, torch.float32
    for one, other in zip(run(trainer, 1), run(plain, 1), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_the_blocks_of_every_stack_are_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for kind in KINDS:
        model, _ = model_and_objective(kind)
        undo = compile_blocks(model)
        stacks: list[Any] = [model.blocks]
        if kind == "cross-attention":
            stacks.append(cast("Any", model).encoder.blocks)
        if kind == "generator":
            stacks.append(cast("Any", model).task_head.generator.blocks)
        assert all(block._compiled_call_impl is not None for blocks in stacks for block in blocks)
        undo()
        assert all(block._compiled_call_impl is None for blocks in stacks for block in blocks)


@pytest.mark.parametrize(
    ("kind", "objective", "expected"),
    [
        ("plain", "causal", "compiled: the 3 blocks, and the loss"),
        ("plain", "fim", "compiled: the 3 blocks, and the loss"),
        ("windows", "causal", "compiled: the 3 blocks with their windows, and the loss"),
        ("plain", "prefix-lm", "compiled: the 3 blocks; the loss of prefix-lm is not"),
        ("experts", "causal", "without their experts"),
    ],
)
def test_what_is_compiled_is_said(kind: str, objective: str, expected: str):
    plan = replace(a_plan(), model=spec_of(kind), objective=objective, compile=True)
    assert expected in compiled_parts(plan)
    assert compiled_parts(replace(plan, compile=False)) == ""


def test_both_stacks_and_the_generator_are_named_and_a_wrapped_model_is_not_silent():
    shape = as_encoder_decoder(replace(SPEC, depth=4, kv_heads=0))
    both = compiled_parts(replace(a_plan(), model=shape, objective="seq2seq", compile=True))
    assert "2 blocks of the encoder, the 2 of the decoder with their attention to the source" in both
    pair = replace(a_plan(), model=detector().spec, objective="electra", facts={"generator_share": 0.25}, compile=True)
    assert "those of the generator" in compiled_parts(pair)
    assert "nothing is compiled" in compiled_parts(replace(a_plan(), model=None), asked="yes")
    assert compiled_parts(replace(a_plan(), model=None)) == ""


def test_a_model_is_the_same_with_and_without_the_list_of_its_stacks():
    model = build_decoder(SPEC)
    compile_blocks(model)()
    assert all(block._compiled_call_impl is None for block in model.blocks)
