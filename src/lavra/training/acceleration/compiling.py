"""Compiling the blocks of a model and its loss, where that is possible and pays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from lavra.core.disk.files import write_atomically
from lavra.core.disk.user_cache import cache_folder
from lavra.objectives.causal import Causal
from lavra.objectives.denoise.fim import FillInTheMiddle
from lavra.training.deadline import Deadline
from lavra.training.learner import Learner

_COMPILING_SECONDS = {"cpu": 40.0, "cuda": 25.0}  # of one block and the loss, where nothing is kept from before
_GAIN = {"cpu": 1.43, "cuda": 1.4}  # tokens a second of a compiled step over those of an eager one

EAGER = "eager"
"""Says of a step that nothing of it is compiled."""

USUAL = ""
"""Stands for the flags that Inductor gives the C++ compiler by itself."""

SAFER = ("-fno-tree-vectorize", "-O1")
"""Flags for a C++ compiler that makes wrong code with the usual ones, the fastest first."""


def keep_compiler_cache() -> None:
    """Keep what the compiler makes between runs and reboots: a second run of the same shape starts in seconds.

    A folder that the user chose stays. Inductor names one for temporary files itself as soon as it is imported.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    name = "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name) in (None, default_cache_dir()):
        os.environ[name] = str(cache_folder() / "inductor")


def can_compile(device: torch.device) -> bool:
    """Say whether this machine has what the compiler needs: a C++ compiler, and Triton for a GPU."""
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++", os.environ.get("CXX", "")) if name)
    if device.type == "cuda":
        from importlib.util import find_spec

        return compiler and find_spec("triton") is not None
    return compiler and device.type == "cpu"


def should_compile(requested: str, device: torch.device, seconds: float) -> bool:
    """Decide `auto`: compile when what it brings over the run is more than the seconds that it takes.

    Args:
        requested: `auto`, `yes` or `no`.
        device: where the model trains.
        seconds: that training is expected to take.
    """
    if requested != "auto":
        return requested == "yes"
    if not can_compile(device):
        return False
    return repays_compiling(device, seconds, _COMPILING_SECONDS.get(device.type, 0.0))


def repays_compiling(device: torch.device, seconds_left: float, seconds: float) -> bool:
    """Return whether compiled steps save more in the time that is left than compiling them takes.

    Args:
        device: where the model trains.
        seconds_left: of training, with those of compiling.
        seconds: that compiling takes.
    """
    return seconds_left * (1.0 - 1.0 / _GAIN.get(device.type, 1.0)) >= seconds


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
    generator = getattr(getattr(model, "task_head", None), "generator", None)
    stacks = (model, getattr(model, "encoder", None), generator)
    blocks = [block for stack in stacks for block in getattr(stack, "blocks", [])]
    for block in blocks:
        block.compile(dynamic=False)

    def undo() -> None:
        for block in blocks:
            block._compiled_call_impl = None

    return undo


class Compilation:
    """What is compiled of a trainer's step: the blocks of its model, and its loss where that is next-token prediction.

    Args:
        trainer: whose step is compiled from now on.

    Attributes:
        flags: what the C++ compiler is given besides the usual; `EAGER` once the compilation was taken back.
        suspended: whether a block of `eagerly` is running.
    """

    def __init__(self, trainer: Learner) -> None:
        self.trainer, self.flags = trainer, USUAL
        self._plain_objective = trainer.objective
        self.suspended = False
        self._undo: Callable[[], None] = lambda: None
        self._compile()

    def _compile(self) -> None:
        add_compiler_flags(self.flags)
        self._undo = compile_blocks(self.trainer.model)  # pyright: ignore[reportArgumentType]
        if isinstance(self._plain_objective, Causal | FillInTheMiddle):
            self.trainer.objective = replace(self._plain_objective, compiled=True)

    def set_flags(self, flags: str) -> None:
        """Compile anew with other flags of the C++ compiler, or take the compilation back (`EAGER`)."""
        if flags == self.flags:
            return
        self._undo()
        self.flags, self.trainer.objective = flags, self._plain_objective
        if flags != EAGER:
            self._compile()

    def undo(self) -> None:
        """Take the compilation back."""
        self.set_flags(EAGER)

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Compute the step without anything compiled during the block."""
        before, self.trainer.objective = self.trainer.objective, self._plain_objective
        suspended, self.suspended = self.suspended, True
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self.trainer.objective, self.suspended = before, suspended


class CompilableLearner(Learner, Protocol):
    """A learner whose step may be compiled.

    Attributes:
        compilation: What is compiled of a step; None for nothing.
        proved: Rows of a micro-batch and type of the weights with which the compiled step was proved; None before.
        deadline: When the last step should be done; None for no limit.
    """

    deadline: Deadline | None
    compilation: Compilation | None
    proved: tuple[int, torch.dtype] | None


def is_compiled(trainer: CompilableLearner) -> bool:
    """Say whether anything of a trainer's step is compiled."""
    return trainer.compilation is not None and trainer.compilation.flags != EAGER


def compile_step(trainer: CompilableLearner) -> Compilation:
    """Compile what a trainer's step does; before its first step it proves itself
    (`lavra.training.acceleration.proof`)."""
    trainer.compilation = Compilation(trainer)
    return trainer.compilation


def cpp_compiler() -> str:
    """Return the C++ compiler that Inductor calls: `CXX` where it is set."""
    return os.environ.get("CXX") or next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), "g++")


_added = USUAL
"""The flags that the C++ compiler is given besides the usual ones in this process."""


def add_compiler_flags(flags: str) -> None:
    """Let Inductor give the C++ compiler further flags, after its own, in this process; `USUAL` takes them back.

    Inductor has no setting for flags, only one for the compiler: it is given a script that adds them. The setting is a
    part of the key under which Inductor keeps what it compiled.
    """
    global _added
    if flags == _added:
        return
    from torch._inductor import config

    compiler = cpp_compiler()
    if flags == USUAL:
        path = compiler
    else:
        script = cache_folder() / "compilers" / f"{Path(compiler).name}{flags}"
        write_atomically(script, f'#!/bin/sh\nexec {compiler} "$@" {flags}\n')
        script.chmod(0o755)
        path = str(script)
    config.cpp.cxx = (None, path)  # pyright: ignore[reportAttributeAccessIssue]
    torch._dynamo.reset()  # graphs of the other flags are forgotten
    _added = flags
