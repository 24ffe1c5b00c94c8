"""Planning an adaptation: the model is read, subsets are fine-tuned on, and their curve foretells the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lavra.config.planning import PlanRequest
from lavra.config.training import MachineConfig, ModelConfig, OptimizationConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import build_decoder
from lavra.models.native.store import save_decoder
from lavra.models.spec import DecoderSpec
from lavra.planning.forecast import PlanReport
from lavra.planning.scaling_law.curves import fit_rectified
from lavra.reports.forecast import show_plan_report
from lavra.workflows.planning.plan import plan
from lavra.workflows.planning.tuning_pilot import Tuned, curve_forecast, subset_sizes, tuned
from lavra.workflows.training.train import train

_SENTENCES = ("the vine grows on the hill", "rain falls on the old house", "she reads a letter by the river", "no wind")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(60):
        lines = (_SENTENCES[(number + line * line) % 4] for line in range(60))
        (folder / f"{number}.txt").write_text(f"page {number}\n" + ". ".join(lines), encoding="utf8")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer.train([path.read_text() for path in sorted(text.iterdir())[:20]], 300)
    spec = DecoderSpec(vocabulary=tokenizer.vocabulary_size, context=32, depth=1, width=32, heads=1)
    save_decoder(folder, build_decoder(spec, 0))
    tokenizer.save(folder)
    return folder


def _request(text: Path, start: Path, **changes: Any) -> PlanRequest:
    request = PlanRequest(
        data=(str(text),),
        base=str(start),
        tokens=20_000,
        machine=MachineConfig(precision="fp32"),
        optimization=OptimizationConfig(batch_tokens=64),
    )
    return replace(request, **changes)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.workflows.planning.plan._PROBE_SECONDS", 0.05)
    monkeypatch.setattr("lavra.planning.machine.hardware._SIDES", {"cpu": 256})
    monkeypatch.setattr("lavra.workflows.training.autoconfig.should_compile", lambda *_: False)
    monkeypatch.setattr("lavra.planning.machine.memory._STEPS", 1)


@pytest.fixture
def plan_report(text: Path, base: Path, quick: None) -> PlanReport:
    return plan(_request(text, base))


def test_a_plan_to_adapt_takes_the_models_shape_and_tokenizer_and_forecasts_nothing_untried(
    plan_report: PlanReport,
) -> None:
    assert (plan_report.model.depth, plan_report.model.width, plan_report.model.chosen) == (1, 32, False)
    assert plan_report.text is not None
    assert plan_report.text.tokenizer == "as given"
    assert plan_report.forecast is None
    assert plan_report.to_json()["forecast"] is None
    assert "--pilot 5%" in show_plan_report(plan_report)
    assert plan_report.preparation_seconds is not None
    assert plan_report.seconds == plan_report.cost.seconds + plan_report.preparation_seconds


def test_a_pilot_fine_tunes_on_subsets_of_one_pass(
    text: Path, base: Path, plan_report: PlanReport, tmp_path: Path, quick: None
) -> None:
    asked: list[TrainConfig] = []

    def first_runs(config: TrainConfig) -> RunFolder:
        asked.append(config)
        return train(config)

    found = tuned(_request(text, base, pilot="10%"), plan_report, first_runs)
    assert found.forecast is not None
    sizes = [config.tokens or 0 for config in asked]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sum(sizes) <= 0.1 * plan_report.tokens
    assert {config.base for config in asked} == {str(base)}
    assert [size for size, _ in found.forecast.curve] == sorted(sizes)
    assert found.forecast.before is not None
    assert found.forecast.before == pytest.approx(found.forecast.curve[0][1], rel=0.2)
    assert found.forecast.bits_per_byte.low <= found.forecast.bits_per_byte.value <= found.forecast.before
    assert "rectified scaling law" in show_plan_report(found)
    assert found.to_json()["forecast"]["curve"][0]["tokens"] == sizes[-1]


def test_the_forecast_follows_a_curve_of_the_laws_form() -> None:
    def loss(tokens: float) -> float:
        return 40.0 / (30.0 + tokens**0.5) + 1.0

    sizes = [1e3 * 2**halvings for halvings in range(6)]
    found = curve_forecast([Tuned(size, loss(size), 2.2) for size in sizes], 5e5, 4.0)
    assert found.bits_per_byte.value == pytest.approx(loss(5e5), rel=0.03)
    assert found.bits_per_byte.low <= loss(5e5) <= found.bits_per_byte.high
    assert found.loss is not None
    assert found.law_bits_per_byte is None
    assert found.bits_per_byte == fit_rectified(sizes, [loss(size) for size in sizes]).forecast(5e5)


def test_subsets_cost_what_was_allowed_and_are_no_more_than_the_text() -> None:
    sizes = subset_sizes(1_000_000, 1e9, 2048)
    assert len(sizes) == 6
    assert 0.95e6 < sum(sizes) <= 1e6
    assert all(size % 2048 == 0 for size in sizes)
    assert max(subset_sizes(1e9, 500_000, 2048)) <= 500_000
    assert subset_sizes(30 * 64, 1e9, 64) == [16 * 64, 8 * 64, 4 * 64, 2 * 64]
    with pytest.raises(InputError, match="too few for a pilot"):
        subset_sizes(20_000, 1e9, 2048)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ModelConfig("lavra-1m")}, "both name a model"),
        ({"base": "nowhere/at/all"}, "there is no model at"),
        ({"hardware": "t4", "pilot": "10%"}, "on this machine"),
    ],
)
def test_wrong_requests_are_refused(text: Path, base: Path, changes: dict[str, Any], message: str, quick: None) -> None:
    with pytest.raises(InputError, match=message):
        plan(_request(text, base, **changes))
