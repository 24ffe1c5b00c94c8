"""Trainings as processes of their own: on all cores in turn, or one on each core; finished ones are kept."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _results import circumstances, folder
from lavra.core.disk.json_lines import JsonLines
from lavra.core.progress import log
from lavra.core.units import show_duration

SETTING_UP = 15.0
"""Seconds of a run beside its budget: imports, text, the last evaluation's page."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        name: of its folder.
        words: of the command line after `lavra train`, without the folder.
        seconds: that it will take, roughly.
        settings: what makes it this run and no other; a result with the same settings is not measured again.
    """

    name: str
    words: Sequence[str]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)


def lanes(parallel: bool) -> list[frozenset[int]]:
    """Return the cores of each lane of runs: one lane with all cores, or one lane for each core."""
    cores = sorted(os.sched_getaffinity(0))
    return [frozenset({core}) for core in cores] if parallel else [frozenset(cores)]


def lavra(words: Sequence[str], cores: frozenset[int]) -> dict[str, Any]:
    """Run a lavra command on some cores, with as many threads, and return the object that it prints.

    Raises:
        RuntimeError: if the command fails; with the end of what it said.
    """
    threads = {name: str(len(cores)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "lavra", *words, "--json", "--quiet"],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise RuntimeError(f"lavra {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Kept:
    """The results of runs in NAME.jsonl, found again by their settings.

    Args:
        name: of the file in the folder of results.
    """

    def __init__(self, name: str) -> None:
        self._file = JsonLines(folder() / f"{name}.jsonl")
        self._found = {_key(line["settings"]): line for line in self._file.read() if "settings" in line}

    def find(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the result of a run with these settings, or None."""
        return self._found.get(_key(settings))

    def add(self, settings: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result of a run, with its circumstances, and return the line."""
        line = {**circumstances(), "settings": settings, **result}
        self._file.path.parent.mkdir(parents=True, exist_ok=True)
        self._file.append(line)
        self._found[_key(settings)] = line
        return line


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def run_all(
    jobs: Sequence[Job], runs: Path, parallel: bool, finished: Callable[[Job, dict[str, Any]], None] | None = None
) -> None:
    """Do the runs, the longest first, telling how many are left and how long they will take.

    Args:
        jobs: what to run.
        runs: the folder of the runs' folders.
        parallel: one on each core at a time, instead of one on all cores.
        finished: is told each run and what it printed, one at a time.

    Raises:
        RuntimeError: if a run fails; those that are running go on to their end first.
    """
    ways = lanes(parallel)
    log(f"{len(jobs)} runs to do, {len(ways)} at a time: about {show_duration(duration(jobs, parallel))}")
    free: queue.Queue[frozenset[int]] = queue.Queue()
    for way in ways:
        free.put(way)
    lock, begun, left = threading.Lock(), dict[str, float](), {job.name: job.seconds for job in jobs}

    def seconds_left() -> float:
        now = time.monotonic()
        return sum(max(0.0, seconds - (now - begun.get(name, now))) for name, seconds in left.items()) / len(ways)

    def work(job: Job) -> tuple[Job, dict[str, Any]]:
        cores = free.get()
        begun[job.name] = time.monotonic()
        try:
            out = ("--out", str(runs / job.name), "--force", "--machine.threads", str(len(cores)))
            return job, lavra(["train", *job.words, *out], cores)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(ways)) as pool:
        waiting = [pool.submit(work, job) for job in sorted(jobs, key=lambda job: -job.seconds)]
        try:
            for number, future in enumerate(as_completed(waiting), 1):
                job, result = future.result()
                with lock:
                    if finished is not None:
                        finished(job, result)
                del left[job.name]
                log(f"{number} of {len(jobs)} runs done ({job.name}); about {show_duration(seconds_left())} left")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def duration(jobs: Sequence[Job], parallel: bool) -> float:
    """Return the seconds that the runs take together, each lane taking the longest run that is left."""
    busy = [0.0] * len(lanes(parallel))
    for job in sorted(jobs, key=lambda job: -job.seconds):
        busy[busy.index(min(busy))] += job.seconds
    return max(busy)


def place_of(text: str) -> str:
    """Return the whole path of a text, by which results are found again; a name that is no path stays as it is."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def bits_of(result: dict[str, Any]) -> float:
    """Return the bits per byte of a run's result."""
    figure = result["bits_per_byte"]
    return float(figure["value"] if isinstance(figure, dict) else figure)
