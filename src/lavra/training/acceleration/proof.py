"""A compiled step proves itself before it is used: loss and gradients against the eager step, both against fp32.

A C++ compiler, a kernel of a library or a driver can make wrong code on any machine. What a compiled step gives on the
run's own first micro-batch may be at most twice as far from fp32 as what the eager step gives. If it is farther, it is
compiled again with safer flags, and in the end not at all. The verdict is kept for this machine, so that it costs its
seconds once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile
from lavra.core.machine import is_out_of_memory, processor_flags, processor_name, release_memory
from lavra.models.native.agreement import Reference
from lavra.models.native.attention import attending_plainly
from lavra.models.protocols import Batch, eval_mode
from lavra.objectives.base import ComparingObjective
from lavra.training.acceleration.compiling import (
    EAGER,
    SAFER,
    USUAL,
    CompilableLearner,
    Compilation,
    cache_folder,
    cpp_compiler,
    is_compiler_failure,
)
from lavra.training.acceleration.temporary_weights import lively, widened
from lavra.training.distributed import max_over_ranks

_SLICES = 4
"""Parts in which the exact gradient is computed: in fp32 a whole micro-batch may not fit where one in bf16 does."""

_LARGEST_SCRIPT = 1 << 16
"""Bytes up to which a compiler is known by its content, as a script that calls another one has to be."""

VERDICTS = "compiled.json"


def prove_compilation(trainer: CompilableLearner) -> None:
    """Prove a trainer's compiled step on its next micro-batch, and compile it otherwise, or not at all, if it is wrong.

    Every rank comes to the same decision. Weights and gradients are left as they were; dropout is off for the proof.

    Args:
        trainer: with a `compilation`, before a step.
    """
    compilation, distributed = trainer.compilation, trainer.batches.distributed
    assert compilation is not None
    begun = time.monotonic()
    batch = trainer.batches.micro_batches(trainer.step)[0].to(trainer.device)
    ways = [compilation.flags, *(way for way in _ways(trainer.device) if way != compilation.flags)]
    key = _key(trainer, batch)
    known = _known(key, ways)
    if -max_over_ranks(-known, distributed) >= 0:
        compilation.set_flags(ways[int(max_over_ranks(known, distributed))])
        if compilation.flags != USUAL:
            trainer.report(f"compiled step: {in_words(compilation.flags)}, as an earlier run proved on this machine")
        return
    reasons = take_first_right_way(trainer, batch, ways)
    seconds = f"({time.monotonic() - begun:.1f} s)"
    if reasons:
        trainer.report(f"compiled step: {reasons[0]}; {in_words(compilation.flags)} {seconds}")
    else:
        trainer.report(f"compiled step: proved equal to the plain one within the rounding of its numbers {seconds}")
    _remember(key, compilation.flags, reasons)


def _ways(device: torch.device) -> list[str]:
    return [USUAL, *(SAFER if device.type == "cpu" else ()), EAGER]


def take_first_right_way(trainer: CompilableLearner, batch: Batch, ways: Sequence[str] = ()) -> list[str]:
    """Compile a trainer's step in the first way that is right on every rank.

    Args:
        trainer: with a `compilation`.
        batch: on the trainer's device.
        ways: flags to try, in this order; empty: the usual ones, the safer ones, nothing compiled.

    Returns:
        What is wrong with the ways before the one that was taken.
    """
    compilation = trainer.compilation
    assert compilation is not None
    reasons: list[str] = []
    with eval_mode(trainer.model), lively(trainer):
        reference = _reference(trainer, compilation, batch)
        for way in ways or _ways(trainer.device):
            compilation.set_flags(way)
            wrong = None if way == EAGER else _wrong(trainer, batch, reference)
            if not max_over_ranks(wrong is not None, trainer.batches.distributed):
                break
            reasons.append(wrong or "it is wrong in another process")
    return reasons


def in_words(way: str) -> str:
    """Return what the step is computed by, from the flags of a compilation."""
    if way == EAGER:
        return "the plain step goes on, slower by a fifth or so"
    return f"compiled with {way}, which is right" if way else "compiled as usual"


def _reference(trainer: CompilableLearner, compilation: Compilation, batch: Batch) -> Reference | None:
    """Return what the eager step gives, and the eager step in fp32 with the plainest attention.

    None where one of several processes has no memory for it: it cannot begin again by itself while the others wait.
    """
    rows = batch.inputs.shape[0]
    # A loss that compares the examples of a batch is not the sum of those of its parts.
    size = rows if isinstance(trainer.objective, ComparingObjective) else max(1, rows // _SLICES)
    parts = [batch.take(slice(start, start + size)) for start in range(0, rows, size)]
    try:
        with compilation.eagerly():
            plain = _gradients(trainer, [batch])
            with widened(trainer.model), attending_plainly():  # pyright: ignore[reportArgumentType]
                exact = _gradients(trainer, parts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or trainer.batches.distributed.world_size == 1:
            raise
        release_memory(error)
        return None
    return Reference(exact, plain, next(iter(trainer.master_weights.working.values())).dtype)


def _wrong(trainer: CompilableLearner, batch: Batch, reference: Reference | None) -> str | None:
    """Return in words what is wrong with the step as it is compiled now."""
    if reference is None:
        return "there is no memory to prove it"
    try:
        return reference.disagreement(_gradients(trainer, [batch]))
    except Exception as error:
        lacking = is_out_of_memory(error)
        if (not is_compiler_failure(error) and not lacking) or (
            lacking and trainer.batches.distributed.world_size == 1
        ):
            raise
        told = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        release_memory(error)
        return f"the compiler failed ({told})"


def _gradients(trainer: CompilableLearner, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Return the mean loss of the batches and its gradient at every trained weight, in the weights' present type."""
    scale = trainer.scale.value / max(1.0, sum(batch.weight for batch in batches))
    weights = trainer.master_weights.working
    total = torch.zeros((), device=trainer.device)
    for weight in weights.values():
        weight.grad = None
    for batch in batches:
        loss = trainer.objective.loss(trainer.model, batch)
        (loss.sum * scale).backward()
        total += loss.sum.detach().float() * scale
    found = {f"the gradient of {name}": weight.grad for name, weight in weights.items() if weight.grad is not None}
    for weight in weights.values():
        weight.grad = None
    return {"the loss": total, **found}


def _key(trainer: CompilableLearner, batch: Batch) -> str:
    """Return what a verdict holds for: everything that the compiler's code depends on, and the compiler."""
    model: Any = trainer.model
    block = model.blocks[0] if len(getattr(model, "blocks", ())) else model
    shapes = [(name, list(part.shape), str(part.dtype), part.requires_grad) for name, part in block.named_parameters()]
    spec = getattr(model, "spec", None)
    known = {
        "torch": torch.__version__,
        "compiler": _compiler(),
        "processor": _processor(trainer.device),
        "threads": torch.get_num_threads(),
        "code": _code(),
        "spec": asdict(spec) | {"depth": 0} if is_dataclass(spec) and not isinstance(spec, type) else None,
        "block": shapes,
        "batch": [list(batch.inputs.shape), batch.document_ids is not None],
        "objective": repr(trainer.objective),
        "checkpointing": getattr(model, "checkpointing", False),
    }
    return hashlib.blake2b(json.dumps(known, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _compiler() -> list[Any]:
    path = Path(os.path.realpath(shutil.which(cpp_compiler()) or cpp_compiler()))
    if not path.is_file():
        return [str(path)]
    stat = path.stat()
    script = path.read_bytes().hex() if stat.st_size <= _LARGEST_SCRIPT else ""
    return [str(path), stat.st_size, stat.st_mtime_ns, script]


def _processor(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return [processor_name(), processor_flags(), torch.backends.cpu.get_cpu_capability()]
    return [torch.cuda.get_device_name(device), torch.version.cuda, torch.backends.cudnn.version()]


@cache
def _code() -> str:
    """Return a hash of lavra's own code of models and objectives."""
    digest = hashlib.blake2b(digest_size=8)
    home = Path(__file__).resolve().parents[1]
    for room in ("models", "objectives"):
        for path in sorted((home / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _verdicts() -> dict[str, Any]:
    try:
        verdicts = read_json(cache_folder() / VERDICTS)
    except (CorruptFile, OSError):
        return {}
    return verdicts if isinstance(verdicts, dict) else {}


def _known(key: str, ways: list[str]) -> int:
    """Return the place among `ways` of the one that was proved earlier; -1 where none was."""
    verdict = _verdicts().get(key)
    way = verdict.get("way") if isinstance(verdict, dict) else None
    return ways.index(way) if way in ways else -1


def _remember(key: str, way: str, reasons: list[str]) -> None:
    entry = {"way": way, "reasons": reasons, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        write_json(cache_folder() / VERDICTS, _verdicts() | {key: entry})
    except OSError:
        return  # a cache that cannot be written costs a proof at each run, nothing else
