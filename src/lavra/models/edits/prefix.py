"""Learned keys and values before every layer's own (P-tuning v2, arXiv 2110.07602)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lavra.core.errors import InputError
from lavra.models.edits.choices import AdapterConfig


@dataclass(frozen=True)
class Prefix:
    config: AdapterConfig
    seed: int = 0
    vocabulary: bool = False

    def apply(self, model: nn.Module) -> None:
        raise InputError("prefix")

    def fold(self, model: nn.Module) -> None:
        raise InputError("prefix")
