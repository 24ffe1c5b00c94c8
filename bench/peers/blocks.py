"""The token stream as blocks of one context, as run_clm.py and litgpt's own data modules cut it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset


class Blocks(Dataset[torch.Tensor]):
    """Blocks of `length` tokens that begin every `stride` tokens; what does not fill the last one is left out."""

    def __init__(self, path: Path, length: int, stride: int) -> None:
        self.tokens = np.memmap(path, dtype=np.uint16, mode="r")
        self.length, self.stride = length, stride

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - self.length) // self.stride + 1)

    def __getitem__(self, number: int) -> torch.Tensor:
        start = number * self.stride
        return torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
