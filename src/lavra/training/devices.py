"""The device that trains, the number of processor threads, and waiting for a device to finish its work."""

from __future__ import annotations

import os

import torch

from lavra.core.errors import InputError
from lavra.core.machine import usable_cores


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called `name`.

    Args:
        name: `auto` chooses CUDA where there is a GPU, else Apple's MPS, else the CPU. Any other value is a device as
            torch names it: `cpu`, `cuda`, `cuda:1` or `mps`. Under `torchrun`, `auto` chooses the GPU whose number is
            the environment variable LOCAL_RANK.

    Raises:
        InputError: if torch knows no such device, or this machine does not have it.

    Examples:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is not a device", "use --machine.device auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device on this machine", "use --machine.device cpu, or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("there is no MPS device on this machine", "use --machine.device cpu, or auto")
    return device


def use_threads(threads: int | None) -> int:
    """Set how many processor threads torch uses, and return that number.

    Args:
        threads: Number of threads. None takes the environment variable OMP_NUM_THREADS where it is set, and otherwise
            one thread for each core that this process may use.
    """
    allowed = usable_cores()
    chosen = threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or allowed
    torch.set_num_threads(chosen)
    return chosen


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work.

    GPU kernels run asynchronously: without this, a clock that is read after a call measures only how long it took to
    queue the kernels. On the CPU there is nothing to wait for.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> str:
    """Return a name of the device for people to read, such as `NVIDIA H200` or `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
