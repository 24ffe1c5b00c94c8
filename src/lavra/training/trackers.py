"""Experiment trackers: observers that write to TensorBoard, Weights & Biases or MLflow.

A resumed run continues its curves. Everything is kept in the run folder unless the settings of the user (WANDB_MODE and
a login, MLFLOW_TRACKING_URI) name a server. The file `tracker.json` in the run folder records which run of the tracker
belongs to it.
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
from lavra.core.progress import log
from lavra.training.callbacks import Callback

TrackerName = Literal["tensorboard", "wandb", "mlflow"]

_PROJECT = "lavra"
"""Name of the project (Weights & Biases) or experiment (MLflow) that runs belong to by default."""

_FLUSH_SECONDS = 5.0
"""Seconds between two calls to MLflow: one call for each step would take longer than a small step."""

_CURVES = {"step": "train", "validation": "validation"}
"""Prefix of the names of the curves for each event that carries metrics."""


def make_tracker(name: TrackerName, run_folder: Path) -> Callback:
    """Return a tracker for a run.

    Args:
        name: "tensorboard", "wandb" or "mlflow".
        run_folder: Folder of the run. Its last part is the name of the run in the tracker.

    Raises:
        InputError: if there is no tracker of that name, or its package is not installed.
    """
    trackers = {"tensorboard": TensorBoardTracker, "wandb": WandbTracker, "mlflow": MlflowTracker}
    if name not in trackers:
        raise InputError(f"there is no tracker {name!r}", f"choose from {', '.join(get_args(TrackerName))}")
    try:
        return trackers[name](Path(run_folder))
    except ImportError as error:
        raise InputError(f"the tracker {name} is not installed ({error})", "pip install 'lavra[track]'") from error


class TensorBoardTracker:
    """Tracker that writes event files to `RUN/tensorboard`, which `tensorboard --logdir RUN` shows.

    When a run is resumed, the steps after the checkpoint, which are computed again, replace those that the interrupted
    process had written.

    Args:
        run_folder: Folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._folder, self._writer = SummaryWriter, run_folder / "tensorboard", None

    def on(self, event: str, info: Mapping[str, Any]) -> None:
        """Write what belongs to an event, see `lavra.training.callbacks.Callback`."""
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
    """Tracker that sends metrics to Weights & Biases, or keeps them in `RUN/wandb` for a later `wandb sync`.

    The environment variables WANDB_MODE and WANDB_PROJECT and a login are honoured; without a connection the run is
    kept offline. Source code, terminal output and crash reports are never sent.

    Args:
        run_folder: Folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        from wandb import Settings, init

        self._init, self._settings, self._folder, self._run = init, Settings, run_folder, None

    def on(self, event: str, info: Mapping[str, Any]) -> None:
        """Write what belongs to an event, see `lavra.training.callbacks.Callback`."""
        if event == "start":
            self._start(info)
        elif self._run is None:
            return
        elif event in _CURVES:
            # wandb drops steps that it received before the run was resumed; they are the same numbers.
            self._run.log(dict(numbers(info, _CURVES[event])), step=info["step"])
        elif event == "end":
            self._run.finish(exit_code=0 if info["status"] == "done" else 1)

    def _start(self, info: Mapping[str, Any]) -> None:
        identity = remembered(self._folder, "wandb", lambda: uuid.uuid4().hex[:12])
        try:
            self._run = self._begin(identity, info["config"], None)
        except Exception as error:
            log(f"warning: Weights & Biases could not be reached; the run is kept offline for `wandb sync`: {error}")
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
    """Tracker that writes to the server or folder that MLFLOW_TRACKING_URI names, or else to `RUN/mlruns`.

    The command `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri RUN/mlruns` shows the folder. Metrics are
    sent every five seconds and at each checkpoint, because one call for each step would take longer than a small step.

    Args:
        run_folder: Folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        # MLflow prefers databases to plain folders by now. A run folder must be easy to copy, so it needs plain files.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client_of, self._metric, self._param = MlflowClient, Metric, Param
        self._folder, self._client, self._run, self._had = run_folder, None, "", -1
        self._waiting: list[Any] = []
        self._flushed = time.monotonic()

    def on(self, event: str, info: Mapping[str, Any]) -> None:
        """Write what belongs to an event, see `lavra.training.callbacks.Callback`."""
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
            # Steps that are computed again after a resume give the same numbers, so they are not sent twice.
            self._had = max((metric.step for metric in client.get_metric_history(self._run, "train/loss")), default=-1)

    def _flush(self) -> None:
        waiting, self._waiting, self._flushed = self._waiting, [], time.monotonic()
        assert self._client is not None
        for start in range(0, len(waiting), 1000):  # the most that one call takes
            self._client.log_batch(self._run, metrics=waiting[start : start + 1000])


def numbers(info: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield (name, value) for every number among the metrics of an event.

    Args:
        info: Metrics of the event; an estimate is a mapping with `value`, `low` and `high`.
        prefix: Prefix of the names, such as `train`.

    Examples:
        >>> list(numbers({"step": 3, "loss": {"value": 2.0, "low": 1.9, "high": 2.1}}, "train"))
        [('train/loss', 2.0), ('train/loss_low', 1.9), ('train/loss_high', 2.1)]
    """
    for key, value in info.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping) and "value" in value:
            yield from ((name if part == "value" else f"{name}_{part}", float(value[part])) for part in value)
        elif isinstance(value, Mapping):
            yield from numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            yield name, float(value)


def settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value as text) for every setting of a nested configuration.

    Args:
        config: Nested configuration.
        prefix: Text before every name.

    Examples:
        >>> list(settings({"model": {"depth": 4}, "seed": 0}))
        [('model.depth', '4'), ('seed', '0')]
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def remembered(run_folder: Path, tracker: TrackerName, create: Callable[[], str]) -> str:
    """Return the identifier of this run in a tracker: the one in `tracker.json`, or a new one that is recorded there.

    Args:
        run_folder: Folder of the run.
        tracker: Name of the tracker.
        create: Function that returns a new identifier.
    """
    path = run_folder / "tracker.json"
    known = read_json(path) if path.exists() else {}
    if tracker not in known:
        known[tracker] = create()
        write_json(path, known)
    return known[tracker]


def _plain_name(name: str) -> str:
    """Return the name with characters that MLflow does not allow replaced by `_`: `nDCG@10` becomes `nDCG_10`."""
    return "".join(letter if letter.isalnum() or letter in "_-. :/" else "_" for letter in name)
