from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lavra
import lavra.cli.main as cli
from check_contexts import corpus, decoder_check_context, shrunk
from lavra.checks import suite
from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.stores import check_files
from lavra.checks.suite import FULL, QUICK, Report, run_checks
from lavra.core.errors import CheckFailed
from lavra.data.token_store.prepare import Prepared, open_prepared
from recommended import recommended

pytestmark = pytest.mark.usefixtures("without_compiler")


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return corpus("laws", tmp_path_factory.mktemp("laws"))


def everything(check_context: CheckContext) -> dict[str, torch.Tensor]:
    trainer = check_context.trainer
    tensors = {
        f"{group}/{name}": one.clone() for group, named in trainer.tensors().items() for name, one in named.items()
    }
    working = {f"working/{name}": one.detach().clone() for name, one in check_context.model.named_parameters()}
    return tensors | working


@pytest.mark.parametrize(("style", "precision"), [("gpt2-124m", "fp32"), ("lavra-9m", "bf16")])
def test_the_battery_leaves_the_trainer_as_it_was(style, precision, laws, monkeypatch):
    monkeypatch.setattr("lavra.checks.learning._STEPS", 8)
    check_context = decoder_check_context(shrunk(style, dropout=0.1), laws, precision=precision)
    trainer = check_context.trainer
    before, state = everything(check_context), trainer.state()
    parts = trainer.batches, trainer.objective, trainer.updates, trainer.schedule, trainer.steps
    torch.manual_seed(5)
    random_state = torch.get_rng_state()
    run_checks(check_context, FULL)
    after = everything(check_context)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert trainer.state() == state
    assert parts == (trainer.batches, trainer.objective, trainer.updates, trainer.schedule, trainer.steps)
    assert all(parameter.grad is None for parameter in check_context.module.parameters())
    assert check_context.module.training
    assert torch.equal(torch.get_rng_state(), random_state)


def test_training_after_the_battery_is_training_without_it(laws, monkeypatch):
    monkeypatch.setattr("lavra.checks.learning._STEPS", 8)
    checked, plain = (decoder_check_context(shrunk("lavra-9m"), laws).trainer for _ in range(2))
    run_checks(replace(decoder_check_context(shrunk("lavra-9m"), laws), trainer=checked), FULL)
    losses = [[trainer.run_step().loss for _ in range(4)] for trainer in (checked, plain)]
    assert losses[0] == losses[1]


def test_without_time_only_the_first_check_runs(laws):
    report = run_checks(decoder_check_context(shrunk("gpt2-124m"), laws), QUICK, seconds=0.0)
    assert [result.name for result in report.results] == ["first_loss"]
    assert len(report.skipped) == len(QUICK) - 1
    assert "skipped for lack of time" in report.summary()


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_the_progress_of_checks_is_reckoned_by_their_costs(laws, monkeypatch: pytest.MonkeyPatch, seconds):
    def cheap(check_context: CheckContext) -> list[CheckResult]:
        return [CheckResult("cheap", "ok", "", "")]

    def costly(check_context: CheckContext) -> list[CheckResult]:
        return [CheckResult("costly", "ok", "", "")]

    amounts: list[float] = []
    monkeypatch.setattr(suite.Progress, "advance", lambda self, amount=1.0, note="": amounts.append(amount))
    run_checks(decoder_check_context(shrunk("gpt2-124m"), laws), [(cheap, 0.0), (costly, 8.0)], seconds=seconds)
    assert amounts == pytest.approx([0.2, 1.8])


def test_a_check_that_cannot_be_run_is_a_failure(laws):
    def check_nothing(check_context: CheckContext) -> list[CheckResult]:
        raise RuntimeError("shapes do not match\nand more")

    report = run_checks(decoder_check_context(shrunk("gpt2-124m"), laws), [(check_nothing, 0.0)])
    assert report["nothing"].verdict == "fail"
    assert report["nothing"].measured == "it ended with RuntimeError: shapes do not match"


@pytest.mark.parametrize("side", ["train", "validation"])
def test_a_flipped_byte_of_a_store_is_named(side: str, laws: Prepared, tmp_path: Path):
    assert (check_files, 0.0) in FULL
    folder = tmp_path / "prepared"
    shutil.copytree(laws.folder, folder)
    check_context = decoder_check_context(shrunk("gpt2-124m"), open_prepared(folder))
    assert [result.verdict for result in check_files(check_context)] == ["ok"]
    (name,) = (name for name in getattr(laws, side).manifest.hashes if name.startswith("tokens"))
    content = bytearray((folder / side / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / side / name).write_bytes(content)
    report = run_checks(check_context, [(check_files, 0.0)])
    assert report["files"].verdict == "fail"
    assert str(Path(side) / name) in report["files"].measured
    assert "prepare" in report["files"].remedy
    assert run_checks(decoder_check_context(shrunk("gpt2-124m"), laws), [(check_files, 0.0)])["files"].verdict == "ok"


def test_report_as_values_and_as_text():
    good = CheckResult("first_loss", "ok", "1.0", "1.0")
    bad = CheckResult("labels", "fail", "shifted", "not shifted", "shift once", ("a look at it",))
    report = Report((good, bad), ("speed",), 1.0)
    values = report.to_json()
    assert values["verdict"] == "fail"
    assert values["checks"][0] == {
        "name": "first_loss",
        "verdict": "ok",
        "measured": "1.0",
        "expected": "1.0",
        "remedy": "",
    }
    assert values["checks"][1]["details"] == ["a look at it"]
    text = report.text()
    for part in (
        "fail  labels",
        "measured: shifted",
        "expected: not shifted",
        "what to do: shift once",
        "a look at it",
    ):
        assert part in text
    with pytest.raises(CheckFailed, match="labels: shifted") as caught:
        report.raise_if_failed("checks.json")
    assert "shift once" in caught.value.remedy
    assert "--no-check" in caught.value.remedy
    assert caught.value.exit_code == 1
    Report((good,), (), 1.0).raise_if_failed("checks.json")


SMALL = [
    "--model.context",
    "32",
    "--model.depth",
    "2",
    "--model.width",
    "32",
    "--model.heads",
    "2",
    "--precision",
    "fp32",
]
SMALL += ["--compile", "no"]


def test_command_checks_text_and_a_run(laws, tmp_path, capsys):
    code = cli.main(["check", str(laws.folder), *SMALL, "--json", "--quiet"])
    values = json.loads(capsys.readouterr().out)
    assert code == 0
    assert values["verdict"] in ("ok", "warn")
    assert {"first_loss", "overfit", "causal_leak", "labels", "resume"} <= {check["name"] for check in values["checks"]}
    run = str(tmp_path / "run")
    train = ["train", str(laws.folder), *SMALL, "--steps", "60", "--samples", "0", "--out", run, "--quiet"]
    assert cli.main(train) == 0
    written = json.loads((Path(run) / "checks.json").read_text(encoding="utf8"))
    assert written["verdict"] == "ok"
    capsys.readouterr()
    assert cli.main(["check", run]) == 0
    told = capsys.readouterr()
    assert recommended(told.err) == [["check", run, "--json"], ["generate", run]]
    shown = told.out
    assert "knows only how frequent each token is" in shown
    assert "example 1: inputs above targets" in shown


def test_training_ends_before_the_first_step_when_a_check_fails(laws, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lavra.workflows.training.train.refuse_impossible", lambda config: None)
    wrong = [*SMALL, "--optimization.learning-rate", "0", "--steps", "2", "--samples", "0", "--quiet"]
    assert cli.main(["train", str(laws.folder), *wrong, "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    assert "optimizer" in message
    assert "--no-check" in message
    checks = json.loads((tmp_path / "run" / "checks.json").read_text(encoding="utf8"))
    assert checks["verdict"] == "fail"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert cli.main(["train", str(laws.folder), *wrong, "--out", str(tmp_path / "other"), "--no-check"]) == 0
    assert not (tmp_path / "other" / "checks.json").exists()


def test_check_from_python(laws):
    shape = {"context": 32, "depth": 2, "width": 32, "heads": 2}
    report = lavra.check(laws.folder, model=shape, machine={"precision": "fp32", "compile": "no"})
    assert report.failed == []
    assert report["first_loss"].verdict == "ok"


def test_check_without_anything_says_how(capsys):
    assert cli.main(["check"]) == 2
    assert "lavra check RUN" in capsys.readouterr().err
