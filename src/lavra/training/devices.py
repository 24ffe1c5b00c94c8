"""Which device trains, with how many threads."""

from __future__ import annotations

import os

import torch

from lavra.core.errors import InputError
from lavra.core.machine import usable_cores


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: if the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is no device", "use --machine.device auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device on this machine", "use --machine.device cpu, or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("there is no MPS device on this machine", "use --machine.device cpu, or auto")
    return device


def use_threads(threads: int | None) -> int:
    """Let torch use `threads` threads (None: one for each core that this process may use) and return the number."""
    allowed = usable_cores()
    chosen = threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or allowed
    torch.set_num_threads(chosen)
    return chosen


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock read now is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> str:
    """Return the device in words: `NVIDIA H200`, `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
