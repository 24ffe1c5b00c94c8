"""The memory that something really takes: what estimates are compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.memory import LiveMemory, MemoryEstimate, memory_of_step


def measure_tensor_memory(dry_run: DryRun, micro_batch_size: int, make: Callable[[], nn.Module]) -> MemoryEstimate:
    """Return what a real step on the CPU takes in tensors; `make` builds the model with its values."""
    with LiveMemory() as live_memory:
        return memory_of_step(dry_run, micro_batch_size, live_memory, make)


def measure_peak(run: Callable[[], Any], device: torch.device) -> int | None:
    """Run something on a CUDA device and return the most bytes of tensors it held; None on devices that do not count.

    On a CPU the torch profiler counts, see `measure_allocated`.
    """
    if device.type != "cuda":
        run()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device)


def measure_allocated(run: Callable[[], Any]) -> int:
    """Run something on the CPU under torch's profiler and return the most bytes that its allocator had given out.

    Kernels' own buffers are counted where they take them from that allocator.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    waiting, events = list(results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.name == "[memory]":
            fields: Any = event.extra_fields
            events.append((event.start_time_ns, fields.alloc_size))
    live = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        live += size
        peak = max(peak, live)
    return peak
