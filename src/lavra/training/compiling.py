"""Compiling the blocks of a model, where that is possible and pays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lavra.objectives.causal import Causal

if TYPE_CHECKING:
    from lavra.training.trainer import Trainer

_PAYS_AFTER_SECONDS = 100.0


def keep_compiler_cache() -> None:
    """Keep what the compiler makes between runs and reboots: a second run of the same shape starts in seconds."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "lavra" / "inductor"))


def can_compile(device: torch.device) -> bool:
    """Say whether this machine has what the compiler needs: a C++ compiler, and Triton for a GPU."""
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++", os.environ.get("CXX", "")) if name)
    if device.type == "cuda":
        from importlib.util import find_spec

        return compiler and find_spec("triton") is not None
    return compiler and device.type == "cpu"


def should_compile(requested: str, device: torch.device, seconds: float) -> bool:
    """Decide `auto`: compile when the run is long enough to repay it.

    Args:
        requested: `auto`, `yes` or `no`.
        device: where the model trains.
        seconds: that training is expected to take.
    """
    if requested != "auto":
        return requested == "yes"
    return can_compile(device) and seconds >= _PAYS_AFTER_SECONDS


def is_compiler_failure(error: Exception) -> bool:
    """Say whether the compiler raised it."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    return isinstance(error, TorchDynamoException)


def compile_blocks(model: nn.Module) -> Callable[[], None]:
    """Compile each block by itself: one compilation serves all of them, however deep the model is.

    Returns:
        A function that takes the compilation back.
    """
    keep_compiler_cache()
    blocks = list(getattr(model, "blocks", []))
    for block in blocks:
        block.compile(dynamic=False)

    def undo() -> None:
        for block in blocks:
            block._compiled_call_impl = None

    return undo


def compile_step(trainer: Trainer) -> Callable[[], None]:
    """Compile what a trainer's step does: the blocks of its model, and its loss where that is next-token prediction.

    Returns:
        A function that takes the compilation back.
    """
    undo_blocks, objective = compile_blocks(trainer.model), trainer.objective  # pyright: ignore[reportArgumentType]
    if isinstance(objective, Causal):
        trainer.objective = replace(objective, compiled=True)

    def undo() -> None:
        undo_blocks()
        trainer.objective = objective

    return undo
