"""The record of the machines of a run: one line for each stretch, because a resumed run may have moved."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.json_lines import JsonLines
from lavra.core.machine import processor_name, usable_cores
from lavra.training.devices import describe

MACHINES = "machines.jsonl"
"""Name of the record in the folder of a run."""

_PACKAGES = ("lavra", "torch", "transformers", "tokenizers", "numpy", "safetensors")
"""Packages whose versions are recorded."""


def record_machine(run: Path, device: torch.device, step: int) -> None:
    """Append a line to the `machines.jsonl` of a run, with the machine and the versions that compute from a step on.

    Args:
        run: The folder of the run.
        device: The device that computes.
        step: The step from which on it computes.
    """
    JsonLines(run / MACHINES).append({"step": step, "time": f"{datetime.now():%Y-%m-%d %H:%M:%S}", **_machine(device)})


def _machine(device: torch.device) -> dict[str, Any]:
    import psutil

    return {
        "device": describe(device),
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": {"python": platform.python_version(), **_versions()} | _accelerator(device),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from its sources
            continue
    return found


def _accelerator(device: torch.device) -> dict[str, str]:
    return {"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}
