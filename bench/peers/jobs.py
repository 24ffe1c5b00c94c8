"""What one side of the time-to-quality benchmark is asked to do, and how it is started and watched.

A side is a file in this folder. Its parent half says which command trains; its child half, where the side has no
command of its own, is `python -m bench.peers.NAME train JOB.json`; `… score JOB.json` measures what came out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent.parent
WARMUP_STEPS = 20
WEIGHT_DECAY = 0.1
"""The same for every peer: what nanoGPT advises for small models."""
BETAS = (0.9, 0.99)
CLIP = 1.0


@dataclass(frozen=True)
class Shape:
    """The model and the batch of the peers; lavra takes depth and width from it, and the rest by its own rules."""

    depth: int = 6
    width: int = 256
    context: int = 256
    rows: int = 16
    vocabulary: int = 8192

    @property
    def heads(self) -> int:
        """Heads of 64, as GPT-2 has them."""
        return max(1, self.width // 64)

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.rows * self.context

    @property
    def block_parameters(self) -> int:
        """The matrices of the blocks, which every side must match: attention 4 width², MLP 8 width²."""
        return 12 * self.depth * self.width**2


@dataclass(frozen=True)
class Variant:
    """The flags of a peer that change how fast it is."""

    precision: str = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return self.precision + ("+compile" if self.compiled else "")

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read what `str` writes; raises ValueError for anything else."""
        precision, plus, rest = text.partition("+")
        if precision not in ("fp32", "bf16") or rest != ("compile" if plus else ""):
            raise ValueError(f"{text!r} is no variant: fp32, fp32+compile, bf16 or bf16+compile")
        return cls(precision, bool(plus))


EVERY_VARIANT = tuple(Variant(precision, compiled) for precision in ("fp32", "bf16") for compiled in (False, True))


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        shape: of the model and the batch.
        variant: flags.
        steps: of the whole cosine; for lavra, which has its own rules, 0.
        seconds: for lavra: its `--budget`; 0 for peers.
        learning_rate: at its peak, for peers.
        text: the prepared folder: `train.bin`, `val.bin` (uint16 ids), `meta.pkl` and lavra's stores.
        out: a folder of its own.
        seed: of weights and order.
    """

    shape: Shape
    variant: Variant
    steps: int
    seconds: float
    learning_rate: float
    text: Path
    out: Path
    seed: int = 1337

    def write(self) -> Path:
        """Write the job into its folder, for a child process."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "job.json"
        path.write_text(json.dumps(asdict(self) | {"text": str(self.text), "out": str(self.out)}))
        return path

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """Read what `write` wrote."""
        values = json.loads(Path(path).read_text())
        parts = {"shape": Shape(**values["shape"]), "variant": Variant(**values["variant"])}
        return cls(**values | parts | {"text": Path(values["text"]), "out": Path(values["out"])})


@dataclass(frozen=True)
class Command:
    """A process that trains.

    Attributes:
        words: of the command.
        model: the file that exists once the model does.
        step: a pattern whose first group is a step's number, counted from `first`, in a line printed after the step;
            None where the side tells no steps.
        first: the number of the first step.
        folder: where it runs.
        environment: on top of this process's.
    """

    words: list[str]
    model: Path
    step: str | None
    first: int = 1
    folder: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)


class Side(Protocol):
    """One of the trainers that are compared."""

    name: str
    variants: tuple[Variant, ...]

    def versions(self) -> dict[str, str | None]:
        """Return what its figures depend on besides the settings."""
        ...

    def train(self, job: Job) -> Command:
        """Return the command that trains."""
        ...

    def score(self, job: Job) -> list[str]:
        """Return the command that prints, as its last line, a JSON object of `nats` and `block_parameters`."""
        ...


@dataclass(frozen=True)
class Watched:
    """What was seen of a training: seconds after its process was started.

    Attributes:
        times: of its steps.
        model: when the model existed.
        process: when the process had ended.
    """

    times: list[float]
    model: float
    process: float


@dataclass(frozen=True)
class Timeline:
    """When things happened, in seconds after the process was started.

    Attributes:
        first: the first step had been taken (imports, compilation and all).
        step: mean of a later step, the first after it left out where there are more.
        after: from the last step to the model's existence.
        seconds: until the model existed.
        process: until the process had ended.
        steps: taken.
    """

    first: float
    step: float
    after: float
    seconds: float
    process: float
    steps: int

    @classmethod
    def of(cls, watched: Watched) -> Timeline:
        """Return the timeline of a training whose steps were seen; raises ValueError when none was."""
        times = watched.times
        if not times:
            raise ValueError("no step was seen")
        settled = times[1:] if len(times) > 2 else times
        step = (settled[-1] - settled[0]) / (len(settled) - 1) if len(settled) > 1 else times[0]
        after = max(0.0, watched.model - times[-1])
        return cls(times[0], step, after, watched.model, watched.process, len(times))

    def steps_within(self, seconds: float) -> int:
        """Return how many steps a run of this kind can take so that its model exists after `seconds`."""
        return max(0, 1 + int((seconds - self.first - self.after) / self.step))


class Failed(RuntimeError):
    """A side's process ended without a model."""


def run(command: Command, steps: int, limit: float) -> Watched:
    """Train, with the compiler's caches cold and every step's time noted.

    Args:
        command: what to run; what it prints is shown when it fails.
        steps: that count; nanoGPT takes one more after saving, which the model does not hold.
        limit: seconds after which it is stopped.

    Raises:
        Failed: when it leaves no model.
    """
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        environment |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton", **command.environment}
        start = time.time()  # compared with a file's time, so no monotonic clock
        process = subprocess.Popen(
            command.words,
            cwd=command.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        stop = Timer(limit, process.kill)
        stop.start()
        try:
            times, tail = _listen(process, command, steps, start)
            code = process.wait()
        finally:
            stop.cancel()
            process.kill()
        ended = time.time() - start
    if code or not command.model.exists():
        raise Failed(f"{' '.join(command.words)}\nended with {code} after {ended:.0f} s:\n{tail}")
    return Watched(times, command.model.stat().st_mtime - start, ended)


def _listen(process: subprocess.Popen[str], command: Command, steps: int, start: float) -> tuple[list[float], str]:
    """Return the times of the steps, and the last lines that were printed."""
    times: list[float] = []
    tail: deque[str] = deque(maxlen=40)
    assert process.stdout is not None
    for line in process.stdout:
        tail.append(line)
        found = re.search(command.step, line) if command.step else None
        if found and int(found[1]) - command.first < steps:
            times.append(time.time() - start)
    return times, "".join(tail)


def score(words: list[str]) -> dict[str, Any]:
    """Run a scoring command and return what it printed last.

    Raises:
        Failed: when it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Failed(f"{' '.join(words)}\nended with {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(module: str, verb: str, job: Job, python: str = sys.executable) -> list[str]:
    """Return the command of the child half of a file of this folder."""
    return [python, "-m", f"bench.peers.{module}", verb, str(job.write())]
