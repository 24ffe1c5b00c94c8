"""The processor: its name, and the cores that this process may use."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def usable_cores() -> int:
    """Return how many cores the process may run on, which is fewer than the machine has where it is confined."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the processor's name; `platform` knows it on some systems only."""
    return _from_cpuinfo("model name") or platform.processor() or sys.platform


def processor_flags() -> str:
    """Return the instruction sets that the processor has, as the system lists them; empty where it does not."""
    return _from_cpuinfo("flags")


def _from_cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
