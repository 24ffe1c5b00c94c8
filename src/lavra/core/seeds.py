"""Random streams named by purpose: no generator state is global, so nothing that is drawn depends on what ran before.

A stream is a pure function of the run's seed and of what it is for, e.g. `numpy_stream(seed, "order", epoch)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Streams = Callable[[int], np.random.Generator]
"""The stream of each row of a batch, by its place in the batch: a row's stream does not depend on its companions."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, e.g. `derive_seed(1, "dropout", step)`."""
    name = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))


def row_streams(seed: int, *purpose: str | int, first: int) -> Streams:
    """Return the streams of the rows of a batch, each named by its number in the run: `first` plus its place."""
    return lambda place: numpy_stream(seed, *purpose, first + place)


def torch_stream(seed: int, *purpose: str | int, device: str | torch.device) -> torch.Generator:
    """Return a torch generator for one purpose on one device.

    What is drawn with it must be made on that device too (`device=` in the call). A generator on the CPU draws the same
    numbers for every device: draw there and move them, unless they are many.
    """
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


def fixed_normal(shape: Sequence[int], number: int, *, std: float = 1.0) -> torch.Tensor:
    """Return float32 normal values on the CPU, the same ones whatever the run: of generator number `number`."""
    import torch

    generator = torch.Generator(device="cpu").manual_seed(number)
    return torch.empty(tuple(shape), device="cpu").normal_(std=std, generator=generator)
