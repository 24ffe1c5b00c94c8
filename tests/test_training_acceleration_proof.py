"""A compiled step is used only when it is right; what is not finite is done again in plainer ways."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lavra.core.code import code_fingerprint
from lavra.data.packing import WindowSource
from lavra.models.native import attention
from lavra.models.native.building import build_decoder
from lavra.models.spec import DecoderSpec
from lavra.objectives.causal import Causal
from lavra.training.acceleration import compiling, proof, verdicts
from lavra.training.acceleration.compiling import EAGER, SAFER, can_compile, compile_step
from lavra.training.batches import BatchSource, DistributedInfo
from lavra.training.deadline import Deadline
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from lavra.training.updates import AnomalyGuard, Clip, Update
from tiny_training import CONTEXT, SPEC, Poisoned, all_tensors, assert_same_bits, run, tiny_trainer, topics_store

CPU = torch.device("cpu")
Fault = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"XDG_CACHE_HOME": str(tmp_path)})
    before = attention._distrusted
    attention._distrusted = frozenset()
    yield tmp_path
    attention._distrusted = before


class Compiler:
    """Stands in for the compiler: blocks are called as they are, with a fault for some flags.

    Attributes:
        faulty: flags with which the fault is made.
        fault: of a block's output.
        used: flags that were compiled with, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faulty: set[str] = set()
        self.fault: Fault = lambda x: x
        self.used: list[str] = []
        self.flags = compiling.USUAL
        monkeypatch.setattr(compiling, "compile_blocks", self.compile_blocks)
        monkeypatch.setattr(compiling, "Causal", type(None))  # the loss is not compiled
        monkeypatch.setattr(compiling, "add_compiler_flags", lambda flags: setattr(self, "flags", flags))

    def compile_blocks(self, model: Any) -> Callable[[], None]:
        self.used.append(self.flags)
        flags = self.flags
        for block in model.blocks:
            block._compiled_call_impl = self.call(block, flags)

        def undo() -> None:
            for block in model.blocks:
                block._compiled_call_impl = None

        return undo

    def call(self, block: nn.Module, flags: str) -> Callable[..., torch.Tensor]:
        def call(*given: Any) -> torch.Tensor:
            eager = torch._dynamo.eval_frame._stance.stance == "force_eager"
            out = block.forward(*given)
            return self.fault(out) if flags in self.faulty and not eager else out

        return call


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


def guarded(trainer: Trainer) -> list[Update]:
    return [AnomalyGuard("skip", lambda step, reason: None), Clip(1.0)]


def compiled_trainer(objective: Any = None, **options: Any) -> tuple[Trainer, list[str]]:
    """Return a compiled trainer and the lines that it reports."""
    lines: list[str] = []
    trainer = tiny_trainer(report=lines.append, updates=guarded, objective=objective, **options)
    compile_step(trainer)
    return trainer, lines


def saved(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    return {group: {name: part.clone() for name, part in parts.items()} for group, parts in trainer.tensors().items()}


def flags_of(trainer: Trainer) -> str:
    assert trainer.compilation is not None
    return trainer.compilation.flags


class WrongGradient(torch.autograd.Function):
    """The identity, whose gradient is wrong by a fifth for a few channels."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        wrong = gradients[0].clone()
        wrong[..., :4] *= 1.2
        return wrong


def nan_gradient(x: torch.Tensor) -> torch.Tensor:
    x.register_hook(lambda gradient: gradient * float("nan"))
    return x * 1.0


FAULTS: dict[str, Fault] = {
    "values": lambda x: torch.cat((x[..., :2] + 0.5, x[..., 2:]), -1),
    "gradient": WrongGradient.apply,  # pyright: ignore[reportAssignmentType]
    "NaN": nan_gradient,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_right_step_is_used(compiler: Compiler, precision: Any):
    trainer, lines = compiled_trainer(precision=precision)
    trainer.run_step()
    assert flags_of(trainer) == compiling.USUAL
    assert compiler.used == [compiling.USUAL]
    assert len(lines) == 1
    assert lines[0].startswith("compiled step: proved equal to the plain one")


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_wrong_step_is_compiled_with_safer_flags(compiler: Compiler, precision: Any, fault: str):
    compiler.faulty, compiler.fault = {compiling.USUAL, SAFER[0]}, FAULTS[fault]
    trainer, lines = compiled_trainer(precision=precision)
    report = trainer.run_step()
    assert flags_of(trainer) == SAFER[1] == compiler.used[-1]
    assert compiler.used == [compiling.USUAL, *SAFER]
    assert report.applied
    assert "compiled with -O1, which is right" in lines[0]
    assert ("is not finite" in lines[0]) == (fault == "NaN")


def test_a_step_that_is_always_wrong_goes_on_eagerly_to_the_same_bits(compiler: Compiler):
    compiler.faulty, compiler.fault = {compiling.USUAL, *SAFER}, FAULTS["gradient"]
    trainer, lines = compiled_trainer(precision="bf16")
    plain = tiny_trainer(precision="bf16", updates=guarded)
    run(trainer)
    run(plain)
    assert flags_of(trainer) == EAGER
    assert "the plain step goes on" in lines[0]
    assert_same_bits(all_tensors(trainer), all_tensors(plain))


def test_the_proof_leaves_no_trace(compiler: Compiler):
    trainer, _ = compiled_trainer(precision="bf16")
    plain = tiny_trainer(precision="bf16", updates=guarded)
    run(trainer)
    run(plain)
    assert_same_bits(all_tensors(trainer), all_tensors(plain))


def test_a_verdict_is_remembered_for_the_same_machine_and_shape(
    compiler: Compiler, own_cache: Path, monkeypatch: pytest.MonkeyPatch
):
    compiler.faulty, compiler.fault = {compiling.USUAL}, FAULTS["gradient"]
    compiled_trainer()[0].run_step()
    asked = []
    gradients = proof._gradients
    monkeypatch.setattr(proof, "_gradients", lambda *given: asked.append(1) or gradients(*given))
    trainer, lines = compiled_trainer()
    trainer.run_step()
    assert not asked
    assert flags_of(trainer) == SAFER[0]
    assert "as an earlier run proved" in lines[0]
    other, _ = compiled_trainer(micro_batch_size=2)
    other.run_step()
    assert asked
    (own_cache / "lavra" / verdicts.VERDICTS).write_text('{"damaged')
    asked.clear()
    compiled_trainer()[0].run_step()
    assert asked


def test_another_compiler_is_another_verdict(compiler: Compiler, own_cache: Path):
    for number in range(2):
        script = own_cache / "compiler"
        script.write_text(f'#!/bin/sh\nexec g++ "$@" # {number}\n')
        script.chmod(0o755)
        os.environ["CXX"] = str(script)
        compiled_trainer()[0].run_step()
    assert len(json.loads((own_cache / "lavra" / verdicts.VERDICTS).read_text())) == 2


class SlowCompiler(Compiler):
    """A compiler that takes its time, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        super().__init__(monkeypatch)
        self.now, self.seconds = 0.0, seconds

    def compile_blocks(self, model: Any) -> Callable[[], None]:
        undo = super().compile_blocks(model)
        flags, begun = self.flags, set[str]()
        for block in model.blocks:
            call = block._compiled_call_impl

            def slow(*given: Any, call: Any = call) -> torch.Tensor:
                if flags not in begun and torch._dynamo.eval_frame._stance.stance != "force_eager":
                    begun.add(flags)
                    self.now += self.seconds
                return call(*given)

            block._compiled_call_impl = slow
        return undo


def timed_trainer(compiler: SlowCompiler, budget: float | None, **options: Any) -> tuple[Trainer, list[str]]:
    """Return a compiled trainer that should be done `budget` seconds from now; its compiler has compiled nothing."""
    trainer, lines = compiled_trainer(**options)
    if budget is not None:
        trainer.deadline = Deadline(compiler.now + budget, lambda: compiler.now)
    compiler.used.clear()
    return trainer, lines


def test_another_way_is_tried_only_where_it_pays_in_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch):
    """Each run begins where the last one gave up, and in the end none compiles what is known to be wrong."""
    compiler = SlowCompiler(monkeypatch, 45.0)
    compiler.faulty, compiler.fault = {compiling.USUAL, *SAFER[:1]}, FAULTS["gradient"]
    trainer, lines = timed_trainer(compiler, 150.0)
    run(trainer, 2)
    assert flags_of(trainer) == EAGER
    assert compiler.used == []  # nothing but the first way was compiled, before the steps
    assert "with the usual flags, the gradient of" in lines[0]
    assert "compiling once more (some 45 s) does not pay in the time that is left" in lines[0]
    assert f"begins with {SAFER[0]}" in lines[0]
    assert compiler.now == 45.0

    trainer, lines = timed_trainer(compiler, 250.0)
    trainer.run_step()
    assert flags_of(trainer) == SAFER[1]
    assert compiler.used == list(SAFER)
    assert "with the usual flags, an earlier run found it wrong" in lines[0]
    assert compiler.now == 135.0

    trainer, lines = timed_trainer(compiler, 10.0)
    trainer.run_step()
    assert flags_of(trainer) == SAFER[1]
    assert "as an earlier run proved" in lines[0]


def test_what_an_earlier_run_found_slow_is_not_tried_in_a_short_run(monkeypatch: pytest.MonkeyPatch):
    compiler = SlowCompiler(monkeypatch, 45.0)
    compiler.faulty, compiler.fault = {compiling.USUAL, *SAFER[:1]}, FAULTS["gradient"]
    timed_trainer(compiler, 150.0)[0].run_step()
    trainer, _ = timed_trainer(compiler, 120.0)
    trainer.run_step()
    assert (flags_of(trainer), compiler.used, compiler.now) == (EAGER, [], 45.0)


def test_without_a_deadline_every_way_is_tried(monkeypatch: pytest.MonkeyPatch):
    compiler = SlowCompiler(monkeypatch, 1e6)
    compiler.faulty, compiler.fault = {compiling.USUAL, *SAFER}, FAULTS["gradient"]
    trainer, lines = timed_trainer(compiler, None)
    trainer.run_step()
    assert (flags_of(trainer), compiler.used) == (EAGER, list(SAFER))
    again, told = timed_trainer(compiler, None)
    again.run_step()
    assert (flags_of(again), compiler.used) == (EAGER, [])
    assert "the plain step goes on" in lines[0]
    assert "an earlier run found it wrong" in told[0]


def test_a_way_that_was_wrong_for_another_step_is_tried_late(compiler: Compiler):
    compiler.faulty, compiler.fault = {compiling.USUAL}, FAULTS["gradient"]
    compiled_trainer()[0].run_step()
    compiler.used.clear()
    other, lines = compiled_trainer(micro_batch_size=2)
    other.run_step()
    assert compiler.used == [compiling.USUAL, SAFER[0]]  # the first was set up, and never run
    assert flags_of(other) == SAFER[0]
    assert len(lines) == 1
    assert "wrong" not in lines[0]


def test_ranks_that_know_different_things_decide_alike(monkeypatch: pytest.MonkeyPatch):
    """What one rank knows to be wrong is wrong for all; what is proved is so on all."""
    others = {compiling.USUAL}
    monkeypatch.setattr(proof, "max_over_ranks", lambda value, _: value or next(asked) in others)
    ways = [compiling.USUAL, *SAFER, EAGER]
    asked = iter([*ways] * 4)
    found = proof._agreed(verdicts.Verdict(compiling.USUAL), ways, DistributedInfo())
    assert found.proved is None


def test_a_verdict_holds_for_the_code_of_models():
    assert code_fingerprint("models") != hashlib.blake2b(digest_size=8).hexdigest()


def test_a_cache_that_cannot_be_written_is_done_without(compiler: Compiler, own_cache: Path):
    (own_cache / "lavra").write_text("no folder")
    trainer, lines = compiled_trainer()
    assert trainer.run_step().applied
    assert len(lines) == 1


def test_half_the_micro_batch_is_proved_again(compiler: Compiler):
    trainer, lines = compiled_trainer()
    trainer.run_step()
    trainer.batches.micro_batch_size = 2
    trainer.run_step()
    assert len(lines) == 2


def test_a_planted_nan_gives_up_what_is_compiled(compiler: Compiler):
    """Its third step is the eager step of the same weights, to the bit, and so is all that follows."""
    trainer, lines = compiled_trainer()
    plain = tiny_trainer(updates=guarded)
    for one in (trainer, plain):
        run(one, 2)
    compiler.faulty, compiler.fault = {compiling.USUAL}, FAULTS["NaN"]
    for one in (trainer, plain):
        run(one)
    assert flags_of(trainer) == EAGER
    assert "step 3 was not finite with compiled code, and is without" in lines[-1]
    assert_same_bits(all_tensors(trainer), all_tensors(plain))


def test_kernels_of_attention_are_given_up_where_they_are_to_blame(monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    trainer, plain = (tiny_trainer(updates=guarded, report=lines.append) for _ in range(2))
    run(trainer, 2)
    for way in ("causal", "masked", "products"):
        monkeypatch.setitem(attention.WAYS, way, lambda q, *_: nan_gradient(q))
    assert trainer.run_step().applied
    assert attention.distrusted_ways() == ("causal", "documents", "masked", "products", "whole")
    assert "the library's kernels of attention" in lines[-1]
    with attention.attending_plainly():
        run(plain, 3)
    assert trainer.master_weights.weights.keys() == plain.master_weights.weights.keys()


class Overflowing:
    """The causal objective, whose gradient is not finite in low precision from the third step on."""

    def __init__(self) -> None:
        self.inner, self.steps, self.bad = Causal(CONTEXT), 6, 2

    def encode(self, rows: Any, streams: Any, progress: float) -> Any:
        batch = self.inner.encode(rows, streams, progress)
        batch.model_inputs["bad"] = torch.tensor(round(progress * self.steps) >= self.bad)
        return batch

    def loss(self, model: Any, batch: Any, *, learning: bool = True) -> Any:
        loss = self.inner.loss(model, batch, learning=learning)
        wide = model.embedding.weight.dtype == torch.float32
        return replace(loss, sum=loss.sum * (float("inf") if batch.model_inputs["bad"] and not wide else 1.0))


def test_low_precision_is_given_up_where_fp32_is_finite():
    lines: list[str] = []
    trainer = tiny_trainer(updates=guarded, report=lines.append, precision="bf16", objective=Overflowing())
    reports = run(trainer, 4)
    assert all(report.applied for report in reports)
    assert trainer.master_weights.widened
    assert all(weight.dtype == torch.float32 for weight in trainer.master_weights.working.values())
    assert "with bfloat16" in lines[-1]
    assert attention.distrusted_ways() == ()

    resumed = tiny_trainer(updates=guarded, precision="bf16", objective=Overflowing())
    tensors = {
        group: {name: part.clone() for name, part in parts.items()} for group, parts in trainer.tensors().items()
    }
    resumed.restore(tensors.__getitem__, trainer.state())
    for one in (trainer, resumed):
        run(one)
    assert_same_bits(all_tensors(trainer), all_tensors(resumed))


def test_what_is_not_finite_in_fp32_is_left_to_the_policy(compiler: Compiler):
    trainer, lines = compiled_trainer(objective=Poisoned({2}, 6), precision="bf16")
    applied = [report.applied for report in run(trainer)]
    assert applied == [True, True, False, True, True, True]
    assert flags_of(trainer) == compiling.USUAL
    assert not trainer.master_weights.widened
    assert attention.distrusted_ways() == ()
    assert len(lines) == 1


def test_what_was_given_up_stays_so_after_a_resume(compiler: Compiler):
    trainer, _ = compiled_trainer()
    run(trainer, 2)
    compiler.faulty, compiler.fault = {compiling.USUAL}, FAULTS["NaN"]
    run(trainer, 1)
    tensors = {
        group: {name: part.clone() for name, part in parts.items()} for group, parts in trainer.tensors().items()
    }
    resumed, _ = compiled_trainer()
    resumed.restore(tensors.__getitem__, trainer.state())
    assert flags_of(resumed) == EAGER


# The compiler takes most of a minute of processor time for each shape.
SHAPES = [(128, 4, 2), *(pytest.param(*shape, marks=pytest.mark.heavy) for shape in [(256, 4, 4), (512, 6, 2)])]


@pytest.mark.skipif(not can_compile(CPU), reason="there is no C++ compiler")
@pytest.mark.parametrize(("context", "heads", "kv_heads"), SHAPES)
def test_compiled_steps_in_bf16_are_eager_steps(context: int, heads: int, kv_heads: int):
    """With the real compiler: what it makes is proved, and learns what eager steps learn."""
    spec = DecoderSpec(
        vocabulary=topics_store().manifest.vocabulary_size,
        context=context, depth=1, width=heads * 16, heads=heads, kv_heads=kv_heads,
    )  # fmt: skip
    losses, norms, lines = [], [], []
    for compiled in (False, True):
        objective = Causal(context)
        batches = BatchSource(
            WindowSource(topics_store(), context, 0),
            objective,
            global_batch_size=2,
            micro_batch_size=2,
            steps=4,
            seed=0,
        )
        trainer = Trainer(
            build_decoder(spec, 0), objective, batches, optimizer=OptimizerOptions(), schedule=Schedule(warmup_steps=2),
            precision="bf16", device=CPU, steps=4, updates=[Clip(1.0)], report=lines.append,
        )  # fmt: skip
        if compiled:
            compile_step(trainer)
        reports = run(trainer)
        losses.append([report.loss for report in reports])
        norms.append([report.gradient_norm for report in reports])
        batches.close()
    assert len(lines) == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert norms[1] == pytest.approx(norms[0], rel=5e-2)


def test_spec_of_the_tests_is_grouped():
    assert SPEC.kv_heads != SPEC.heads
