"""Experiment trackers as observers: TensorBoard, Weights & Biases and MLflow. A resumed run continues its curve.

Everything is kept in the run folder unless the user's own settings (WANDB_MODE and a login, MLFLOW_TRACKING_URI) name a
server. Which run of a tracker belongs to the run folder is noted in its `tracker.json`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.training.callbacks import Observer

TrackerName = Literal["tensorboard", "wandb", "mlflow"]

_PROJECT = "lavra"
_FLUSH_SECONDS = 5.0
_CURVES = {"step": "train", "validation": "validation"}  # event: the prefix of its curves


def make_tracker(name: TrackerName, run_folder: Path) -> Observer:
    """Return the tracker of that name for a run.

    Args:
        name: "tensorboard", "wandb" or "mlflow".
        run_folder: the run's folder; its name is the name of the run.

    Raises:
        InputError: if there is no such tracker, or its package is not installed.
    """
    trackers = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker, "mlflow": MlflowTracker}
    if name not in trackers:
        raise InputError(f"there is no tracker {name!r}", f"choose from {', '.join(get_args(TrackerName))}")
    try:
        return trackers[name](Path(run_folder))
    except ImportError as error:
        raise InputError(f"the tracker {name} is not installed ({error})", "pip install 'lavra[track]'") from error


class TensorBoardTracker:
    """Writes `RUN/tensorboard`; look at it with `tensorboard --logdir RUN`.

    On resume, the steps after the checkpoint, which are done again, replace those that the stopped process had written.
    """

    def __init__(self, run_folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._folder, self._writer = SummaryWriter, run_folder / "tensorboard", None

    def on(self, event: str, info: Mapping[str, Any]) -> None:
        """Take notice of an event."""
        if event == "start":
            purge = info["step"] + 1 if info["step"] else None
            self._writer = self._make(str(self._folder), purge_step=purge)
            if not info["step"]:
                lines = "\n".join(f"    {name} = {value}" for name, value in settings(info["config"]))
                self._writer.add_text("config", lines, 0)
        elif self._writer is None:
            return
        elif event in _CURVES:
            for name, value in numbers(info, _CURVES[event]):
                self._writer.add_scalar(name, value, info["step"])
        elif event == "checkpoint":
            self._writer.flush()
        elif event == "end":
            self._writer.close()


class WandbTracker:
    """Sends to Weights & Biases, or keeps everything in `RUN/wandb` for `wandb sync` when offline.

    WANDB_MODE, WANDB_PROJECT and a login are honoured; without a connection the run is kept offline. Neither code, nor
    what the terminal shows, nor crash reports are sent.
    """

    def __init__(self, run_folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        from wandb import Settings, init

        self._init, self._settings, self._folder, self._run = init, Settings, run_folder, None

    def on(self, event: str, info: Mapping[str, Any]) -> None:
        """Take notice of an event."""
        if event == "start":
            self._start(info)
        elif self._run is None:
            return
        elif event in _CURVES:
            # Steps that wandb has already had before a resume are dropped by it; they are the same numbers.
            self._run.log(dict(numbers(info, _CURVES[event])), step=info["step"])
        elif event == "end":
            self._run.finish(exit_code=0 if info["status"] == "done" else 1)

    def _start(self, info: Mapping[str, Any]) -> None:
        identity = remembered(self._folder, "wandb", lambda: uuid.uuid4().hex[:12])
        try:
            self._run = self._begin(identity, info["config"], None)
        except Exception as error:
            say(f"warning: Weights & Biases could not be reached, the run is kept for `wandb sync`: {error}")
            self._run = self._begin(identity, info["config"], "offline")

    def _begin(self, identity: str, config: Mapping[str, Any], mode: Literal["offline"] | None) -> Any:
        quiet = self._settings(
            silent=True, console="off", disable_git=True, save_code=False, disable_code=True, login_timeout=30
        )
        return self._init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=self._folder.resolve().name,
            dir=self._folder,
            id=identity,
            resume="allow",
            config=dict(settings(config)),
            mode=mode,
            settings=quiet,
        )


class MlflowTracker:
    """Writes to the server or folder that MLFLOW_TRACKING_URI names, or else to `RUN/mlruns`.

    Look at the folder with `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri RUN/mlruns`. Metrics are sent
    every five seconds and at each checkpoint, because one call for each step would cost more than a small step.
    """

    def __init__(self, run_folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        # MLflow no longer develops its plain folders and prefers databases, whose drivers are heavy; a run folder
        # is there to be copied, and wants plain files.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client_of, self._metric, self._param = MlflowClient, Metric, Param
        self._folder, self._client, self._run, self._had = run_folder, None, "", -1
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def on(self, event: str, info: Mapping[str, Any]) -> None:
        """Take notice of an event."""
        if event == "start":
            self._start(info)
        elif self._client is None:
            return
        elif event in _CURVES:
            if info["step"] > self._had:
                now = int(time.time() * 1000)
                for name, value in numbers(info, _CURVES[event]):
                    self._waiting.append(self._metric(_plain_name(name), value, now, info["step"]))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._flush()
        elif event == "checkpoint":
            self._flush()
        elif event == "end":
            self._flush()
            status = {"done": "FINISHED", "interrupted": "KILLED"}.get(info["status"], "FAILED")
            self._client.set_terminated(self._run, status)

    def _start(self, info: Mapping[str, Any]) -> None:
        place = os.environ.get("MLFLOW_TRACKING_URI") or (self._folder / "mlruns").resolve().as_uri()
        self._client = client = self._client_of(tracking_uri=place)
        new = []

        def create() -> str:
            experiment = client.get_experiment_by_name(_PROJECT)
            number = experiment.experiment_id if experiment else client.create_experiment(_PROJECT)
            new.append(client.create_run(number, run_name=self._folder.resolve().name).info.run_id)
            return new[0]

        self._run = remembered(self._folder, "mlflow", create)
        if new:
            parameters = [self._param(_plain_name(name), value[:6000]) for name, value in settings(info["config"])]
            for start in range(0, len(parameters), 100):  # the most that one call takes
                client.log_batch(self._run, params=parameters[start : start + 100])
        else:
            client.update_run(self._run, status="RUNNING")
            # Steps that are done again give the same numbers; they are not sent twice.
            self._had = max((metric.step for metric in client.get_metric_history(self._run, "train/loss")), default=-1)

    def _flush(self) -> None:
        waiting, self._waiting, self._flushed = self._waiting, [], time.monotonic()
        assert self._client is not None
        for start in range(0, len(waiting), 1000):  # the most that one call takes
            self._client.log_batch(self._run, metrics=waiting[start : start + 1000])


def numbers(info: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers among the metrics by name: `loss` as `train/loss`, an estimate's bounds as `train/loss_low`."""
    for key, value in info.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping) and "value" in value:
            yield from ((name if part == "value" else f"{name}_{part}", float(value[part])) for part in value)
        elif isinstance(value, Mapping):
            yield from numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            yield name, float(value)


def settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a nested configuration by their dotted names, as text."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def remembered(run_folder: Path, tracker: TrackerName, create: Callable[[], str]) -> str:
    """Return the tracker's own name for this run: the one in `tracker.json`, or a new one, which is noted there."""
    path = run_folder / "tracker.json"
    known = read_json(path) if path.exists() else {}
    if tracker not in known:
        known[tracker] = create()
        write_json(path, known)
    return known[tracker]


def _plain_name(name: str) -> str:
    """Return the name with what MLflow does not allow replaced: `nDCG@10` as `nDCG_10`."""
    return "".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in name)
