"""What is known of this machine's compilers: which ways to compile a step were proved right, and which were wrong.

It is kept in a file between runs. A way that made wrong numbers of one step is tried last for every other step on the
same machine, and never again for the same step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch

from lavra.core.code import code_fingerprint
from lavra.core.disk.user_cache import keep_entry, read_entries
from lavra.core.machine import processor_flags, processor_name
from lavra.models.protocols import Batch
from lavra.training.acceleration.compiling import CompilableLearner, cpp_compiler

VERDICTS = "compiled.json"
"""Name of the file in the cache folder that keeps the verdicts."""

_LARGEST_SCRIPT = 1 << 16
"""Bytes up to which a compiler is known by its content, as a script that calls another one has to be."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a step as it was compiled in one way.

    Attributes:
        told: The fault as a clause.
        wrong_code: Whether the compiler made code that computes other numbers; false where it failed.
    """

    told: str
    wrong_code: bool = True


@dataclass(frozen=True)
class Verdict:
    """What is known of the ways to compile one step.

    Attributes:
        proved: The way that was proved right; None where none was.
        faults: The ways that failed the proof, with their faults.
        seconds: Seconds that one attempt took: compiling in one way, and the proof; 0 where it is not known.
        suspects: Ways that made wrong numbers of another step on this machine.
    """

    proved: str | None = None
    faults: Mapping[str, Fault] = field(default_factory=dict)
    seconds: float = 0.0
    suspects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Key:
    """What a verdict holds for, as hashes.

    Attributes:
        machine: Everything that makes code out of a step: torch, the compiler and the processor.
        step: The machine, and everything that the compiled code of the step depends on.
    """

    machine: str
    step: str


def known_verdict(key: Key) -> Verdict:
    """Return what earlier runs found out about a step."""
    verdicts = _read()
    entry = verdicts.get(key.step, {})
    suspects = {
        way
        for other in verdicts.values()
        if other.get("machine") == key.machine
        for way, fault in other.get("faults", {}).items()
        if fault.get("wrong_code")
    }
    faults = {way: Fault(fault["told"], fault["wrong_code"]) for way, fault in entry.get("faults", {}).items()}
    return Verdict(entry.get("proved"), faults, entry.get("seconds", 0.0), frozenset(suspects))


def remember_verdict(key: Key, verdict: Verdict) -> None:
    """Keep a verdict for later runs; a cache that cannot be written costs a proof at each run, and nothing else."""
    entry = {
        "proved": verdict.proved,
        "faults": {way: asdict(fault) for way, fault in verdict.faults.items()},
        "seconds": round(verdict.seconds, 2),
        "machine": key.machine,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    keep_entry(VERDICTS, key.step, entry)


def _read() -> dict[str, dict[str, Any]]:
    found = read_entries(VERDICTS)
    return {key: entry for key, entry in found.items() if isinstance(entry, dict) and "proved" in entry}


def _hashed(known: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(known, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def key_of(trainer: CompilableLearner, batch: Batch) -> Key:
    """Return what a verdict on a trainer's step with such a micro-batch holds for."""
    machine = _hashed(
        {
            "torch": torch.__version__,
            "compiler": _compiler(),
            "processor": _processor(trainer.device),
            "code": code_fingerprint("models", "objectives"),
        }
    )
    model: Any = trainer.model
    block = model.blocks[0] if len(getattr(model, "blocks", ())) else model
    shapes = [(name, list(part.shape), str(part.dtype), part.requires_grad) for name, part in block.named_parameters()]
    spec = getattr(model, "spec", None)
    step = {
        "machine": machine,
        "threads": torch.get_num_threads(),
        "spec": asdict(spec) | {"depth": 0} if is_dataclass(spec) and not isinstance(spec, type) else None,
        "block": shapes,
        "batch": [list(batch.inputs.shape), batch.document_ids is not None],
        "objective": repr(trainer.objective),
        "checkpointing": getattr(model, "checkpointing", False),
    }
    return Key(machine, _hashed(step))


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
