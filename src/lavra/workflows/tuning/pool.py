"""Trials at the same time: each in a process of its own, on a GPU of its own where there are several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock
from typing import Any

import torch

from lavra.config.training import TrainConfig
from lavra.core.configuration import to_json
from lavra.core.errors import LavraError
from lavra.training.devices import choose_device
from lavra.training.signals import StopRequest
from lavra.workflows.tuning.trial import Outcome

_LOOK = 0.2
"""Seconds between two looks at whether somebody asked to stop."""

_TOLD = 400
"""Most characters of what a process said that are shown of one that died."""


def devices_of(parallel: int | None, device: str) -> int:
    """Return how many trials are trained at the same time.

    Args:
        parallel: The number in the request; None for one on each GPU, and one on a processor.
        device: The device in the request.
    """
    return parallel or max(1, _gpus(device))


def _gpus(device: str) -> int:
    """Return the number of GPUs that trials are divided among; 0 where a single device is named."""
    if ":" in device or choose_device(device).type != "cuda":
        return 0
    return torch.cuda.device_count()


@dataclass(frozen=True)
class _Job:
    """One part of a trial: who asked for it, what is to be done, and whether there still is time for it."""

    key: Any
    words: dict[str, Any]
    wanted: Callable[[], bool]


class Pool:
    """Some processes, each of which trains a part of a trial.

    A signal to stop is passed on to each, which then finishes its step and saves.

    Args:
        size: Number of processes.
        device: The device in the request.

    Attributes:
        stopped_by: Number of the signal that asked to stop; 0 where none did.
    """

    def __init__(self, size: int, device: str) -> None:
        self.size, self.stopped_by = size, 0
        self._jobs: list[_Job] = []
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = Lock()
        self._slots: SimpleQueue[int] = SimpleQueue()
        gpus = _gpus(device)
        for slot in range(size):
            self._slots.put(slot % gpus if gpus else -1)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._pass_on(signal.SIGTERM)

    def add(
        self,
        key: Any,
        config: TrainConfig,
        share: float,
        measure: str | None,
        evaluated: int,
        *,
        wanted: Callable[[], bool],
    ) -> None:
        """Ask for a part of a trial.

        Args:
            key: What its result is called.
            config: The request of the trial.
            share: The share of the run up to which it is trained.
            measure: Name of the figure; None for the first one.
            evaluated: Most tokens of validation data on which it is measured.
            wanted: Says when its turn comes whether it is still wanted.
        """
        words = {"config": to_json(config), "share": share, "measure": measure, "evaluated": evaluated}
        self._jobs.append(_Job(key, words, wanted))

    def results(self) -> Iterator[tuple[Any, Outcome | Exception | None]]:
        """Yield the key and the outcome of each part as it is done, the error of one that failed, or None for one that
        was no longer wanted; after a signal nothing more is started."""
        waiting = list(reversed(self._jobs))
        with (
            StopRequest("finishing the steps of all trials and saving; a second Ctrl-C stops at once") as stop,
            ThreadPoolExecutor(self.size) as threads,
        ):
            running: dict[Future[Outcome | Exception | None], Any] = {}
            while waiting or running:
                while waiting and len(running) < self.size and not self.stopped_by:
                    job = waiting.pop()
                    if job.wanted():
                        running[threads.submit(self._train, job)] = job.key
                    else:
                        yield job.key, None
                if not running:
                    return
                done, _ = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
                if stop.requested and not self.stopped_by:
                    self.stopped_by = stop.requested
                    self._pass_on(signal.Signals(stop.requested))
                for one in done:
                    key, found = running.pop(one), one.result()
                    if found is not None:
                        yield key, found

    def _train(self, job: _Job) -> Outcome | Exception | None:
        """Run one process to its end; None where it was stopped by a signal, and saved."""
        slot = self._slots.get()
        environment = dict(os.environ)
        if slot >= 0:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "lavra.workflows.tuning.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal reaches it once: from this process
            )
            with self._lock:
                self._running.add(process)
            out, errors = process.communicate(json.dumps(job.words))
            with self._lock:
                self._running.discard(process)
        finally:
            self._slots.put(slot)
        return _read(process.returncode, out, errors)

    def _pass_on(self, number: signal.Signals) -> None:
        with self._lock:
            for process in self._running:
                process.send_signal(number)


def _read(code: int, out: str, errors: str) -> Outcome | Exception | None:
    """Return what a process found, by its last line."""
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return None
    try:
        found = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        why = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with {code}"
        return LavraError(f"its process {why}: {errors.strip()[-_TOLD:]}".rstrip(": "))
    return LavraError(found["failed"]) if "failed" in found else Outcome(**found)
