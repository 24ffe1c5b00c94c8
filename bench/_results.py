"""What every benchmark does with its figures: medians with spread, and a line of JSON in bench/results/NAME.jsonl.

A line holds when, on what machine and with which versions it was measured, so that lines of several months
can stand side by side.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lavra", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing: the median, the least and the most, and how many there were."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more; raises ValueError without any."""
        if not values:
            raise ValueError("a spread needs at least one value")
        return cls(statistics.median(values), min(values), max(values), len(values))

    @property
    def share(self) -> float:
        """The whole width as a share of the median (0 when the median is 0)."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def to_json(self) -> dict[str, float | int]:
        """Return the four numbers by name."""
        return {"median": self.median, "low": self.low, "high": self.high, "runs": self.runs}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return ours over theirs, round by round: both sides of a round met the same machine."""
    return Spread.of([one / other for one, other in zip(ours, theirs, strict=True)])


def folder() -> Path:
    """Return the folder of results: $OUT, or bench/results beside this file."""
    return Path(os.environ.get("OUT") or ROOT / "bench" / "results")


def record(name: str, result: dict[str, Any]) -> Path:
    """Append a result with its circumstances to NAME.jsonl in the folder of results, and return the file."""
    path = folder() / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(circumstances() | result) + "\n")
    return path


def circumstances() -> dict[str, Any]:
    """Return the date, the machine, the versions and the revision of the working tree."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "revision": revision(),
    }


def machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, memory in bytes, the load, and the GPU if any."""
    import psutil
    import torch

    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor_name() -> str:
    """Return the processor's model as the system tells it, or the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def revision() -> str | None:
    """Return git's short revision with a + when tracked files were changed, or None outside a repository."""
    try:
        return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout.strip()
