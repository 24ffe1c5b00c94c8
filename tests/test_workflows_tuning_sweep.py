"""Sweeps from end to end: survivors equal uninterrupted runs to the bit, and what chose is not what is reported."""

from __future__ import annotations

import hashlib
import json
import signal
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.forked_processes import LAVRA, TRAINING, ForkServer
from tests.labelled_reviews import reviews, write_rows

import lavra
from lavra.cli.main import main
from lavra.config.training import MachineConfig, ModelConfig, OptimizationConfig, TextConfig, TrainConfig
from lavra.config.tuning import TuneConfig
from lavra.core.configuration import from_toml
from lavra.core.disk.run_folder import RunFolder, list_runs
from lavra.core.disk.sweep_folder import SweepFolder, is_sweep
from lavra.core.errors import Diverged, InputError, LavraError
from lavra.reports.sweeps.record import read_sweep
from lavra.workflows.datasets.text import request_of
from lavra.workflows.train import resume, train
from lavra.workflows.tuning.design import Design
from lavra.workflows.tuning.sweep import resume_sweep, tune
from lavra.workflows.tuning.trial import Outcome, advance


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pydoc_data.topics import topics

    path = tmp_path_factory.mktemp("text") / "topics.jsonl"
    rows = [{"text": text} for text in list(topics.values())[:60]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


@pytest.fixture(scope="module")
def prepared(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "topics"
    lavra.prepare(texts, folder, vocabulary=400)
    return folder


def request(source: Path, out: Path, *sweep: str, **fields: Any) -> TuneConfig:
    """Return the request of a sweep of the smallest models, of nine steps each."""
    asked: dict[str, Any] = {
        "data": (str(source),),
        "out": str(out),
        "sweep": sweep or ("optimization.muon-lr=0.002,0.01,0.05",),
        "steps": 9,
        "text": TextConfig(vocabulary=400, validation_share=0.3),
        "model": ModelConfig(depth=1, width=32, heads=2, context=64),
        "optimization": OptimizationConfig(batch_tokens=512),
        "machine": MachineConfig(device="cpu", threads=1, precision="fp32", micro_batch_size=4),
        "check": False,
    }
    return TuneConfig(**{**asked, **fields})


@pytest.fixture(scope="module")
def sweep(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """A sweep of three points by halving: all for three steps, one for nine."""
    return tune(request(texts, tmp_path_factory.mktemp("runs") / "sweep"))


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def lines(run: Path, *splits: str) -> list[dict[str, Any]]:
    """Return the metrics of a run but for the clock's."""
    found = RunFolder(run).metrics.read()
    return [
        {key: value for key, value in line.items() if key != "tokens_per_second"}
        for line in found
        if line["split"] in (splits or ("train", "validation"))
    ]


def winner(sweep: SweepFolder) -> Path:
    return Path(sweep.run.result["sweep"]["best"]["run"])


def test_a_survivor_is_to_the_bit_the_run_that_was_never_paused(sweep: SweepFolder, tmp_path: Path) -> None:
    paused = winner(sweep)
    assert any("paused" in line for line in RunFolder(paused).events)
    config = request_of(RunFolder(paused))
    whole = train(replace(config, out=str(tmp_path / "whole")))
    assert weights(paused) == weights(whole.path)
    assert lines(paused) == lines(whole.path)
    assert {line["step"] for line in lines(paused, "train")} == set(range(1, 10))


def test_the_best_recipe_trains_the_same_run_from_the_data_themselves(
    sweep: SweepFolder, texts: Path, tmp_path: Path
) -> None:
    recipe = sweep.path / "best.toml"
    assert tomllib.loads(recipe.read_text())["data"] == [str(texts)]
    words = [
        "train",
        "--recipe",
        str(recipe),
        "--no-check",
        "--samples",
        "0",
        "--out",
        str(tmp_path / "again"),
        "--quiet",
    ]
    assert main(words) == 0
    assert weights(tmp_path / "again") == weights(winner(sweep))
    assert lines(tmp_path / "again", "train") == lines(winner(sweep), "train")


def test_all_points_are_trained_to_the_first_rung_and_the_best_to_the_end(sweep: SweepFolder) -> None:
    record = read_sweep(sweep)
    assert [len(record.ranked(rung)) for rung in range(2)] == [3, 1]
    first = record.ranked(0)
    assert first[0] is record.best
    assert [point.reached[0].step for point in first] == [3, 3, 3]
    assert first[0].reached[1].step == 9
    assert [point.reached[0].value for point in first] == sorted(point.reached[0].value for point in first)
    assert all(point.reached[0].measure["low"] < point.reached[0].value for point in first)
    stopped = [sweep.trial(point.number, 0) for point in first[1:]]
    assert all(max(line["step"] for line in lines(run)) == 3 for run in stopped)
    assert not [path for run in stopped for path in (run / "checkpoints").iterdir()]


def test_what_is_reported_was_measured_on_other_text_than_what_chose(sweep: SweepFolder) -> None:
    result = sweep.run.result
    best = result["sweep"]["best"]
    assert result["bits_per_byte"] == best["measured_on_other_data"]["bits_per_byte"] != best["chosen_by"]
    assert result["bits_per_byte"]["low"] < result["bits_per_byte"]["value"] < result["bits_per_byte"]["high"]
    assert best["chosen_by"]["value"] == RunFolder(winner(sweep)).result["bits_per_byte"]["value"]
    sizes = json.loads((sweep.path / "data" / "report.json").read_text())["split"]
    assert best["measured_on_other_data"]["evaluation"]["documents"] == sizes["held_out"]["documents"]
    assert sizes["held_out"]["documents"] + sizes["validation"]["documents"] + sizes["train"]["documents"] == 60
    assert "selection bias" in (sweep.path / "report.html").read_text()


def test_points_differ_in_the_swept_field_alone(sweep: SweepFolder) -> None:
    plans = [RunFolder(sweep.trial(number, 0)).plan for number in range(3)]
    rates = [plan["optimizer"].pop("muon_lr") for plan in plans]
    assert rates == [0.002, 0.01, 0.05]
    plans = [{name: plan[name] for name in plan if name not in ("probe", "forecast")} for plan in plans]
    assert plans[0] == plans[1] == plans[2]


def test_the_runs_page_lists_a_sweep_once_and_shows_its_points(
    sweep: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sweep.path.parent
    assert [run.path for run in list_runs(root)] == [sweep.path]
    assert is_sweep(sweep.run)
    assert not is_sweep(RunFolder(winner(sweep)))
    assert main(["runs", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "finished, sweep: 3 points" in shown
    assert "topics.jsonl" in shown
    assert main(["runs", "show", str(sweep.path)]) == 0
    shown = capsys.readouterr().out
    assert "stopped after 1/3 of the run" in shown
    assert "trained to the end" in shown
    assert f"lavra train --recipe {sweep.path / 'best.toml'}" in shown.replace("python -m lavra", "lavra")
    assert main(["report", str(sweep.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"


def test_a_finished_sweep_is_not_trained_again_and_has_no_model_of_its_own(
    sweep: SweepFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sweep.run.result
    assert main(["resume", str(sweep.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sweep"] == before["sweep"]
    with pytest.raises(InputError, match="is a sweep") as caught:
        lavra.Run(sweep.path).generate("a")
    assert str(winner(sweep)) in caught.value.remedy
    assert main(["compare", str(sweep.path), str(winner(sweep))]) == 2
    assert "is a sweep" in capsys.readouterr().err


def test_in_python_a_sweep_gives_the_run_of_its_best_point(
    sweep: SweepFolder, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[TuneConfig] = []

    def run_sweep(config: TuneConfig) -> SweepFolder:
        asked.append(config)
        return sweep

    monkeypatch.setattr("lavra.workflows.tuning.sweep.tune", run_sweep)
    found = lavra.tune(texts, budget="2h", sweep=["model.depth=2,4"], text={"vocabulary": 300})
    assert (asked[0].budget, asked[0].sweep, asked[0].text.vocabulary) == (7200.0, ("model.depth=2,4",), 300)
    assert found.path == winner(sweep) == lavra.resume(sweep.path).path
    assert found.result["step"] == 9


@pytest.mark.usefixtures("no_held_out")
def test_a_sweep_is_removed_and_replaced_whole_but_never_with_a_file_of_somebody_else(
    texts: Path, tmp_path: Path
) -> None:
    asked = request(texts, tmp_path / "sweep", steps=2)
    tune(asked, train=_by_rate)
    with pytest.raises(InputError, match=r"exists already[\s\S]*lavra resume"):
        tune(asked, train=_by_rate)
    tune(replace(asked, force=True), train=_by_rate)
    (tmp_path / "sweep" / "trials").mkdir(exist_ok=True)
    (tmp_path / "sweep" / "trials" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"trials/mine\.txt"):
        tune(replace(asked, force=True), train=_by_rate)


# What is decided by figures and by time, with trials that only pretend.


def _outcome(config: TrainConfig, share: float, value: float, **fields: Any) -> Outcome:
    found = {"loss": value, "forecast": None, "seconds": 1.0, "parameters": 7, **fields}
    measure = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return Outcome(round(9 * share), 9, "bits_per_byte", measure, **found)


def _by_rate(config: TrainConfig, share: float, **_: Any) -> Outcome:
    """Pretend that a rate of 0.01 is best; at the end a run is made, which a sweep opens."""
    rate = config.optimization.muon_lr or 0.0
    assert config.out is not None
    if share == 1.0:
        run = RunFolder.create(config.out, "data = []\n", force=True)
        run.write_result({"task": "language-modelling", "parameters": 7})
    return _outcome(config, share, 2.0 + abs(rate - 0.01) - share)


class Pretended:
    """Trials that only pretend: they give figures by a function, and keep what was asked of them."""

    def __init__(self, value: Any = None) -> None:
        self.asked: list[tuple[int, float]] = []
        self.value = value

    def __call__(self, config: TrainConfig, share: float, **more: Any) -> Outcome:
        assert config.out is not None
        self.asked.append((int(Path(config.out).name.partition("-")[0]), round(share, 3)))
        found = _by_rate(config, share, **more)
        return found if self.value is None else self.value(config, share, found)


@pytest.fixture
def no_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.workflows.tuning.outcome.measure_held_out", lambda run, evaluated: {})


pretended = pytest.mark.usefixtures("no_held_out")

NINE = ("optimization.muon-lr=0.001,0.003,0.005,0.008,0.01,0.02,0.03,0.04,0.05",)


@pretended
def test_the_best_third_goes_on_at_each_rung(prepared: Path, tmp_path: Path) -> None:
    trials = Pretended()
    found = tune(request(prepared, tmp_path / "sweep", *NINE), train=trials)
    assert trials.asked[:9] == [(number, 0.111) for number in range(9)]
    assert [number for number, share in trials.asked if share == 0.333] == [4, 3, 2]
    assert trials.asked[12:] == [(4, 1.0)]
    best = found.run.result["sweep"]["best"]
    assert best["values"] == {"optimization.muon_lr": 0.01}
    assert best["measured_on_other_data"] is None
    assert "too good by selection bias" in (found.path / "report.html").read_text()


@pretended
def test_the_forecast_promotes_where_it_is_asked_for_and_there_is_one(prepared: Path, tmp_path: Path) -> None:
    def backwards(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        return replace(found, forecast=-found.measure["value"])  # type: ignore[operator]

    for promote, best in (("measure", 0.01), ("forecast", 0.05)):
        trials = Pretended(backwards)
        asked = request(prepared, tmp_path / promote, "optimization.muon-lr=0.01,0.02,0.05", promote=promote)
        tune(asked, train=trials)
        assert trials.asked[-1] == ([0.01, 0.02, 0.05].index(best), 1.0)


@pretended
def test_a_figure_of_which_more_is_better_is_maximised(prepared: Path, tmp_path: Path) -> None:
    def accuracy(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        return replace(found, name="accuracy")

    found = tune(request(prepared, tmp_path / "sweep"), train=Pretended(accuracy))
    assert found.run.result["sweep"]["best"]["values"] == {"optimization.muon_lr": 0.05}


@pretended
def test_a_trial_that_fails_counts_as_the_worst_is_named_and_the_sweep_goes_on(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_diverges(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        if config.optimization.muon_lr == 0.01:
            raise Diverged("the loss is not finite")
        return found

    found = tune(request(prepared, tmp_path / "sweep"), train=Pretended(one_diverges))
    told = capsys.readouterr().err
    assert "point 2 of 3 (optimization.muon-lr 0.01): failed, and counts as the worst: the loss is not finite" in told
    assert found.run.result["sweep"]["failed"] == 1
    assert found.run.result["sweep"]["best"]["values"] == {"optimization.muon_lr": 0.002}
    assert "failed: the loss is not finite" in (found.path / "report.html").read_text()


@pretended
def test_where_all_trials_fail_the_first_reason_is_given(prepared: Path, tmp_path: Path) -> None:
    def diverges(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        raise Diverged(f"the loss of {config.optimization.muon_lr} is not finite")

    with pytest.raises(LavraError, match=r"none of 3 points could be trained; the first.*the loss of 0\.002") as caught:
        tune(request(prepared, tmp_path / "sweep"), train=Pretended(diverges))
    assert caught.value.exit_code == 1
    with pytest.raises(LavraError, match=r"the loss of 0\.002"):  # and again, without any training
        resume_sweep(RunFolder(tmp_path / "sweep"), train=Pretended(diverges))


@pretended
def test_a_full_disk_ends_the_sweep(prepared: Path, tmp_path: Path) -> None:
    def full(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        raise LavraError("DISK FULL: could not write")

    trials = Pretended(full)
    with pytest.raises(LavraError, match="DISK FULL"):
        tune(request(prepared, tmp_path / "sweep"), train=trials)
    assert len(trials.asked) == 1
    assert not SweepFolder(RunFolder(tmp_path / "sweep")).lines


@pretended
def test_seeds_are_trained_for_each_point_and_compared_by_their_means(prepared: Path, tmp_path: Path) -> None:
    def lucky(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        luck = -1.0 if (config.seed, config.optimization.muon_lr) == (5, 0.05) else 0.3 * (config.seed - 5)
        return _outcome(config, share, found.measure["value"] + luck)  # type: ignore[operator]

    asked = request(prepared, tmp_path / "sweep", seeds=3, seed=5, method="grid")
    found = tune(asked, train=Pretended(lucky))
    record = read_sweep(found)
    assert sorted(path.name for path in (found.path / "trials").iterdir() if path.is_dir())[:4] == [
        "000-5",
        "000-6",
        "000-7",
        "001-5",
    ]
    assert all(len(point.reached[0].seeds) == 3 for point in record.points)
    values = [point.reached[0].value for point in record.points]
    assert values[2] == pytest.approx(1.04 + (-1.0 + 0.3 + 0.6) / 3)
    assert record.best is record.points[2]
    recipe = from_toml(TrainConfig, found.recipe.read_text(), "best.toml")
    assert (recipe.seed, recipe.seeds, recipe.optimization.muon_lr) == (5, 1, 0.05)


class Clock:
    """A clock that a pretended trial moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pretended
def test_a_budget_keeps_time_for_the_best_and_what_was_left_out_is_said(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()

    def slow(config: TrainConfig, share: float, found: Outcome) -> Outcome:
        seconds = 90.0 * (share if share < 0.2 else share * 2 / 3)  # what is new since the rung before
        clock.now += seconds
        return replace(found, seconds=seconds)

    trials = Pretended(slow)
    found = tune(request(prepared, tmp_path / "sweep", *NINE, budget=170.0), began=0.0, train=trials, clock=clock)
    assert [share for _, share in trials.asked].count(0.111) == 4  # the rest of the time is for the rungs to come
    assert [share for _, share in trials.asked].count(1.0) == 1
    assert clock.now <= 170.0
    assert found.run.result["sweep"]["left_out"] > 0
    assert "the budget was over" in capsys.readouterr().err


@pretended
def test_tpe_chooses_each_point_by_those_before_it(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def suggest(fields: Any, history: Sequence[Any], seed: int, random: int) -> list[float]:
        told.append(len(history))
        return [len(history) / 10]

    monkeypatch.setattr("lavra.workflows.tuning.points._by_optuna", suggest)
    monkeypatch.setattr("lavra.workflows.tuning.points.require_optuna", lambda: None)
    monkeypatch.setattr("lavra.workflows.tuning.sweep.require_optuna", lambda: None)
    trials = Pretended()
    asked = request(prepared, tmp_path / "sweep", "optimization.muon-lr=0.001..0.1", method="tpe", trials=4)
    found = tune(asked, train=trials)
    assert told == [0, 1, 2, 3]
    assert trials.asked == [(number, 1.0) for number in range(4)]
    assert [round(one["optimization.muon_lr"], 4) for one in found.design["points"]] == [0.001, 0.0109, 0.0208, 0.0307]
    assert found.run.result["sweep"]["best"]["point"] == 1


# Requests that cannot be done, before anything is trained.


@pytest.mark.parametrize(
    ("sweep_words", "fields", "said"),
    [
        (("optimization.learnin-rate=1,2",), {}, "did you mean optimization.learning-rate"),
        (("optimization.muon-lr=0.1,-1",), {}, "is no value that a run can have"),
        (("model.width=32,33",), {}, "not divisible"),
        (("optimization.batch-tokens=512,100",), {}, "no multiple of the context"),
        (("model.depth=2",), {}, "one point"),
        (("model.depth=1,2",), {"trials": 1}, "too small"),
        (("model.depth=1,2",), {"seeds": 0}, "too small"),
        (("model.depth=1,2",), {"parallel": 0}, "no number of trials"),
        (("model.depth=1,2",), {"measure": "accuracy"}, "no figure of language-modelling"),
        (("model.depth=1,2",), {"data": ()}, "no data"),
        (("model.depth=1,2",), {"epochs": 1.0}, "--epochs and --steps"),
        (("model.depth=1,2",), {"data": ("/nowhere",)}, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    sweep_words: tuple[str, ...], fields: dict[str, Any], said: str, texts: Path, tmp_path: Path
) -> None:
    trials = Pretended()
    with pytest.raises(InputError) as caught:
        tune(request(texts, tmp_path / "sweep", *sweep_words, **fields), train=trials)
    assert said in str(caught.value)
    assert not trials.asked
    assert not (tmp_path / "sweep").exists()


def test_a_linear_model_has_nothing_to_tune(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    rows = write_rows(tmp_path / "rows.jsonl", reviews(40))
    with pytest.raises(InputError, match="linear model"):
        tune(TuneConfig(data=(str(rows),), sweep=("optimization.learning-rate=1,2",), out=str(tmp_path / "sweep")))


# The default space, and lengths by time and by cost.


@pretended
def test_without_a_sweep_the_rate_and_the_batch_of_the_plan_are_tried(prepared: Path, tmp_path: Path) -> None:
    trials = Pretended()
    asked = replace(request(prepared, tmp_path / "sweep"), sweep=())
    found = tune(asked, train=trials)
    first, second = found.design["fields"]
    assert (first["path"], second["path"]) == ("optimization.muon_lr", "optimization.batch_tokens")
    assert first["values"][2] / first["values"][1] == pytest.approx(3, rel=0.01)
    assert second["values"] == [256, 512, 1024]
    assert len(found.design["points"]) == 9


@pretended
def test_points_of_another_cost_get_the_tokens_that_take_as_long(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.simulated_time import SimulatedClock

    SimulatedClock(step_seconds=0.05).install(monkeypatch)
    asked = replace(request(prepared, tmp_path / "sweep", "model.width=32,64,128"), steps=None, budget=60.0)
    asked = replace(asked, model=ModelConfig(depth=2, heads=2, context=64))
    found = tune(asked, train=Pretended())
    tokens = found.design["lengths"]
    assert tokens[0] > tokens[1] > tokens[2] > 0
    assert all(count % 512 == 0 for count in tokens)


# Labels.


def test_labels_are_tuned_by_their_own_figure(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", reviews(120))
    asked = request(rows, tmp_path / "sweep", "optimization.muon-lr=0.0001,0.03", measure="macro_f1", method="grid")
    found = tune(replace(asked, steps=6, text=TextConfig(vocabulary=300)))
    result = found.run.result
    assert result["sweep"]["measure"] == "macro_f1"
    best = result["sweep"]["best"]
    assert 0.0 <= result["macro_f1"]["low"] <= result["macro_f1"]["value"] <= 1.0
    assert best["measured_on_other_data"]["accuracy"]["value"] > 0.4
    record = read_sweep(found)
    assert record.best is max(record.points, key=lambda point: point.reached[0].value)
    assert RunFolder(winner(found)).result["rows"] + best["measured_on_other_data"]["rows"] == 24


# Killed and resumed, stopped by a signal, and several at a time.

_WORDS = "--sweep optimization.muon-lr=0.002,0.01,0.05 --steps 9 --no-check --vocabulary 400 --model.depth 1"
_MORE = (
    "--quiet --text.validation-share 0.3 "
    "--model.width 32 --model.heads 2 --model.context 64 --optimization.batch-tokens 512 --device cpu --precision fp32 "
    "--machine.threads 1 --machine.micro-batch-size 4 --checkpoint-every 2"
)
TUNING = TRAINING + "\nimport lavra.cli.tune, lavra.workflows.tuning.sweep, lavra.workflows.train\n"


def _words(data: Path, out: Path) -> list[str]:
    return ["tune", str(data), "--out", str(out), *_WORDS.split(), *_MORE.split()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("forked"), TUNING) as found:
        yield found


def _fingerprint(sweep: Path) -> dict[str, Any]:
    found = SweepFolder(RunFolder(sweep))
    measures = [{key: line[key] for key in ("point", "rung", "step", "measure", "loss")} for line in found.lines]
    best = winner(found)
    result = found.run.result
    return {"weights": weights(best), "metrics": lines(best), "measures": measures, "figure": result["bits_per_byte"]}


@pytest.fixture(scope="module")
def whole(server: ForkServer, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "sweep"
    ended = server.run(LAVRA, _words(texts, out), {"LAVRA_FAULT": ""})
    assert ended.returncode == 0, ended.communicate()[1].decode()
    return _fingerprint(out)


@pytest.mark.parametrize(
    "moment",
    [
        "step.backward:8",
        "checkpoint.before_rename:4",
        pytest.param("step.backward:1", marks=pytest.mark.heavy),
        pytest.param("step.backward:24", marks=pytest.mark.heavy),
        pytest.param("checkpoint.after_rename:2", marks=pytest.mark.heavy),
        pytest.param("validation:2", marks=pytest.mark.heavy),
    ],
)
def test_killed_anywhere_a_sweep_goes_on_to_the_same_bits(
    server: ForkServer, texts: Path, whole: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "sweep"
    killed = server.run(LAVRA, _words(texts, out), {"LAVRA_FAULT": f"{moment}:kill"})
    assert killed.returncode == -signal.SIGKILL
    ended = server.run(LAVRA, ["resume", str(out), "--quiet"], {"LAVRA_FAULT": ""})
    assert ended.returncode == 0, ended.communicate()[1].decode()
    assert _fingerprint(out) == whole


def test_a_signal_saves_and_names_the_sweep_as_what_to_resume(
    server: ForkServer, texts: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    ended = server.run(LAVRA, _words(texts, out), {"LAVRA_FAULT": "step.backward:16:interrupt"})
    assert ended.returncode == 128 + signal.SIGINT
    assert f"lavra resume {out}\n" in ended.communicate()[1].decode()
    assert main(["runs", str(tmp_path), "--json"]) == 0
    assert resume(out).path == out
    assert _fingerprint(out) == whole


@pytest.mark.heavy
def test_trials_at_the_same_time_bring_what_they_bring_one_after_another(
    texts: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    assert main([*_words(texts, out), "--parallel", "2"]) == 0
    found = _fingerprint(out)
    assert found["weights"] == whole["weights"]
    key = lambda line: (line["rung"], line["point"])  # noqa: E731
    assert sorted(found["measures"], key=key) == sorted(whole["measures"], key=key)


@pytest.mark.heavy
def test_the_survivor_of_halving_is_the_same_point_of_a_grid(texts: Path, sweep: SweepFolder, tmp_path: Path) -> None:
    grid = tune(request(texts, tmp_path / "grid", method="grid"))
    survivor = winner(sweep)
    assert weights(grid.path / "trials" / survivor.name) == weights(survivor)
    assert lines(grid.path / "trials" / survivor.name) == lines(survivor)


@pytest.mark.usefixtures("no_held_out")
def test_a_paused_trial_that_was_not_measured_is_measured_without_training(texts: Path, tmp_path: Path) -> None:
    asked = request(texts, tmp_path / "sweep")
    found = tune(asked, train=_by_rate)
    design = Design.from_json(found.design, "sweep.json")
    config = replace(design.request(1, 0, found), out=str(tmp_path / "trial"))
    first = advance(config, 1 / 3)
    before = (tmp_path / "trial" / "metrics.jsonl").read_text()
    again = advance(config, 1 / 3)
    assert (again.step, again.measure) == (first.step, first.measure) == (3, first.measure)
    assert (tmp_path / "trial" / "metrics.jsonl").read_text() == before
    assert advance(config, 1.0).step == 9
    assert advance(config, 1.0).step == 9
