"""`lavra plan`: the example of the field's notes, choices for a budget, refusals, the pilot, the comparison."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from lavra.cli.plan import main
from lavra.config.planning import PlanRequest
from lavra.config.training import MachineConfig, ModelConfig, OptimizationConfig, TextConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.planning.forecast import PlanReport
from lavra.planning.scaling_law.builtin import scaling_law_for
from lavra.planning.scaling_law.law import Observation
from lavra.planning.scaling_law.past_runs import Calibration, save_calibration
from lavra.reports.forecast import rough_duration, show_plan_report
from lavra.workflows.datasets.preparation import prepare_text
from lavra.workflows.evaluate import evaluate
from lavra.workflows.planning.pilot import Rung, ladder, parse_share, pilot_law, run_ladder
from lavra.workflows.planning.plan import plan
from lavra.workflows.training.forecast import against
from lavra.workflows.training.train import train


def wanted(**fields: Any) -> PlanRequest:
    """Return a request from plain fields: a preset, and options of the machine and of the model by their names."""
    model = {"preset": fields.pop("model", "auto"), "context": fields.pop("context", None)}
    machine = {name: fields.pop(name) for name in ("micro_batch_size", "precision") if name in fields}
    batch = {name: fields.pop(name) for name in ("batch_tokens",) if name in fields}
    return PlanRequest(
        model=ModelConfig(**model), machine=MachineConfig(**machine), optimization=OptimizationConfig(**batch), **fields
    )


_NOTES = wanted(model="opt-125m", tokens=330_000_000, hardware="a100-40gb", efficiency=0.4, micro_batch_size=1)


@pytest.fixture(autouse=True)
def _no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("lavra.planning.machine.memory._STEPS", 1)  # a step of a dry run takes half a second


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    texts = sorted(topics.values(), key=len)[:70]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def notes() -> PlanReport:
    return plan(_NOTES)


def test_the_example_of_the_notes(notes: PlanReport) -> None:
    assert notes.rule.peak_tokens_per_second == pytest.approx(416_000)
    assert notes.rule.tokens_per_second == pytest.approx(166_400)
    assert notes.rule_cost.seconds / 60 == pytest.approx(33, abs=0.1)
    assert notes.cost.seconds / notes.rule_cost.seconds == pytest.approx(1.29, abs=0.01)
    shown = show_plan_report(notes)
    assert "416 thousand tokens/s peak, 166 thousand tokens/s expected, about 33 minutes" in shown
    assert "1.29 times the rule" in shown
    json.dumps(notes.to_json())
    assert not notes.notes  # nothing to say against it, and what was asked for is what is wanted


@pytest.mark.heavy
@pytest.mark.parametrize("context", [512, 256])
def test_the_t4_of_the_notes(context: int) -> None:
    found = plan(
        replace(
            _NOTES,
            hardware="colab-t4",
            model=replace(_NOTES.model, context=context),
            machine=MachineConfig(micro_batch_size=4, precision="fp32"),
        )
    )
    assert found.memory.fits
    assert found.memory.plain is not None  # why it fits here: the loss holds a chunk of the logits, a plain loop all
    assert found.hardware.peak_flops == 8.1e12
    assert "a plain training loop, which holds all logits at once" in show_plan_report(found)


def test_price_and_power(notes: PlanReport) -> None:
    found = plan(replace(_NOTES, model=ModelConfig("lavra-1m"), price_per_hour=1.10, watts=300))
    assert found.cost.money == pytest.approx(1.10 * 330e6 / found.speed.tokens_per_second / 3600)
    assert found.cost.kilowatt_hours == pytest.approx(0.3 * found.cost.seconds / 3600)
    assert notes.cost.money is None


def test_the_plan_chooses_for_budget_text_and_hardware(text: Path) -> None:
    request = wanted(data=(str(text),), budget=60.0, hardware="t4", efficiency=0.00002, micro_batch_size=1)
    small, large = plan(request), plan(replace(request, budget=600.0))
    assert small.model.chosen
    assert small.text is not None
    assert large.model.parameters >= small.model.parameters
    assert large.epochs is not None
    assert large.worth is not None
    assert large.worth <= large.epochs
    assert large.forecast is not None
    assert large.forecast.loss is not None
    assert any("--model.ngram-copy" in note and "--model.bigram-embedding 65536" in note for note in small.notes)


def test_a_plan_does_not_argue_with_its_own_choice_and_says_what_repetition_costs(text: Path) -> None:
    long = wanted(data=(str(text),), budget=600.0, hardware="t4", efficiency=0.001, micro_batch_size=1)
    chosen, named = plan(long), plan(replace(long, model=ModelConfig("1x32")))
    for found, larger in ((chosen, False), (named, True)):
        assert found.epochs is not None
        assert found.epochs > 20
        note = next(note for note in found.notes if "the text is read" in note)
        assert ("a larger model" in note) == larger
        assert found.forecast is not None
        assert found.forecast.all_new is not None
        assert found.forecast.half_time is not None
        assert found.forecast.all_new < found.forecast.bits_per_byte.value <= found.forecast.half_time
        assert f"{found.forecast.all_new:.3f} bits per byte" in note
        assert f"{found.forecast.half_time:.3f})" in note
    short = plan(replace(long, budget=20.0, efficiency=5e-6))
    assert short.steps < 50
    assert not [note for note in short.notes if "smaller model" in note or "larger model" in note]
    assert any("a longer run would learn more" in note for note in short.notes)


def test_a_repeated_text_is_forecast_as_so_much_new_text(text: Path) -> None:
    once = plan(wanted(data=(str(text),), epochs=1.0, model="1x32", hardware="t4", micro_batch_size=1))
    often = plan(wanted(data=(str(text),), epochs=9.0, model="1x32", hardware="t4", micro_batch_size=1))
    assert once.forecast is not None
    assert often.forecast is not None
    assert once.forecast.all_new is None
    # D' = U + U R* (1 - exp(-R / R*)) with R* = 15.39 and eight repetitions (arXiv 2305.16264, equation 5)
    effective = once.tokens * (1.0 + 15.39 * (1.0 - math.exp(-8.0 / 15.39)))
    assert once.text is not None
    law = scaling_law_for(once.text.compressed)
    expected = law.loss(often.model.matrix_parameters, effective * once.text.bytes_per_token, often.forecast.start)
    assert often.forecast.law_bits_per_byte == pytest.approx(expected, rel=1e-6)


def test_what_lies_far_beyond_the_runs_of_the_law_is_called_an_extrapolation(notes: PlanReport) -> None:
    assert notes.forecast is not None
    assert notes.forecast.extrapolated
    assert notes.to_json()["forecast"]["extrapolated"] is True
    assert notes.to_json()["forecast"]["times_the_largest_run"] > 1000
    assert "EXTRAPOLATED" in show_plan_report(notes)
    near = plan(wanted(model="lavra-1m", tokens=1_000_000, hardware="t4", micro_batch_size=1))
    assert near.to_json()["forecast"]["extrapolated"] is False
    assert "EXTRAPOLATED" not in show_plan_report(near)


def test_a_text_too_small_for_the_vocabulary_is_warned_of(text: Path) -> None:
    found = plan(wanted(data=(str(text),), model="2x64x4096", epochs=1.0, hardware="t4", micro_batch_size=1))
    assert found.epochs == pytest.approx(1.0)
    assert found.model.vocabulary < 4096
    asked = plan(replace(wanted(data=(str(text),), model="2x64", epochs=1.0, hardware="t4", micro_batch_size=1),
                         text=replace(PlanRequest().text, vocabulary=2000)))  # fmt: skip
    assert any("little for a vocabulary of 2000" in note for note in asked.notes)


def test_what_cannot_fit_says_what_would() -> None:
    found = plan(
        wanted(model="1x6144", tokens=1_000_000, hardware="m1", context=256, efficiency=0.4, micro_batch_size=1)
    )
    if found.memory.fits:
        pytest.skip("the model became smaller")
    assert any("does not fit" in note and "What would fit" in note for note in found.notes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": 3.0, "model": "lavra-1m"}, "spent before the first step"),
        ({"budget": 60.0}, "nothing says what to train on"),
        ({"model": "opt-125m", "tokens": 5, "steps": 5}, "both say how long"),
        ({"model": "opt-125m", "tokens": 5, "efficiency": 40.0}, "--efficiency is 40"),
        ({"model": "opt-125n", "tokens": 5, "hardware": "t4"}, "no model preset"),
        ({"model": "opt-125m", "tokens": 5, "hardware": "t44"}, "is not known hardware"),
        ({"model": "opt-125m", "tokens": 5, "hardware": "t4", "precision": "bf16"}, "does not compute"),
        ({"model": "lavra-1m", "tokens": 0, "hardware": "t4"}, "--tokens 0 is no value"),
        (
            {"model": "llama3-8b", "budget": 20.0, "hardware": "t4", "efficiency": 0.01},
            "longer than the budget of 20 s",
        ),
    ],
)
def test_wrong_requests_are_refused_in_words(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(wanted(**fields))


def test_a_plan_for_another_task_is_refused(text: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps({"prompt": f"Say {n}.", "completion": str(n)}) for n in range(50)))
    for request in (PlanRequest(data=(str(pairs),)), PlanRequest(data=(str(text),), task="completion")):
        with pytest.raises(InputError, match="only learning from text can be planned"):
            plan(replace(request, hardware="t4"))


def test_a_probe_of_real_steps_plans_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.workflows.planning.plan._PROBE_SECONDS", 0.05)
    monkeypatch.setattr("lavra.planning.machine.hardware._SIDES", {"cpu": 256})
    shape: dict[str, Any] = {"model": "2x32x512", "context": 32, "batch_tokens": 64, "micro_batch_size": 1}
    found = plan(wanted(**shape, budget=60.0, precision="fp32"))
    assert found.hardware.here
    assert "real steps" in found.speed.source
    assert found.preparation_seconds is not None
    assert found.seconds == 60.0  # start-up and the final evaluation take their part of the budget
    assert found.cost.seconds == pytest.approx(60.0 - found.preparation_seconds, rel=0.15)
    assert found.plan is not None
    assert found.tokens == found.plan.tokens == found.plan.steps * 64


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_plan_is_that_of_the_run(
    calibrated: bool, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lavra.workflows.planning.plan._PROBE_SECONDS", 0.05)
    if calibrated:
        save_calibration(Calibration(efficiency={"cpu": 0.0003}, folder="runs", runs=3))
    prepare_text([str(text)], tmp_path / "prepared", TextConfig(vocabulary=400))
    request = PlanRequest(data=(str(tmp_path / "prepared"),), epochs=0.5, model=ModelConfig(context=64), samples=0)
    config = TrainConfig(
        **{one.name: getattr(request, one.name) for one in fields(TrainConfig)} | {"out": str(tmp_path / "run")}
    )
    planned, made = plan(request).plan, train(config).plan
    assert planned is not None
    same = {**planned.to_json(), **{name: made[name] for name in ("probe", "forecast", "start_bits_per_byte")}}
    assert same == made


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model lavra-1m --tokens 330M --hardware a100-40gb --efficiency 0.4 --machine.micro-batch-size 1 --quiet"
    assert main([*words.split(), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["speed"]["efficiency"] == 0.4
    assert printed["memory"]["fits"] is True
    assert set(printed["forecast"]["bits_per_byte"]) == {"value", "low", "high"}


def test_calibrating_from_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        main(["--calibrate", str(tmp_path)])


def test_shares_and_ladders() -> None:
    assert parse_share("5%") == parse_share("0.05") == 0.05
    for wrong in ("0", "100%", "much"):
        with pytest.raises(InputError, match="not a share of a budget"):
            parse_share(wrong)
    rungs = ladder(6, 320, 180.0, seed=7)
    assert sum(rung.seconds for rung in rungs) == pytest.approx(180.0)
    assert len({(rung.depth, rung.width) for rung in rungs}) == 3
    assert all(rung.width < 320 and rung.width % 32 == 0 for rung in rungs)
    assert len({rung.seed for rung in rungs}) > 1
    with pytest.raises(InputError, match="too short for a pilot"):
        ladder(6, 320, 20.0)


def test_each_pilot_run_is_an_ordinary_training_and_all_are_measured_on_the_same_documents(
    text: Path, tmp_path: Path, notes: PlanReport
) -> None:
    asked: list[TrainConfig] = []

    def trained(config: TrainConfig) -> RunFolder:
        asked.append(config)
        run = train(replace(config, budget=None, steps=2, machine=MachineConfig(device="cpu", compile="no")))
        if len(asked) == 2:  # as if it had had time for little of the held-out text, which was easy
            folder = RunFolder.open(run.path)
            folder.write_plan({**folder.plan, "evaluation_tokens": 10})
            folder.write_result({**(folder.result or {}), "bits_per_byte": 0.5})
        return run

    plan_report = replace(notes, model=replace(notes.model, vocabulary=500), flops=replace(notes.flops, context=32))
    rungs = [Rung(2, 32, 20.0, 0), Rung(2, 64, 40.0, 0)]
    found = run_ladder(PlanRequest(data=(str(text),)), plan_report, rungs, tmp_path, trained)
    assert {config.data for config in asked} == {(str(tmp_path / "text"),)}
    assert [config.budget for config in asked] == [20.0, 40.0]
    for seen, name in zip([seen for seen in found if seen.cooled], ("run-0", "run-1"), strict=True):
        whole = evaluate(str(tmp_path / name)).result.total.bits_per_byte.value
        assert seen.bits_per_byte == pytest.approx(whole, rel=1e-6)


def test_the_law_of_a_pilot_follows_its_runs() -> None:
    truth = scaling_law_for(2.9).shifted(0.8)
    easier = [
        Observation(size, text, truth.loss(size, text, start=2.3), True, f"{size} {text}", start=2.3)
        for size in (1e5, 4e5, 1e6)
        for text in (5e5, 1e6, 3e6)
    ]  # fmt: skip
    law = pilot_law(easier, 2.9)
    assert "9 runs" in law.origin
    assert law.loss(1e6, 3e6, start=2.3) == pytest.approx(easier[-1].bits_per_byte, rel=0.01)
    assert law.loss(1e7, 1e8) == pytest.approx(truth.loss(1e7, 1e8), rel=0.02)


def test_predicted_is_set_beside_actual() -> None:
    expected = {
        "seconds": 100.0,
        "bits_per_byte": 2.0,
        "bits_per_byte_low": 1.9,
        "bits_per_byte_high": 2.1,
        "tokens_per_second": 50.0,
    }
    found = against(expected, {"seconds": 110.0, "bits_per_byte": {"value": 2.05}, "tokens_per_second": None})
    assert found["seconds"] == {"predicted": 100.0, "actual": 110.0, "difference": pytest.approx(0.1)}
    assert found["bits_per_byte"]["difference"] == pytest.approx(0.025)
    assert found["bits_per_byte"]["low"] == 1.9
    assert set(found) == {"seconds", "bits_per_byte"}


def test_rough_times_read_like_speech() -> None:
    assert rough_duration(42) == "about 42 seconds"
    assert rough_duration(1983) == "about 33 minutes"
    assert rough_duration(3 * 3600) == "about 3.0 hours"
    assert rough_duration(10 * 86400) == "about 10.0 days"
