"""Trackers write what happened where it belongs, offline, and a resumed run continues its own curve."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest

from lavra.core.errors import InputError
from lavra.training.callbacks import Callbacks
from lavra.training.trackers import make_tracker, numbers, settings

CONFIG = {"model": {"depth": 8, "width": 256}, "seed": 1}


def run(folder: Path, name: str, start: int, end: int, status: str | None = "done") -> None:
    """Train from step `start` to `end` with a tracker; a status of None means that the process was killed there."""
    reports: list[str] = []
    callbacks = Callbacks([make_tracker(name, folder)], reports.append)
    callbacks.on("start", {"config": CONFIG, "step": start})
    for step in range(start + 1, end + 1):
        callbacks.on("step", {"step": step, "loss": 10.0 / step, "clipped": True, "note": "text", "nDCG@10": 0.5})
    callbacks.on("validation", {"step": end, "loss": {"value": 2.0, "low": 1.5, "high": 2.5}})
    callbacks.on("checkpoint", {"step": end, "path": "somewhere"})
    if status:
        callbacks.on("end", {"step": end, "status": status})
    assert reports == []


def test_numbers_and_settings_are_flattened():
    info = {"step": 3, "loss": 1, "ok": True, "text": "a", "nll": {"value": 2.0, "low": 1.0}, "by": {"src": {"n": 4}}}
    expected = {"train/loss": 1.0, "train/nll": 2.0, "train/nll_low": 1.0, "train/by/src/n": 4.0}
    assert dict(numbers(info, "train")) == expected
    assert dict(settings(CONFIG)) == {"model.depth": "8", "model.width": "256", "seed": "1"}


def test_tensorboard_continues_the_curve(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, "tensorboard", 0, 30, None)
    run(tmp_path, "tensorboard", 20, 40)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 41))
    assert [event.value for event in losses] == pytest.approx([10.0 / step for step in range(1, 41)])
    assert {"validation/loss", "validation/loss_low", "validation/loss_high", "train/nDCG@10"} < set(
        events.Tags()["scalars"]
    )
    assert "config/text_summary" in events.Tags()["tensors"]


def test_mlflow_continues_the_same_run(tmp_path: Path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    run(tmp_path, "mlflow", 0, 30, None)
    identity = json.loads((tmp_path / "tracker.json").read_text())["mlflow"]
    run(tmp_path, "mlflow", 20, 40, "interrupted")
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"mlflow": identity}
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    found = client.get_run(identity)
    assert found.info.run_name == tmp_path.name
    assert found.info.status == "KILLED"
    assert found.data.params == dict(settings(CONFIG))
    assert found.data.metrics["validation/loss_low"] == 1.5
    assert found.data.metrics["train/nDCG_10"] == 0.5
    assert [metric.step for metric in client.get_metric_history(identity, "train/loss")] == list(range(1, 41))


def test_wandb_works_offline_and_continues_the_same_run(tmp_path: Path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, "wandb", 0, 30)
    identity = json.loads((tmp_path / "tracker.json").read_text())["wandb"]
    [first] = (tmp_path / "wandb").glob("offline-run-*")
    run(tmp_path, "wandb", 20, 40)
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"wandb": identity}
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert all(identity in folder.name for folder in folders)
    [record] = first.glob("*.wandb")
    assert b"train/loss" in record.read_bytes()


def test_wandb_without_a_connection_is_kept_offline(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    tracker = make_tracker("wandb", tmp_path)
    begin = tracker._begin

    def unreachable(identity, config, mode):
        if mode is None:
            raise ConnectionError("no route to host")
        return begin(identity, config, mode)

    monkeypatch.setattr(tracker, "_begin", unreachable)
    tracker.on("start", {"config": CONFIG, "step": 0})
    tracker.on("step", {"step": 1, "loss": 2.0})
    tracker.on("end", {"step": 1, "status": "done"})
    assert "no route to host" in capsys.readouterr().err
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_explained(tmp_path: Path, monkeypatch, name: str):
    real = builtins.__import__

    def without(module, *arguments, **options):
        if name in module:
            raise ImportError(f"No module named {name!r}")
        return real(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=f"the tracker {name} is not installed") as caught:
        make_tracker(name, tmp_path)
    assert caught.value.remedy == "pip install 'lavra[track]'"


def test_an_unknown_tracker_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="there is no tracker 'neptune'") as caught:
        make_tracker("neptune", tmp_path)
    assert "tensorboard, wandb, mlflow" in caught.value.remedy
