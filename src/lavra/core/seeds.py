"""Random streams named by purpose: no generator state is global, so nothing that is drawn depends on what ran before.

A stream is a pure function of the run's seed and of what it is for, e.g. `numpy_stream(seed, "order", epoch)`.

Examples:
    >>> from lavra.core.seeds import derive_seed, numpy_stream
    >>> derive_seed(1, "dropout", 7) == derive_seed(1, "dropout", 7)
    True
    >>> derive_seed(1, "dropout", 7) == derive_seed(1, "dropout", 8)
    False
    >>> numpy_stream(1, "order", 0).permutation(5).tolist()
    [3, 0, 1, 4, 2]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Streams = Callable[[int], np.random.Generator]
"""Returns the random generator of a sequence by its index in the batch, so that what is drawn for a sequence does not
depend on the others in its batch."""


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, e.g. `derive_seed(1, "dropout", step)`.

    The seed and the parts of the purpose are hashed together (BLAKE2b), so that the seeds of different purposes are
    independent of each other.

    Args:
        seed: The seed of the run.
        *purpose: Strings and numbers that name what the seed is for.
    """
    name = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose; see `derive_seed` for the arguments."""
    return np.random.default_rng(derive_seed(seed, *purpose))


def row_streams(seed: int, *purpose: str | int, first: int) -> Streams:
    """Return a function from a sequence's index in its batch to its generator.

    Args:
        seed: The seed of the run.
        *purpose: Strings and numbers that name what the generators are for.
        first: Number in the run of the batch's first sequence; it is added to the index, so that a sequence has the
            same generator in whatever batch it comes.
    """
    return lambda place: numpy_stream(seed, *purpose, first + place)


def torch_stream(seed: int, *purpose: str | int, device: str | torch.device) -> torch.Generator:
    """Return a torch generator for one purpose on one device.

    Tensors that are drawn with it must be created on that device too (`device=` in the call). A generator on the CPU
    draws the same numbers for every device: draw there and move them, unless they are many.

    Args:
        seed: The seed of the run.
        *purpose: Strings and numbers that name what the generator is for.
        device: Device of the generator.
    """
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


def fixed_normal(shape: Sequence[int], number: int, *, std: float = 1.0) -> torch.Tensor:
    """Return normally distributed float32 values on the CPU that are the same in every run.

    Args:
        shape: Shape of the tensor.
        number: Seed of the generator; another number gives other values.
        std: Standard deviation of the values, whose mean is 0; 1.0 by default.
    """
    import torch

    generator = torch.Generator(device="cpu").manual_seed(number)
    return torch.empty(tuple(shape), device="cpu").normal_(std=std, generator=generator)
