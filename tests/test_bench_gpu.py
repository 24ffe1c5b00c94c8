"""The walk over a GPU: the requests of its parts, the end and the limit of a stage, its figures and the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))  # the scripts import what lies beside them

import _gpu_figures  # noqa: E402
import _gpu_model  # noqa: E402
import _gpu_peers  # noqa: E402
import _gpu_resume  # noqa: E402
import _gpu_sides  # noqa: E402
import _gpu_stage  # noqa: E402

WAIT = "import signal; signal.pause()"
COMMON = {"first_step_seconds": 25.0, "peak_bytes": 7, "share_of_ceiling": 0.5}
SIDES: list[dict[str, Any]] = [
    {
        "side": "lavra",
        "tokens_per_second": {"median": 100.0},
        "ours_is_faster_by": None,
        "device_bytes": None,
        **COMMON,
    },
    {
        "side": "nanoGPT compiled",
        "tokens_per_second": {"median": 80.0},
        "ours_is_faster_by": {"median": 1.25, "low": 1.2, "high": 1.3},
        "device_bytes": 12_700_000_000,
        **COMMON,
    },
]


def stage(out: Path, name: str, code: str, *words: str) -> dict[str, Any]:
    limit = [] if "--limit" in words else ["--limit", "1e6"]  # no stage ends by the clock unless that is what is tested
    command = [name, "--out", str(out), "--walk", "now", *limit, *words, "--", sys.executable, "-c", code]
    return _gpu_stage.stage(_gpu_stage.request(command))


def write_run(folder: Path, lines: list[dict[str, Any]], **result: Any) -> Path:
    folder.mkdir()
    plan = {"parameters": 135_000_000, "context": 1024, "batch_tokens": 8192, "compile": False}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"split": "train", **line}) + "\n" for line in lines))
    if result:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_stage_leaves_a_row_and_a_log_with_the_time_of_every_line(tmp_path: Path) -> None:
    row = stage(tmp_path, "model", 'print("noise"); print(\'{"says": "made", "tokens_per_second": 12.5}\')')
    assert (row["exit"], row["says"], row["tokens_per_second"]) == (0, "made", 12.5)
    assert json.loads((tmp_path / "gpu.jsonl").read_text()) == row
    first = (tmp_path / "model.log").read_text().splitlines()[0].split()
    assert first[1] == "noise"
    assert float(first[0]) >= 0.0


def test_a_stage_that_fails_says_its_last_line_and_keeps_what_it_had_measured(tmp_path: Path) -> None:
    code = 'import sys; print(\'{"says": "22 s"}\'); sys.exit("no memory\\nwhat to do: buy some\\n")'
    row = stage(tmp_path, "generate", code)
    assert (row["exit"], row["says"]) == (1, "22 s [no memory]")
    row = stage(tmp_path, "adapt", code, "--run", str(write_run(tmp_path / "run", [], step=2)))
    assert row["says"].startswith("no memory [135M, ")
    assert stage(tmp_path, "silent", "raise SystemExit(3)")["says"] == "it said nothing [no figures]"


def test_a_limit_ends_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, log = _gpu_stage.run_stage([sys.executable, "-c", WAIT], tmp_path / "log", limit=0.0)
    assert measured["exit"] == _gpu_stage.TIMED_OUT
    monkeypatch.setattr(_gpu_stage, "run_stage", lambda *_: (measured, log))
    row = stage(tmp_path, "check", WAIT, "--limit", "90")
    assert row["says"] == "ended at its limit of 90 s: it said nothing [no figures]"


def test_a_stage_that_is_asked_to_end_still_leaves_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> bool:
        sys.exit(143)

    monkeypatch.setattr(_gpu_stage, "has_content", asked)
    assert stage(tmp_path, "adapt", WAIT, "--run", "run")["exit"] == 143
    assert json.loads((tmp_path / "gpu.jsonl").read_text())["exit"] == 143


def test_the_whole_group_of_a_stage_ends_with_it(tmp_path: Path) -> None:
    """A grandchild that ignores the request to end would hold the pipe open, and keep the walk waiting."""
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {deaf!r}]).returncode)"
    process = _gpu_stage.start([sys.executable, "-c", code])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    _gpu_stage.end(process)
    assert process.stdout.read() == ""  # the end of the pipe: nobody holds it


def test_a_stage_is_not_begun_when_the_walk_is_over(tmp_path: Path) -> None:
    row = stage(tmp_path, "check", "raise AssertionError", "--limit", "-3")
    assert (row["exit"], row["says"]) == (_gpu_stage.NOT_RUN, "not run: the walk's time is over")
    assert not (tmp_path / "check.log").exists()


def test_a_run_tells_its_speed_its_bad_steps_and_how_late_it_was(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "loss": 9.0, "gradient_norm": None, "tokens_per_second": 50.0},
        {"step": 2, "loss": 9.0, "gradient_norm": 1.0, "tokens_per_second": 100.0, "skipped": True},
        {"step": 3, "loss": 8.0, "gradient_norm": 1.0, "tokens_per_second": 150.0},
        {"step": 3, "split": "validation", "loss": 8.0},
    ]
    run = write_run(
        tmp_path / "run", lines, step=3, tokens_per_second=120.0, bits_per_byte={"value": 1.5}, data_usage=[]
    )
    (run / "events.log").write_text("x  step 1: the gradient's norm is nan\nx  nanometres\n")
    figures = _gpu_figures.figures_of({}, run, seconds=75.0, budget=60.0)
    assert (figures["tokens_per_second"], figures["bits_per_byte"]) == (120.0, 1.5)
    assert (figures["steps"], figures["bad_steps"], figures["late_share"]) == (3, 2, 0.25)
    assert figures["says"] == "135M, context 1024, 8,192 tokens a step, not compiled"
    assert len(figures["bad_events"]) == 1
    assert "data_usage" not in figures["result"]


def test_a_run_that_did_not_end_tells_what_its_metrics_hold(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [{"step": 7, "loss": 8.0, "gradient_norm": 1.0, "tokens_per_second": 150.0}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    figures = _gpu_figures.figures_of({}, run, seconds=130.0, budget=60.0)
    assert (figures["tokens_per_second"], figures["steps"]) == (150.0, 7)
    assert "no result after step 7" in figures["says"]
    assert "bits_per_byte" not in figures
    nothing = _gpu_figures.figures_of({}, tmp_path / "none", seconds=3.0, budget=60.0)
    assert nothing["says"] == "no result after step 0"


def test_the_answers_of_checks_and_of_training_are_read() -> None:
    checks = [{"name": "labels", "verdict": "fail"}, {"name": "split", "verdict": "ok"}]
    figures = _gpu_figures.of_answer({"verdict": "fail", "checks": checks, "skipped": ["speed"]})
    assert figures["says"] == "1 ok, 1 fail; labels; left out: speed"
    figures = _gpu_figures.of_answer({"training": [{"sides": SIDES, "ceiling_flops": {"median": 1e12}}]})
    assert (figures["tokens_per_second"], figures["peak_bytes"]) == (100.0, 7)
    assert figures["says"] == "50% of the ceiling; 1.25 times nanoGPT compiled"


def test_the_last_whole_object_is_the_answer() -> None:
    assert _gpu_figures.answer_of(['{"a": 1}', "{broken", "words", '{"a": 2}', '{"a": ']) == {"a": 2}
    assert _gpu_figures.answer_of(["words"]) == {}


def test_the_table_has_the_rows_of_this_walk_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"walk": "before", "stage": "old", "exit": 1, "seconds": 1.0},
        {"walk": "now", "device": "cuda"},
        {"walk": "now", "stage": "adapt", "exit": 124, "seconds": 110.0, "late_share": 0.25, "says": "x" * 200},
        {"walk": "now", "stage": "nothing", "exit": 0, "seconds": 61.0, "peak_bytes": 2e9, "steps": 9, "bad_steps": 4},
    ]
    (tmp_path / "gpu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = _gpu_stage.request(["--table", "--out", str(tmp_path), "--walk", "now"])
    heading, adapt, nothing = _gpu_figures.table(_gpu_stage.rows_of(options)).splitlines()
    assert "old" not in adapt
    assert "+25%" in adapt
    assert adapt.endswith("xx…")
    assert nothing.split() == ["nothing", "0", "61.0", "-", "-", "2.00", "GB", "-", "4/9", "-"]
    assert heading.index("says") == adapt.index("xx")


def test_the_sides_of_a_comparison_stand_below_their_stage() -> None:
    row = {"stage": "kernel", "exit": 0, "seconds": 93.4, "sides": SIDES}
    _, kernel, ours, peer = _gpu_figures.table([row]).splitlines()
    assert kernel.startswith("kernel ")
    assert ours.split()[:2] == ["lavra", "-"]
    assert "times" not in ours
    assert "12.70 GB" in peer
    assert peer.endswith("50.0% of the ceiling, lavra is 1.25 times as fast (1.20-1.30)")


@pytest.mark.parametrize("words", [["adapt"], ["--", "true"], ["adapt", "--"]])
def test_a_stage_needs_a_name_and_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _gpu_stage.request(["--out", "x", "--walk", "now", *words])
    assert "needs a name, and a command after --" in capsys.readouterr().err


def test_the_words_after_the_dashes_are_left_to_the_command() -> None:
    options = _gpu_stage.request(
        ["adapt", "--out", "x", "--walk", "now", "--budget", "60", "--", "lavra", "--out", "y"]
    )
    assert (options.out, options.budget, options.command) == (Path("x"), 60.0, ["lavra", "--out", "y"])
    options = _gpu_resume.request(["text.jsonl", "folder", "--steps", "12", "--", "--steps-of", "lavra"])
    assert (options.steps, options.words) == (12, ["--steps-of", "lavra"])
    options = _gpu_peers.request(["--device", "cpu", "adapt", "model", "text", "--rows", "4,2"])
    assert (options.rows, options.context, options.device) == ([4, 2], 1024, "cpu")
    assert _gpu_peers.request(["adapt", "model", "text"]).rows[0] == 64
    assert _gpu_model.request(["llama", "text", "out", "--tiny"]).tiny


def test_every_side_that_is_asked_for_is_there() -> None:
    assert {"Trainer", _gpu_peers.OURS, _gpu_peers.THEIRS} == set(_gpu_sides.SIDES)


def test_the_trainer_takes_the_largest_micro_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    tried: list[int] = []

    def fits(_: Any, turns: Any, windows: Any, rows: int) -> bool:
        tried.append(rows)
        return rows <= 16

    monkeypatch.setattr(_gpu_sides, "windows_of", lambda _: [])
    monkeypatch.setattr(_gpu_sides, "adapted", fits)
    settings = {"rows": [64, 32, 16, 8], "context": 1024, "device": "cpu"}
    _gpu_sides.adapt(settings, _gpu_sides.Turns(io.StringIO()))
    assert tried == [64, 32, 16]
    with pytest.raises(SystemExit, match="not even 32 rows of 1024 tokens fit"):
        _gpu_sides.adapt(settings | {"rows": [64, 32]}, _gpu_sides.Turns(io.StringIO()))


def test_plans_are_the_same_but_for_what_they_measured(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one", []), write_run(tmp_path / "other", [])
    plan = json.loads((one / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps(plan | {"probe": {"step_seconds": 2.0}}))
    assert _gpu_resume.same_plan(one, other)
    (other / "plan.json").write_text(json.dumps(plan | {"compile": True}))
    assert not _gpu_resume.same_plan(one, other)


def test_the_model_has_the_parameters_of_smollm2_and_three_queries_to_a_key() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**_gpu_model.SMOLLM2))
    assert model.num_parameters() == 134_515_008
    for shape in (_gpu_model.SMOLLM2, _gpu_model.TINY):
        assert shape["num_attention_heads"] == 3 * shape["num_key_value_heads"]


def test_prompts_begin_documents_and_are_repeated_where_there_are_too_few(tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"text": "a b c d e f g h i j"}\n{"text": "second"}\n')
    _gpu_model.write_prompts(str(tmp_path / "text.jsonl"), tmp_path / "prompts.jsonl", 3)
    lines = _gpu_figures.read_lines(tmp_path / "prompts.jsonl")
    assert [line["prompt"] for line in lines] == ["a b c d e f g h", "second", "a b c d e f g h"]
