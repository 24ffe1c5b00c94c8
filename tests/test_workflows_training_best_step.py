"""Overfitting: said, ended where that was asked for, and the best model delivered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lavra
from lavra.core.disk.run_folder import RunFolder
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.workflows.models.open import open_model
from lavra.workflows.training.best_step import OverfittingWatch, is_clearly_worse
from plans import a_plan

SMALL: dict[str, Any] = {
    "model": {"depth": 2, "width": 64, "heads": 2, "context": 64},
    "optimization": {"batch_tokens": 512, "schedule": "constant", "muon_lr": 0.05},
    "machine": {"micro_batch_size": 8, "threads": 1, "precision": "fp32"},
    "samples": 0,
    "check": False,
    "checkpoint_every": 10,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of random words, of which nothing can be learned but by heart."""
    import random

    folder, random_words = tmp_path_factory.mktemp("text"), random.Random(0)
    words = ["".join(random_words.choices("abcdefgh", k=4)) for _ in range(2000)]
    (folder / "text.txt").write_text("\n\n".join(" ".join(random_words.choices(words, k=12)) for _ in range(60)))
    lavra.prepare(folder / "text.txt", folder / "prepared", vocabulary=300, validation_share=0.2)
    return folder / "prepared"


def test_the_best_model_is_delivered_when_the_last_is_clearly_worse_and_said(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lavra.train(prepared, steps=80, out=str(tmp_path / "run"), **SMALL)
    losses = {line["step"]: line["loss"] for line in run.metrics if line["split"] == "validation"}
    best = min(losses, key=lambda step: losses[step])
    assert is_clearly_worse(losses[80], losses[best])
    said = capsys.readouterr().err
    assert "warning: the validation loss has risen" in said
    assert f"the result is the model of step {best} " in said
    assert run.result["delivered_step"] == best
    assert run.result["step"] == 80
    kept = CheckpointStore(run.path / "checkpoints").best()
    assert kept is not None
    weights = open_model(str(run.path), "cpu").model.state_dict()
    for name, weight in kept.load("master_weights").items():
        assert weights[name].equal(weight.reshape(weights[name].shape))


def test_early_stopping_ends_the_run_as_finished(prepared: Path, tmp_path: Path) -> None:
    run = lavra.train(prepared, steps=300, out=str(tmp_path / "run"), early_stopping=2, **SMALL)
    assert run.status == "finished"
    assert run.result["step"] == run.plan["steps"] < 300
    assert any("stopped early" in line for line in RunFolder.open(run.path).events)
    assert lavra.resume(run.path).result["step"] == run.result["step"]


def _validation(step: int, loss: float | None) -> dict[str, Any]:
    return {"step": step, "split": "validation", "loss": loss}


@pytest.mark.parametrize(
    ("losses", "warned", "waited"),
    [
        ([3.0, 2.5, 2.4, 2.3], False, 0),
        ([3.0, 2.5, 2.51, 2.505], False, 2),
        ([3.0, 2.5, 2.6, 2.4, 2.5], False, 1),
        ([3.0, 2.5, 2.6, 2.7], True, 2),
        ([3.0, None, float("nan"), 2.0], False, 0),
    ],
)
def test_what_is_warned_of(losses: list[float | None], warned: bool, waited: int, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "")
    for step, loss in enumerate(losses[:2]):
        run.metrics.append(_validation(step, loss))  # before a resume
    watch = OverfittingWatch(run, a_plan(), patience=3)
    for step, loss in enumerate(losses[2:], start=2):
        watch.on("validation", _validation(step, loss))
    assert (watch.warned, watch.waited, watch.is_over) == (warned, waited, False)
