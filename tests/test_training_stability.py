"""Stability as a report: what is measured, that it moves nothing, what stands out, and what is said of spikes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_models import documents, hf_model, packed
from lavra.config.training import StabilityConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.models.hf.attention import register_attention, watching_wrapped_scores
from lavra.models.native.attention import WAYS, attend, attend_plainly, watching_scores
from lavra.models.native.attention_masks import Mask
from lavra.reports.run_files import read_run
from lavra.reports.run_stability import stability_section
from lavra.training.precision import Precision
from lavra.training.stability_words import Circumstances, outstanding, what_to_do
from lavra.training.updates import AnomalyGuard, Clip, Stability, stability
from lavra.training.updates.stability import HISTOGRAM, blocks_of
from lavra.workflows.training.spikes import SpikeWatch
from lavra.workflows.training.updates import stability_every
from tiny_training import SPEC, Capture, Poisoned, all_tensors, assert_same_bits, lively, run, tiny_trainer

Records = list[dict[str, Any]]


def recorded(every: int = 1, histograms: bool = False, **options: Any) -> tuple[Any, Records]:
    records: Records = []
    inner = options.pop("updates", lambda _: [Clip(0.01)])
    trainer = tiny_trainer(
        model=lively(SPEC),
        updates=lambda trainer: [Stability(trainer, every, records.append, histograms=histograms), *inner(trainer)],
        **options,
    )
    return trainer, records


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_moves_no_bit(precision: Precision) -> None:
    measured, records = recorded(precision=precision, histograms=True)
    plain = tiny_trainer(model=lively(SPEC), precision=precision, updates=lambda _: [Clip(0.01)])
    assert [report.loss for report in run(measured)] == [report.loss for report in run(plain)]
    assert_same_bits(all_tensors(measured), all_tensors(plain))
    assert len(records) == 6
    assert measured.model.training
    assert WAYS["plain"] is attend_plainly


def test_the_norms_are_those_of_the_tensors() -> None:
    capture = Capture()
    trainer, records = recorded(updates=lambda _: [capture, Clip(0.01)])
    before = {name: weight.detach().clone() for name, weight in trainer.master_weights.weights.items()}
    run(trainer, 1)
    (record,) = records
    assert record["step"] == 1
    assert record["applied"]
    assert record["tensors"].keys() == before.keys()
    for name, found in record["tensors"].items():
        weight = before[name].double()
        moved = trainer.master_weights.weights[name].detach().double() - weight
        assert found["weight"] == pytest.approx(float(weight.square().mean().sqrt()), rel=1e-4)
        assert found["gradient"] == pytest.approx(float(capture.gradients[0][name].double().norm()), rel=1e-4)
        assert found["update"] == pytest.approx(float(moved.norm() / weight.norm()), rel=1e-4)
    assert set(record["layers"]) == {"blocks.0", "blocks.1"}
    for layer in record["layers"].values():
        assert 0 < layer["activation"] < layer["activation_max"]
        assert math.isfinite(layer["attention_logit"])
    json.dumps(record, allow_nan=False)


def test_a_refused_step_is_recorded_as_one() -> None:
    trainer, records = recorded(
        objective=Poisoned({1}, 6), updates=lambda _: [AnomalyGuard("skip", lambda step, reason: None)]
    )
    run(trainer, 3)
    assert [record["applied"] for record in records] == [True, False, True]
    assert all(found["update"] == 0 for found in records[1]["tensors"].values())


@pytest.mark.parametrize(("every", "steps"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [2, 6])])
def test_the_distance_of_the_records(every: int, steps: list[int]) -> None:
    trainer, records = recorded(every)
    run(trainer)
    assert [record["step"] for record in records] == steps


def test_the_usual_distance_costs_less_than_a_hundredth() -> None:
    config = TrainConfig(("text",))
    assert [stability_every(config, steps) for steps in (10, 2000, 100_000)] == [50, 50, 2500]
    assert stability_every(TrainConfig(("text",), stability=StabilityConfig(every=7)), 2000) == 7
    assert stability_every(TrainConfig(("text",), stability=StabilityConfig(every=0)), 2000) == 0


def test_histograms_count_every_element_by_its_power_of_two() -> None:
    trainer, records = recorded(histograms=True)
    with torch.no_grad():
        weight = trainer.master_weights.weights["output.weight"]
        weight.fill_(1.5)
        weight[0, :3] = torch.tensor([0.0, 1e-20, 1e20])
    size = weight.numel()
    run(trainer, 1)
    counts = records[0]["histograms"]["weight output.weight"]
    assert len(counts) == HISTOGRAM[1] - HISTOGRAM[0] + 1
    assert counts[0] == 2
    assert counts[-1] == 1
    assert counts[-HISTOGRAM[0]] == size - 3
    names = records[0]["histograms"]
    assert {"gradient output.weight", "activation blocks.1"} <= set(names)


def test_the_largest_score_is_that_before_the_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, values = (torch.randn(2, 4, 9, 8, generator=generator) for _ in range(2))
    keys = torch.randn(2, 2, 9, 8, generator=generator)
    values = values[:, :2]
    plain, seen = attend(queries, keys, values, Mask()), list[torch.Tensor]()
    with watching_scores(seen.append):
        watched = attend(queries, keys, values, Mask())
    torch.testing.assert_close(watched, plain)
    scores = (queries @ keys.repeat_interleave(2, 1).transpose(-1, -2)) / math.sqrt(8)
    allowed = torch.ones(9, 9, dtype=torch.bool).tril()
    assert float(seen[0]) == pytest.approx(float(scores[:, :, allowed].max()))
    attend(queries, keys, values, Mask())
    assert len(seen) == 1


def test_the_largest_score_is_that_of_capped_scores() -> None:
    queries, keys, values = (10 * torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(0))).unbind()
    seen = list[torch.Tensor]()
    with watching_scores(seen.append):
        watched = attend(queries, keys, values, Mask(), cap=5.0)
    torch.testing.assert_close(watched, attend(queries, keys, values, Mask(), cap=5.0))
    assert [float(score) for score in seen] == [pytest.approx(5.0, rel=0.01)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "modernbert", "t5", "bart"])
def test_wrapped_models_are_measured_by_block(name: str) -> None:
    model = hf_model(name)
    batch = packed(documents(model))
    from lavra.training.trainer import Trainer

    class Given:
        compilation = None

    given: Any = Given()
    given.model = model
    before = register_attention, model.training
    layers, _ = Stability(given, 1, lambda _: None)._measure(batch)
    assert set(layers) == set(blocks_of(model))
    assert len(layers) == (4 if model.kind == "encoder-decoder" else model.inner.config.num_hidden_layers)
    assert all(0 < found["activation"] <= found["activation_max"] for found in layers.values())
    assert all(math.isfinite(found["attention_logit"]) for found in layers.values())
    assert before == (register_attention, model.training)
    assert Trainer is not None


def test_the_scores_of_wrapped_models_are_those_of_their_kernel() -> None:
    model = hf_model("gpt2")
    batch = packed(documents(model))
    seen: list[torch.Tensor] = []
    model.features(batch)
    with watching_wrapped_scores(seen.append), torch.no_grad():
        watched = model.features(batch)
    with torch.no_grad():
        torch.testing.assert_close(watched, model.features(batch))
    assert len(seen) == 2
    with torch.no_grad():
        for layer in model.inner.transformer.h:
            layer.attn.c_attn.weight[:, :64] *= 10
            layer.attn.c_attn.bias[:64] *= 10
    grown: list[torch.Tensor] = []
    with watching_wrapped_scores(grown.append), torch.no_grad():
        model.features(batch)
    assert float(grown[0]) == pytest.approx(100 * float(seen[0]), rel=1e-3)


def test_a_model_that_cannot_be_measured_trains_on_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    trainer, records = recorded()
    trainer.updates[0].report = said.append
    monkeypatch.setattr(Stability, "_measure", lambda self, batch: 1 / 0)
    assert all(report.applied for report in run(trainer, 3))
    assert [record["layers"] for record in records] == [{}, {}, {}]
    assert len(said) == 1
    assert "ZeroDivisionError" in said[0]


def test_of_long_sequences_the_beginning_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "MOST_TOKENS", 8)
    trainer, records = recorded()
    seen: list[tuple[int, ...]] = []
    features = trainer.model.features

    def watched_features(batch: Any, *arguments: Any) -> torch.Tensor:
        seen.append(tuple(batch.inputs.shape))
        return features(batch, *arguments)

    monkeypatch.setattr(trainer.model, "features", watched_features)
    run(trainer, 1)
    assert seen == [(4, 32), (1, 8)]
    assert set(records[0]["layers"]) == {"blocks.0", "blocks.1"}


# What stands out.


def calm(**changed: dict[str, float]) -> dict[str, Any]:
    """Return a record in which nothing stands out, but for the tensors (t0, …) and layers (b0, …) that are given."""
    tensors = {f"t{number}": {"weight": 1.0, "gradient": 1.0, "update": 0.01} for number in range(6)}
    layers = {f"b{number}": {"activation": 1.0, "activation_max": 9.0, "attention_logit": 5.0} for number in range(5)}
    for name, values in changed.items():
        (tensors if name[0] == "t" else layers)[name].update(values)
    return {"step": 1, "applied": True, "tensors": tensors, "layers": layers}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"t2": {"update": 0.5}}, "t2 (0.5) changes by more"),
        ({"t3": {"update": 0.0}}, "t3 does not change"),
        ({"t1": {"gradient": 100.0}}, "t1 makes 100% of the squared gradient norm"),
        ({"b4": {"activation": 30.0}}, "the output of b4 (30)"),
        ({"b0": {"attention_logit": 400.0}}, "attention logits are high in b0 (400)"),
    ],
)
def test_what_stands_out_is_named(changed: dict[str, dict[str, float]], told: str) -> None:
    assert outstanding([calm()]) == []
    assert outstanding([]) == []
    found = outstanding([calm(), calm(**changed)])
    assert any(told in sentence for sentence in found), found


def test_a_refused_step_in_which_nothing_changes_is_no_dead_tensor() -> None:
    record = calm(t3={"update": 0.0}) | {"applied": False}
    assert outstanding([record]) == []


def test_the_advice_depends_on_the_run() -> None:
    usual = Circumstances(6e-3, 10, 0.95, 4096, "fp32")
    spike = what_to_do(True, usual)
    for words in ("--anomalies.spikes", "0.003 instead of 0.006", "--optimization.batch-tokens 8192"):
        assert words in spike
    assert "beta2 0.95" not in spike
    assert "beta2 0.95" in what_to_do(True, Circumstances(6e-3, 10, 0.999, 4096, "fp32"))
    assert "fp32 instead of bf16" in what_to_do(False, Circumstances(6e-3, 10, 0.95, 4096, "bf16"))
    assert "--optimization.eps" not in what_to_do(True, Circumstances(6e-3, 10, None, 4096, "fp32"))
    assert "t3 does not change" in what_to_do(
        True, Circumstances(1.0, 1, None, 1, "fp32", stands_out=("t3 does not change",))
    )


class Advice:
    def __init__(self) -> None:
        self.said: list[bool] = []

    def advise(self, *, finite: bool) -> None:
        self.said.append(finite)


def watched(folder: Path) -> tuple[SpikeWatch, RunFolder, Advice]:
    run_folder, advice = RunFolder.create(folder / "run", "data = []\n"), Advice()
    return SpikeWatch(run_folder, advice), run_folder, advice  # pyright: ignore[reportArgumentType]


def test_a_spike_is_logged_with_advice_and_counted_at_the_end(tmp_path: Path) -> None:
    watch, run_folder, advice = watched(tmp_path)
    watch.on("start", {"step": 0})
    for step in range(1, 61):
        loss = 9.0 if step in (50, 55) else 4.0 - 0.001 * step + 0.01 * (step % 3)
        watch.on("step", {"step": step, "loss": loss, "gradient_norm": 1.0 + 0.1 * (step % 2)})
    watch.on("end", {"step": 60, "status": "done"})
    assert watch.steps == [50, 55]
    assert advice.said == [True, True]
    assert "step 50: spike: loss 9" in run_folder.events[0]
    assert "2 spikes of loss or gradient norm, at step 50, 55" in run_folder.events[-1]


def test_a_small_change_of_a_calm_gradient_is_no_spike_and_a_resumed_watch_knows_the_past(tmp_path: Path) -> None:
    watch, run_folder, advice = watched(tmp_path)
    for step in range(1, 51):
        line = {"step": step, "split": "train", "loss": 4.0 - 0.001 * step, "gradient_norm": 1.0}
        run_folder.metrics.append(line)
        watch.on("step", line)
    watch.on("step", {"step": 51, "loss": 3.949, "gradient_norm": 1.5})
    assert not watch.steps
    resumed = SpikeWatch(run_folder, advice)  # pyright: ignore[reportArgumentType]
    resumed.on("start", {"step": 50})
    resumed.on("step", {"step": 51, "loss": 8.0, "gradient_norm": 1.0})
    assert resumed.steps == [51]
    resumed.on("step", {"step": 52, "loss": None, "gradient_norm": None, "skipped": True})
    assert resumed.steps == [51]


# On the page.


def test_the_page_shows_the_norms_and_names_what_stands_out(tmp_path: Path) -> None:
    run_folder = RunFolder.create(tmp_path / "run", "data = []\n")
    assert stability_section(read_run(run_folder)).empty
    for step in (2, 52, 102):
        run_folder.stability.append(calm(t2={"update": 0.9 if step == 102 else 0.01}) | {"step": step})
    section = stability_section(read_run(run_folder))
    assert "t2" in section.sentence
    assert len(section.pictures) == 4
    assert [len(table.rows) for table in section.tables] == [6, 5]
    run_folder.rewind(52)
    assert [record["step"] for record in run_folder.stability.read()] == [2, 52]


def test_numbers_that_were_not_finite_leave_gaps(tmp_path: Path) -> None:
    run_folder = RunFolder.create(tmp_path / "run", "data = []\n")
    run_folder.stability.append(calm() | {"step": 2})
    run_folder.stability.append(calm(b1={"activation": math.nan}, t1={"gradient": math.inf}) | {"step": 52})
    record = read_run(run_folder)
    assert not any("stability" in line for line in record.missing)
    section = stability_section(record)
    assert section.sentence == "No layer stands out."
    assert ["b1", "–", "9", "5"] in [list(row) for row in section.tables[1].rows]
