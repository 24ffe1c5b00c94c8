"""Names of encoders: a hash of their weights and of all settings on which their vectors depend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import xxhash

from lavra.core.disk.json_lines import one_line


def fingerprint(about: Mapping[str, Any], tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a 128-bit hash of an encoder, as 32 hexadecimal digits.

    Args:
        about: Its settings, as plain values.
        tensors: Its weights with their names.

    Examples:
        >>> fingerprint({"pooling": "mean"}, [("weight", torch.ones(2))]) == fingerprint({"pooling": "mean"}, [])
        False
    """
    digest = xxhash.xxh3_128()
    digest.update(one_line(dict(sorted(about.items()))).encode())
    for name, tensor in sorted(tensors, key=lambda one: one[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
