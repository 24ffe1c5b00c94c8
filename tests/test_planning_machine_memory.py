"""Memory by rehearsal against real steps, FLOPs by counting against the formula."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from bench._memory import measure_allocated, measure_peak, measure_tensor_memory
from torch import nn

from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.core.errors import InputError
from lavra.models.native.building import build_decoder
from lavra.models.presets import preset
from lavra.models.spec import DecoderSpec
from lavra.planning.fitting import memory_forecast
from lavra.planning.machine.dry_run import DryRun, fake_tensors
from lavra.planning.machine.flops import _counted, count_flops, training_flops_per_token
from lavra.planning.machine.memory import (
    _phases,
    estimate_memory,
    largest_that_fits,
    memory_table,
)
from lavra.training.optimizers.optimizers import OptimizerOptions

_SPEC = DecoderSpec(vocabulary=1000, context=64, depth=2, width=64, heads=2)
_BASE = DryRun(_SPEC, 64, "fp32")
_CHECKPOINTED = replace(_BASE, transforms=TransformConfig(gradient_checkpointing=True))
_ADAPTED = replace(_BASE, transforms=TransformConfig(adapter=AdapterConfig(kind="lora", rank=4)))

estimated = cache(estimate_memory)


def _hub(folder: Path, kind: str) -> Path:
    from transformers import GPT2Config, T5Config

    config = (
        GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=512, bos_token_id=0, eos_token_id=0)
        if kind == "gpt2"
        else T5Config(d_model=64, d_ff=128, num_layers=2, num_heads=2, d_kv=32, vocab_size=512)
    )
    config.architectures = ["GPT2LMHeadModel" if kind == "gpt2" else "T5ForConditionalGeneration"]
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "dry_run",
    [
        _BASE,
        replace(_BASE, precision="bf16"),
        replace(_BASE, whole_logits=True),
        replace(_BASE, micro_batches=1, isolate=False),
        _CHECKPOINTED,
        _ADAPTED,
    ],
    ids=["fp32", "bf16", "whole logits", "one micro-batch", "checkpointing", "LoRA"],
)
def test_the_rehearsal_is_within_a_tenth_of_what_the_allocator_gave_out(dry_run: DryRun) -> None:
    def train() -> None:
        trainer = dry_run.trainer(4)
        for _ in range(2):
            trainer.run_step()

    estimate = estimated(dry_run, 4)
    assert estimate.peak == pytest.approx(measure_allocated(train), rel=0.1)
    parts = ("weights", "master_weights", "gradients", "optimizer", "logits", "activations")
    assert sum(getattr(estimate, part) for part in parts) == estimate.peak
    assert estimate.process > estimate.peak


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_models_of_transformers_are_rehearsed_from_their_configuration(kind: str, tmp_path: Path) -> None:
    dry_run = DryRun(_hub(tmp_path, kind), 64, "fp32")

    def train() -> None:
        trainer = dry_run.trainer(2)
        for _ in range(2):
            trainer.run_step()

    assert estimated(dry_run, 2).peak == pytest.approx(measure_allocated(train), rel=0.1)


def test_the_ledger_counts_real_tensors_as_it_counts_fake_ones() -> None:
    made = measure_tensor_memory(_BASE, 2, lambda: build_decoder(_SPEC, 0))
    assert made.peak == pytest.approx(estimated(_BASE, 2).peak, rel=0.02)
    assert made.weights == pytest.approx(sum(p.numel() * 4 for p in build_decoder(_SPEC).parameters()), rel=0.05)


def test_what_saves_memory_saves_it() -> None:
    plain = estimated(_BASE, 8)
    assert estimated(_CHECKPOINTED, 8).activations < 0.7 * plain.activations
    assert estimated(_ADAPTED, 8).optimizer < 0.3 * plain.optimizer
    assert estimated(replace(_BASE, whole_logits=True), 192).logits > 2 * estimated(_BASE, 192).logits
    adamw = replace(_BASE, optimizer=replace(_BASE.optimizer, name="adamw"))
    assert estimated(adamw, 1).optimizer > estimated(_BASE, 1).optimizer


@pytest.mark.parametrize(
    "dry_run",
    [
        _BASE,
        replace(_BASE, precision="bf16", gpu=True),
        replace(_BASE, precision="bf16", context=16, micro_batches=1),
        replace(_BASE, whole_logits=True, optimizer=OptimizerOptions(name="adamw")),
        _CHECKPOINTED,
        _ADAPTED,
    ],
    ids=["fp32", "bf16 on a GPU", "short", "whole logits", "checkpointing", "LoRA"],
)
def test_a_deep_model_takes_the_memory_that_two_shallow_ones_tell(dry_run: DryRun) -> None:
    deep = replace(dry_run, model=replace(_SPEC, depth=7))
    for rows in (1, 4):
        whole = max(_phases(deep, rows), key=lambda found: found.peak)
        assert estimate_memory(deep, rows).peak == pytest.approx(whole.peak, rel=1e-3)
        assert estimate_memory(deep, rows).activations == pytest.approx(whole.activations, rel=1e-3)


def test_the_table_ends_where_it_does_not_fit() -> None:
    sizes = [estimated(_BASE, rows).process for rows in (1, 2, 4)]
    table = memory_table(_BASE, (sizes[1] + sizes[2]) / 2)
    assert [found.micro_batch_size for found in table] == [1, 2, 4]
    fitting = largest_that_fits(table, (sizes[1] + sizes[2]) / 2)
    assert fitting is not None
    assert fitting.micro_batch_size == 2
    assert largest_that_fits(table, 1.0) is None


def test_a_large_model_is_rehearsed_without_its_memory_and_says_what_would_fit() -> None:
    dry_run = DryRun(replace(preset("opt-6.7b"), depth=1), 512, "bf16", gpu=True)
    plan_report = memory_forecast(dry_run, 6 << 30, asked=2, most_rows=2)
    assert not plan_report.fits
    assert plan_report.micro_batch_size == 2
    assert any("adapter" in words for words in plan_report.would_fit)


def test_modules_are_what_they_were_after_a_rehearsal() -> None:
    with fake_tensors():
        assert nn.Linear(2, 2).to(torch.bfloat16).weight.dtype == torch.bfloat16
    moved = nn.Linear(2, 2).to(torch.float64)
    assert moved.weight.dtype == torch.float64
    assert float(moved(torch.ones(1, 2, dtype=torch.float64)).sum()) != 1.0


def test_a_cpu_counts_no_peak_and_runs_all_the_same() -> None:
    done: list[int] = []
    assert measure_peak(lambda: done.append(1), torch.device("cpu")) is None
    assert done == [1]


@pytest.mark.gpu
def test_the_rehearsal_is_within_a_tenth_of_the_peak_on_a_gpu() -> None:
    dry_run = DryRun(preset("lavra-9m"), 256, "bf16", gpu=True)
    device = torch.device("cuda")

    def train() -> None:
        trainer = dry_run.trainer(8, device=device)
        for _ in range(2):
            trainer.run_step()

    assert estimated(dry_run, 8).peak == pytest.approx(measure_peak(train, device), rel=0.1)


@pytest.mark.parametrize(
    "spec",
    [
        _SPEC,
        replace(_SPEC, kv_heads=1, activation="swiglu", tied=True),
        replace(_SPEC, head_width=48, embedding_width=32),
        replace(_SPEC, positions="learned", norm="layernorm", norm_weight=True, qk_norm=False),
    ],
)
def test_counted_flops_are_those_of_the_formula(spec: DecoderSpec) -> None:
    for context in (16, 64):
        assert _counted(spec, context).exact == training_flops_per_token(spec, context)
        assert count_flops(spec, context) == _counted(spec, context)


def test_the_rule_takes_n_in_three_digits() -> None:
    found = count_flops(preset("opt-125m"), 2048)
    assert found.rule == 6 * 125e6
    assert found.exact / found.rule == pytest.approx(1.29, abs=0.01)


def test_flops_of_transformers_are_counted_too(tmp_path: Path) -> None:
    folder = _hub(tmp_path, "gpt2")
    blocks, head, scores = 2 * 12 * 64 * 64, 512 * 64, 12 * 2 * 64 * 32
    assert count_flops(folder, 32).exact == pytest.approx(6 * (blocks + head) + scores, rel=0.01)
    with pytest.raises(InputError, match="holds no model"):
        count_flops(tmp_path / "nowhere", 32)
