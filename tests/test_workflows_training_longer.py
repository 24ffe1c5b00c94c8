"""A finished run is trained for longer: by steps or by time, at the rates of a run of the whole length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lavra
from lavra.cli.main import main
from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import InputError
from lavra.training.fault_injection import injected
from lavra.training.plan import Plan

SMALL: dict[str, Any] = {
    "model": {"depth": 1, "width": 32, "heads": 2, "context": 64},
    "optimization": {"batch_tokens": 256},
    "machine": {"micro_batch_size": 4, "threads": 1, "precision": "fp32"},
    "samples": 0,
    "check": False,
    "deliver": "last",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 12 steps on a prepared text that lies beside it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text("\n\n".join(f"palavra {number} e mais {number % 7}" for number in range(900)))
    lavra.prepare(folder / "text.txt", folder / "prepared", vocabulary=300, validation_share=0.1)
    return lavra.train(folder / "prepared", steps=12, out=str(folder / "run"), **SMALL).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def trained(run: Path) -> list[dict[str, Any]]:
    return [line for line in RunFolder(run).metrics.read() if line["split"] == "train"]


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def test_it_goes_on_at_the_rates_of_a_run_of_the_whole_length(run: Path, finished: Path) -> None:
    longer = lavra.resume(run, steps=8)
    assert (longer.status, longer.result["step"], longer.plan["steps"]) == ("finished", 20, 20)
    lines = trained(run)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[:12] == trained(finished)
    plan = Plan.from_json(longer.plan, "plan.json")
    peak = max(line["learning_rate"] for line in lines)
    for line in lines[12:]:
        assert line["learning_rate"] == pytest.approx(peak * plan.schedule.factor(line["step"] - 1, 20))
    assert lines[12]["learning_rate"] > lines[11]["learning_rate"]  # no second fall from where the first ended
    assert longer.result["tokens"] == sum(line["total"] for line in longer.result["data_usage"])
    assert weights(run) != weights(finished)
    assert any("8 further steps, 20 in all" in line for line in RunFolder(run).events)


def test_stopped_on_its_further_way_it_ends_in_the_same_bits(run: Path, finished: Path, tmp_path: Path) -> None:
    whole = lavra.resume(Path(shutil.copytree(finished, tmp_path / "whole")), steps=8).path
    with injected("step.apply:4:raise"), pytest.raises(RuntimeError, match="injected"):
        lavra.resume(run, steps=8)
    assert RunFolder(run).status == "interrupted"
    assert lavra.resume(run).result["step"] == 20
    assert weights(run) == weights(whole)


def test_a_time_is_as_many_steps_as_the_run_took_in_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "tokens_per_second": 256.0}))  # a step in a second
    assert main(["resume", str(run), "--budget", "30s", "--json"]) == 0
    assert 15 < json.loads(capsys.readouterr().out)["step"] - 12 < 30
    with pytest.raises(InputError, match="no step fits into"):
        lavra.resume(run, budget="0.000001s")


def test_a_finished_run_says_how_it_is_trained_for_longer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = weights(run)
    assert main(["resume", str(run)]) == 0
    assert "is finished already; --steps or --budget trains it for longer" in capsys.readouterr().err
    assert weights(run) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"steps": 5, "budget": 5.0}, "both say how much longer"),
        ({"steps": 0}, "--steps 0 is no length"),
        ({"budget": float("nan")}, "--budget nan is no length"),
    ],
)
def test_what_is_no_further_length_is_refused(run: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lavra.resume(run, **more)
    assert RunFolder(run).status == "finished"


def test_a_run_that_cannot_go_on_is_refused_as_it_was(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    with pytest.raises(InputError, match="no checkpoint of its last step") as caught:
        lavra.resume(run, steps=5)
    assert f"--from {run}" in caught.value.remedy
    assert RunFolder(run).plan["steps"] == 12
    (run / "result.json").unlink()
    with pytest.raises(InputError, match="is not finished"):
        lavra.resume(run, steps=5)
