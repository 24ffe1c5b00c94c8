from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lavra.cli import plan
from lavra.cli.main import main
from lavra.config.planning import PlanRequest
from lavra.config.training import ModelConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.program import command
from lavra.reports.formatting import text_table
from recommended import recommended


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a finished run, an interrupted one, one that never began and a damaged one."""
    finished = RunFolder.create(tmp_path / "finished", 'data = ["corpora/machado"]\nseed = 1\n')
    finished.write_plan({"model": {"depth": 6}, "parameters": 7_123_456, "context": 256, "budget_seconds": 600.0})
    finished.metrics.append({"step": 700, "tokens": 5_734_400, "loss": 4.8})
    finished.log("finished")
    finished.write_result(
        {
            "tokens": 5_734_400,
            "tokens_per_second": 9123.4,
            "perplexity": {"value": 123.4, "low": 120.0, "high": 125.9},
            "bits_per_byte": {"value": 1.9494, "low": 1.94, "high": 1.96},
            "data_usage": [{"source": "machado", "tokens": 3000, "seen": 2500, "epochs": 0.83, "left": 500}],
        }
    )
    interrupted = RunFolder.create(tmp_path / "interrupted", 'data = ["a", "b", "c"]\n')
    interrupted.metrics.append({"step": 1, "tokens": 8192, "tokens_per_second": 5000.0, "bits_per_byte": 2.5})
    interrupted.metrics.append({"step": 2, "tokens": 16384, "tokens_per_second": 5012.0})
    RunFolder.create(tmp_path / "begun", "")
    damaged = RunFolder.create(tmp_path / "damaged", "")
    (damaged.path / "plan.json").write_text("{")
    return tmp_path


def test_the_lab_book_has_a_line_per_run(root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", str(root)]) == 0
    header, _, *lines = capsys.readouterr().out.splitlines()
    titles = ["run", "data", "status", "parameters", "context", "tokens", "budget", "tokens/s", "perplexity"]
    assert header.split() == [*titles, "bits/byte"]
    cells = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in line if cell.strip()][1:] for line in cells]
    assert cells[0] == ["machado", "finished", "7.1M", "256", "5.7M", "10 min 00 s", "9.1k", "123.40", "1.9494"]
    assert cells[1] == ["a, b +1", "interrupted", "–", "–", "16.4k", "–", "5.0k", "–", "2.5000"]
    assert cells[2] == ["–", "interrupted", *"–––––––"]
    assert cells[3][1].startswith("damaged: ")
    assert "plan.json" in cells[3][1]


def test_the_lab_book_as_json(root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", str(root), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(run["run"]).name for run in runs] == ["finished", "interrupted", "begun", "damaged"]
    assert runs[0]["perplexity"] == {"value": 123.4, "low": 120.0, "high": 125.9}
    assert runs[1]["data"] == ["a", "b", "c"]


def test_one_run_in_full(root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "show", str(root / "finished"), "--all"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    for part in (
        "finished: finished",
        "request data corpora/machado seed 1",
        "plan model.depth 6 parameters 7123456",
        "perplexity 123.4 (120 to 125.9)",
        "source size complete epochs trained on in this epoch left in this epoch total",
        "machado 3000 0.83 2500 500 –",
        "last metrics step 700",
        "finished",
    ):
        assert part in words


def test_one_run_as_json(root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "show", str(root / "interrupted"), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert (run["status"], run["config"], run["result"]) == ("interrupted", {"data": ["a", "b", "c"]}, {})
    assert run["last_metrics"]["step"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs", "nowhere"], "nowhere is no folder"),
        (["runs", "show", "."], "is no run folder"),
        (["runs", "show", "damaged", "--all"], "plan.json is damaged"),
        (["runs", "show"], "RUN"),
    ],
)
def test_what_is_no_run_is_named_with_exit_code_2(
    words: list[str], message: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(root)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_folder_without_runs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "no runs in" in shown.err
    assert shown.out == ""


def test_tables_align_words_left_and_numbers_right():
    assert text_table(["name", "tokens"], [["a", "7"], ["longer", "123"]]).splitlines() == [
        "name    tokens",
        "──────  ──────",
        "a            7",
        "longer     123",
    ]


def test_one_run_in_the_lines_that_matter(root: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("finished", "interrupted"):
        assert main(["runs", "show", str(root / name)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 32
        assert max(map(len, lines[2:-4])) <= 110
        assert name in lines[0]
    assert "resume" in lines[-2]
    assert lines[-1].endswith(f"runs show {root / 'interrupted'} --all")


def test_runs_are_removed_trained_ones_by_force_and_foreign_files_never(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ghost, trained, strange = (RunFolder.create(tmp_path / name, "") for name in ("ghost", "trained", "strange"))
    (trained.checkpoints / "step-00000001").mkdir()
    (strange.path / "thesis.txt").write_text("ten years")
    assert main(["runs", "rm", str(ghost.path), str(trained.path)]) == 2
    assert "has a trained model" in capsys.readouterr().err
    assert ghost.path.exists()
    assert main(["runs", "rm", str(ghost.path)]) == 0
    assert main(["runs", "rm", str(trained.path), "--force"]) == 0
    assert main(["runs", "rm", str(strange.path), "--force"]) == 2
    assert main(["runs", "rm", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["strange"]


def test_a_recommended_command_works_as_it_stands():
    done = subprocess.run(
        f"{command('runs', 'a folder')} --json", shell=True, capture_output=True, text=True, check=False
    )
    assert "a folder is no folder" in done.stderr


def test_report_and_compare_say_what_comes_next(root: Path, capsys: pytest.CaptureFixture[str]):
    finished, interrupted = str(root / "finished"), str(root / "interrupted")
    assert main(["report", finished]) == 0
    assert [one[:2] for one in recommended(capsys.readouterr().err)] == [["generate", finished], ["export", finished]]
    assert main(["report", interrupted]) == 0
    assert recommended(capsys.readouterr().err) == [["resume", interrupted]]
    assert main(["compare", finished, interrupted]) == 0
    page, one = recommended(capsys.readouterr().err)
    assert page == ["compare", finished, interrupted, "--html", "comparison.html"]
    assert one == ["runs", "show", interrupted]


@pytest.mark.parametrize(
    ("request_of_plan", "train"),
    [
        ({"budget": 90.0}, ["--budget", "90s"]),
        (
            {"steps": 7, "model": ModelConfig("lavra-1m", context=64)},
            ["--steps", "7", "--model", "lavra-1m", "--context", "64"],
        ),
        ({"epochs": 0.5, "base": "gpt2"}, ["--epochs", "0.5", "--from", "gpt2"]),
        (
            {"model": ModelConfig("2x64x500")},
            ["--budget", "10m", "--model", "2x64x500"],
        ),
    ],
)
def test_a_plan_recommends_the_training_that_it_planned(request_of_plan: dict[str, Any], train: list[str]):
    (words,) = recommended(plan._next(PlanRequest(data=("my text",), **request_of_plan))[1])
    assert words == ["train", "my text", *train]


def test_a_plan_for_other_hardware_recommends_none_here():
    assert recommended(plan._next(PlanRequest(data=("text",), hardware="h100"))[1])[0][0] == "plan"
    assert recommended(plan._next(PlanRequest(model=ModelConfig("lavra-1m"), tokens=1000))[1])[0][0] == "plan"
