"""Peak performance of hardware, measured on this machine or taken from data sheets: the basis of every efficiency."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean
from lavra.planning.machine.memory import memory_of
from lavra.training.devices import describe, synchronize
from lavra.training.precision import TYPES, Precision, choose_precision

# Accelerators by name, with their peak performance, memory and power, to plan runs for hardware that is not at hand.

GIB = 1 << 30


@dataclass(frozen=True)
class Accelerator:
    """One kind of accelerator, as its maker specifies it.

    Attributes:
        name: Name, as given to `--hardware`.
        peak: Peak speed of dense matrix products in FLOP/s by precision (`fp32`, `fp16`, `bf16`), without sparsity.
            `fp32` is true 32-bit arithmetic, not TF32. 16-bit products are accumulated in 32 bits, as training does,
            which halves the advertised figure of GeForce boards. Training does not run in a precision that is missing.
        memory: Memory in bytes that programs can use, which is less than advertised: error correction and the driver
            take some.
        bandwidth: Memory bandwidth in bytes per second.
        watts: Largest power of the board in watts.
        source: Source of the figures.
        aliases: Other names.
        shared_memory: Whether the memory is shared with the processor (unified memory).
    """

    name: str
    peak: dict[str, float]
    memory: int
    bandwidth: float
    watts: float
    source: str
    aliases: tuple[str, ...] = ()
    shared_memory: bool = False

    def precision(self, asked: str = "auto") -> str:
        """Return the precision to train in.

        Args:
            asked: `fp32`, `fp16` or `bf16`; `auto` chooses bf16, else fp16, else fp32, whichever is supported.

        Raises:
            InputError: if the accelerator does not support the requested precision.
        """
        if asked == "auto":
            return next(kind for kind in ("bf16", "fp16", "fp32") if kind in self.peak)
        if asked not in self.peak:
            raise InputError(
                f"{self.name} does not compute matrix products in {asked}", f"choose one of {', '.join(self.peak)}"
            )
        return asked


def _make(
    name: str,
    teraflops: tuple[float, float | None, float | None],
    gib: float,
    gigabytes_per_second: float,
    watts: float,
    source: str,
    *aliases: str,
    shared: bool = False,
) -> Accelerator:
    """Return an accelerator from TFLOP/s in fp32, fp16 and bf16 (None: not supported), GiB and GB/s."""
    peak = {
        kind: tera * 1e12 for kind, tera in zip(("fp32", "fp16", "bf16"), teraflops, strict=True) if tera is not None
    }
    memory = int(gib * GIB)
    return Accelerator(name, peak, memory, gigabytes_per_second * 1e9, watts, source, aliases, shared)


_APPLE = " fp16 is no faster than fp32 (github.com/philipturner/metal-benchmarks)"

_TABLE = (
    _make("p100", (9.3, 18.7, None), 15.9, 732, 250, "NVIDIA Tesla P100 PCIe data sheet", "kaggle-p100", "tesla-p100",
          "tesla-p100-pcie-16gb"),
    _make("v100", (15.7, 125, None), 15.8, 900, 300, "NVIDIA V100 SXM2 data sheet", "v100-16gb", "tesla-v100",
          "tesla-v100-sxm2-16gb"),
    _make("v100-32gb", (15.7, 125, None), 31.7, 900, 300, "NVIDIA V100 SXM2 data sheet", "tesla-v100-sxm2-32gb"),
    _make("t4", (8.1, 65, None), 14.7, 320, 70, "NVIDIA T4 data sheet; 14.7 GiB of its 16 GB are given to programs",
          "colab-t4", "kaggle-t4", "tesla-t4"),
    _make("a10g", (35, 70, 70), 22.1, 600, 300, "NVIDIA A10G (AWS g5) data sheet, dense", "g5"),
    _make("a10", (31.2, 125, 125), 22.1, 600, 150, "NVIDIA A10 data sheet, dense"),
    _make("l4", (30.3, 121, 121), 22.1, 300, 72, "NVIDIA L4 data sheet, half of the sparse figure", "colab-l4", "g6"),
    _make("l40", (90.5, 181, 181), 44.5, 864, 300, "NVIDIA L40 data sheet, half of the sparse figure"),
    _make("l40s", (91.6, 362, 362), 44.5, 864, 350, "NVIDIA L40S data sheet, half of the sparse figure", "g6e"),
    _make("a30", (10.3, 165, 165), 23.6, 933, 165, "NVIDIA A30 data sheet, dense"),
    _make("a40", (37.4, 149.7, 149.7), 44.5, 696, 300, "NVIDIA A40 data sheet, dense"),
    _make("rtx-a6000", (38.7, 154.8, 154.8), 47.5, 768, 300, "NVIDIA RTX A6000 data sheet, dense", "a6000"),
    _make("rtx-3060", (12.7, 25.5, 25.5), 11.8, 360, 170, "NVIDIA Ampere whitepaper's ratios, fp32 accumulation",
          "3060"),
    _make("rtx-3090", (35.6, 71, 71), 23.6, 936, 350, "NVIDIA Ampere GA102 whitepaper, fp32 accumulation", "3090"),
    _make("rtx-4070", (29.1, 58.3, 58.3), 11.7, 504, 200, "NVIDIA Ada whitepaper's ratios, fp32 accumulation", "4070"),
    _make("rtx-4090", (82.6, 165.2, 165.2), 23.6, 1008, 450, "NVIDIA Ada whitepaper, fp32 accumulation", "4090"),
    _make("rtx-5090", (104.8, 209.5, 209.5), 31.4, 1792, 575, "NVIDIA RTX Blackwell whitepaper, fp32 accumulation",
          "5090"),
    _make("a100-40gb", (19.5, 312, 312), 39.4, 1555, 400, "NVIDIA A100 data sheet, dense", "a100", "colab-a100",
          "a100-40g", "a100-sxm4-40gb", "a100-pcie-40gb"),
    _make("a100-80gb", (19.5, 312, 312), 79.1, 2039, 400, "NVIDIA A100 (SXM) data sheet, dense", "a100-80g",
          "a100-sxm4-80gb"),
    _make("a100-80gb-pcie", (19.5, 312, 312), 79.1, 1935, 300, "NVIDIA A100 (PCIe) data sheet, dense"),
    _make("h100", (66.9, 989.4, 989.4), 79.1, 3350, 700, "NVIDIA H100 SXM data sheet, half of the sparse figure",
          "h100-sxm", "h100-80gb", "h100-80gb-hbm3"),
    _make("h100-pcie", (51.2, 756, 756), 79.1, 2000, 350, "NVIDIA H100 PCIe data sheet, half of the sparse figure"),
    _make("h100-nvl", (60, 835, 835), 93.1, 3900, 400, "NVIDIA H100 NVL data sheet (one of two), half of sparse"),
    _make("gh200", (66.9, 989.4, 989.4), 94.5, 4000, 700, "NVIDIA GH200 data sheet (96 GB), dense"),
    _make("h200", (66.9, 989.4, 989.4), 139.8, 4800, 700, "NVIDIA H200 SXM data sheet, half of the sparse figure",
          "h200-sxm"),
    _make("b200", (75, 2250, 2250), 178, 7700, 1000, "NVIDIA B200 (HGX) data sheet, dense"),
    _make("mi250x", (47.9, 191.5, 191.5), 63.9, 1638, 280, "AMD MI250X data sheet, matrix: one of its two dies, which "
          "programs see as a device each"),
    _make("mi300x", (163.4, 1307.4, 1307.4), 191, 5300, 750, "AMD MI300X data sheet, dense"),
    _make("m1", (2.6, 2.6, None), 8, 68, 20, "Apple M1, 8-core GPU;" + _APPLE, "apple-m1", shared=True),
    _make("m2", (3.6, 3.6, None), 8, 100, 22, "Apple M2, 10-core GPU;" + _APPLE, "apple-m2", shared=True),
    _make("m3-max", (14.2, 14.2, None), 36, 400, 60, "Apple M3 Max, 40-core GPU;" + _APPLE, "apple-m3-max",
          shared=True),
    _make("m4", (4.6, 4.6, None), 16, 120, 22, "Apple M4, 10-core GPU;" + _APPLE, "apple-m4", shared=True),
    _make("m4-max", (18.4, 18.4, None), 36, 546, 70, "Apple M4 Max, 40-core GPU;" + _APPLE, "apple-m4-max",
          shared=True),
)  # fmt: skip

ACCELERATORS: dict[str, Accelerator] = {accelerator.name: accelerator for accelerator in _TABLE}
"""Every accelerator by its name."""

_BY_ALIAS = {alias: accelerator for accelerator in _TABLE for alias in (accelerator.name, *accelerator.aliases)}


def accelerator(name: str) -> Accelerator:
    """Return the accelerator of a given name.

    Args:
        name: Name or alias, in upper or lower case, with hyphens, spaces or underscores. Names as drivers write them,
            such as `NVIDIA A100-SXM4-40GB` or `NVIDIA GeForce RTX 4090`, are known too.

    Raises:
        InputError: if there is no accelerator of that name; the message suggests the most similar name.

    Examples:
        >>> accelerator("NVIDIA GeForce RTX 4090").name
        'rtx-4090'
        >>> accelerator("h100").memory // GIB
        79
    """
    written = name.strip().lower().replace(" ", "-").replace("_", "-")
    written = written.removeprefix("nvidia-").removeprefix("geforce-")
    if written in _BY_ALIAS:
        return _BY_ALIAS[written]
    hint = did_you_mean(written, _BY_ALIAS)
    raise InputError(f"{name!r} is not known hardware", f"{hint}known: this, {', '.join(ACCELERATORS)}")


# Peak performance, measured on this machine or taken from the table.

_SIDES = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Rows and columns of the square matrices on which each kind of device is measured: large enough to reach its peak."""


def measure_matrix_peak(device: torch.device, precision: Precision, seconds: float = 1.0) -> float:
    """Return the measured peak speed of a device in FLOP/s: the median over square matrix products of random data.

    Args:
        device: Device to measure.
        precision: Precision of the matrices.
        seconds: Approximate time for the measurement; at least three products are timed.
    """
    side = _SIDES.get(device.type, 2048)
    generator = torch.Generator(device="cpu").manual_seed(0)
    left = torch.randn(side, side, generator=generator, device="cpu").to(device, TYPES[precision])
    right = torch.randn(side, side, generator=generator, device="cpu").to(device, TYPES[precision])
    out = left @ right
    synchronize(device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * side**3 / sorted(times)[len(times) // 2]


def measure_copy(device: torch.device, seconds: float = 0.3) -> float:
    """Return the measured memory bandwidth of a device in bytes per second: the median over copies, reads plus writes.

    Args:
        device: Device to measure.
        seconds: Approximate time for the measurement; at least three copies are timed.
    """
    size = 1 << (26 if device.type == "cpu" else 28)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 2.0 * size / sorted(times)[len(times) // 2]


@dataclass(frozen=True)
class Hardware:
    """Hardware that a run is planned for.

    Attributes:
        name: Name of the accelerator or of this machine.
        device: Kind of device: `cpu`, `cuda` or `mps`.
        precision: Precision to train in.
        peak_flops: Peak speed of dense matrix products in that precision, in FLOP/s.
        memory: Memory in bytes that a process can have.
        bandwidth: Memory bandwidth in bytes per second.
        watts: Largest power in watts; None if it is not known.
        source: Source of the figures.
        here: Whether it is this machine, so that real steps can be timed.
    """

    name: str
    device: str
    precision: Precision
    peak_flops: float
    memory: int
    bandwidth: float
    watts: float | None
    source: str
    here: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the hardware as JSON values."""
        return asdict(self)


def named_hardware(name: str, precision: str = "auto") -> Hardware:
    """Return an accelerator of the table as hardware to plan for.

    Args:
        name: Name or alias of the accelerator, see `accelerator`.
        precision: `fp32`, `fp16`, `bf16` or `auto`.

    Raises:
        InputError: if there is no accelerator of that name, or it does not support the precision.

    Examples:
        >>> named_hardware("t4").precision
        'fp16'
    """
    found = accelerator(name)
    chosen: Any = found.precision(precision)
    return Hardware(
        found.name,
        "mps" if found.shared_memory else "cuda",
        chosen,
        found.peak[chosen],
        int(0.75 * found.memory) if found.shared_memory else found.memory,
        found.bandwidth,
        found.watts,
        found.source,
    )


def this_hardware(device: torch.device, precision: str = "auto") -> Hardware:
    """Measure a device of this machine with matrix products and copies, and return it as hardware to plan for.

    Args:
        device: Device to measure.
        precision: `fp32`, `fp16`, `bf16` or `auto`.

    Raises:
        InputError: if the device does not support the precision.
    """
    chosen = choose_precision(precision, device)
    return Hardware(
        describe(device),
        device.type,
        chosen,
        measure_matrix_peak(device, chosen),
        memory_of(device),
        measure_copy(device),
        None,
        "measured: matrix products and a copy",
        here=True,
    )
