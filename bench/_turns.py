"""Programs measured in turn, each in a process of its own: while one works, the others wait at a pipe and spin nothing.

A worker's program is any loop that tells `Turns.step_done` about every step; there it is held until its next turn.
What a worker prints goes to a file, whose end is shown when it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

WARM_UP = 3
"""Steps before the first turn: the compiler's one or two, and one by which the length of turns is chosen."""


class WorkerFailed(Exception):
    """A worker ended before it was asked to; the message holds the last lines that it printed."""


@dataclass(frozen=True)
class Turn:
    """What a worker did in one turn: its steps, the tokens that it learned from, and seconds."""

    steps: int
    tokens: float
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Worker:
    """The parent's end: a process that was warmed up, and works when it is asked to.

    Args:
        script: run with `settings` as JSON in its only argument; it calls `serve`.
        settings: plain values.
        environment: variables added to this process's.

    Attributes:
        ready: what it said when it was warm: `first_step_seconds`, `start_seconds`, `step_seconds`.
    """

    def __init__(self, script: Path, settings: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.ready = self._answer()

    def turn(self, steps: int) -> Turn:
        """Let it do so many steps, and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return Turn(**self._answer())

    def steps_in(self, seconds: float, least: int = 1) -> int:
        """Return how many steps take about so long, by the last step of the warm-up."""
        return max(least, round(seconds / self.ready["step_seconds"]))

    def close(self) -> dict[str, Any]:
        """End it, and return what it said at the end: `peak_bytes`, `steady_bytes`, `device_bytes`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        last = self._answer()
        self._process.wait()
        return last

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End it at once, if it was not closed."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._log.seek(0)
        said = "\n".join(self._log.read().strip().splitlines()[-15:])
        raise WorkerFailed(f"ended with code {self._process.returncode}:\n{said}")


class Turns:
    """The worker's end.

    Args:
        channel: to the parent.
        synchronize: waits for the device.
        warm_up: steps before the first turn.
    """

    def __init__(
        self, channel: IO[str], synchronize: Callable[[], None] = lambda: None, warm_up: int = WARM_UP
    ) -> None:
        self._channel, self._synchronize = channel, synchronize
        self._asked = self._left = warm_up
        self._tokens = 0.0
        self._warm: list[float] | None = []
        self._began = time.perf_counter()

    def step_done(self, tokens: float) -> bool:
        """Count a step, and wait for the next turn when this one is over; returns whether to go on."""
        self._left -= 1
        self._tokens += tokens
        if self._warm is not None:
            self._synchronize()
            self._warm.append(time.perf_counter() - self._began)
            self._began = time.perf_counter()
        if self._left:
            return True
        self._synchronize()
        seconds = time.perf_counter() - self._began
        if self._warm is not None:
            self._tell(first_step_seconds=self._warm[0], step_seconds=self._warm[-1])
            memory.steady()
            self._warm = None
        else:
            self._tell(steps=self._asked, tokens=self._tokens, seconds=seconds)
        return self._next()

    def _next(self) -> bool:
        command = sys.stdin.readline()
        if not command:
            return False
        self._asked = self._left = int(command)
        self._tokens, self._began = 0.0, time.perf_counter()
        return True

    def _tell(self, **values: Any) -> None:
        print(json.dumps(values), file=self._channel, flush=True)


class Memory:
    """The most memory that this process held beyond what it held before there was a model (Linux; else None)."""

    def __init__(self) -> None:
        self.before: int | None = None
        self.until_warm: int | None = None

    def begin(self) -> None:
        """Note what is held now, libraries included."""
        self._forget()
        self.before = status_bytes("VmRSS")

    def steady(self) -> None:
        """Note the peak so far, which the compiler may have made, and watch for another."""
        self.until_warm = status_bytes("VmHWM")
        self._forget()

    def peaks(self) -> dict[str, int | None]:
        """Return `peak_bytes` of the whole life and `steady_bytes` of the turns, beyond the beginning."""
        turns = status_bytes("VmHWM")
        if self.before is None or self.until_warm is None or turns is None:
            return {"peak_bytes": None, "steady_bytes": None}
        return {"peak_bytes": max(self.until_warm, turns) - self.before, "steady_bytes": turns - self.before}

    @staticmethod
    def _forget() -> None:
        """Let the system count the peak anew from here (Linux 4.0, proc(5)); without that, it stays what it was."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


memory = Memory()


def status_bytes(name: str) -> int | None:
    """Return a figure of /proc/self/status in bytes; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def serve(program: Callable[[dict[str, Any], Turns], None]) -> None:
    """Be a worker: run `program(settings, turns)` until the parent has had enough, and tell what memory it took."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer to the parent
    settings = json.loads(sys.argv[1])
    warm_up = settings.get("warm_up", WARM_UP)
    if settings.get("device") == "cuda":
        import torch

        turns = Turns(channel, torch.cuda.synchronize, warm_up)
        program(settings, turns)
        device = torch.cuda.max_memory_allocated()
    else:
        program(settings, Turns(channel, warm_up=warm_up))
        device = None
    print(json.dumps(memory.peaks() | {"device_bytes": device}), file=channel, flush=True)
    os._exit(0)  # threads of libraries that wait for nothing must not keep the next worker waiting
