"""Predicted and measured memory of a training step, for our decoders and models of transformers.

Usage: python bench/memory.py [--only NAME…] [--json]; exits 1 unless every prediction is within a tenth.

Predicted: the rehearsal with fake tensors behind `lavra plan`. Measured: the same two steps with values, on the CPU
by the allocator's events in torch's profiler, on a GPU by `torch.cuda.max_memory_allocated`. Each configuration has a
process of its own, so that none meets what another left behind. Memory does not depend on who else uses the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from _memory import measure_allocated, measure_peak
from _results import record
from lavra.config.transforms import AdapterConfig, TransformConfig
from lavra.models.presets import preset
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.memory import estimate_memory

MIB = 1 << 20
TOLERANCE = 0.1

_CHECKPOINTING = TransformConfig(gradient_checkpointing=True)
_LORA = TransformConfig(adapter=AdapterConfig(kind="lora"))


@dataclass(frozen=True)
class Case:
    """One configuration: a step of `rows` windows, rehearsed from a shape or a folder of transformers."""

    rows: int
    make: Callable[[Path], DryRun]


def ours(name: str, context: int, **changes: Any) -> Callable[[Path], DryRun]:
    """Return what makes the rehearsal of a preset."""
    return lambda _: replace(DryRun(preset(name), context), **changes)


def hf_model(kind: str, context: int, **changes: Any) -> Callable[[Path], DryRun]:
    """Return what makes the rehearsal of a model of transformers, from the configuration that it writes."""

    def make(folder: Path) -> DryRun:
        write_configuration(kind, folder)
        return replace(DryRun(folder, context), **changes)

    return make


def write_configuration(kind: str, folder: Path) -> None:
    """Write the config.json of a model of middle size: gpt2, llama or t5."""
    from transformers import GPT2Config, LlamaConfig, T5Config

    configurations: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: GPT2Config(
            n_layer=6, n_embd=384, n_head=6, n_positions=512, vocab_size=16384, bos_token_id=0, eos_token_id=0
        ),
        "llama": lambda: LlamaConfig(
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            vocab_size=16384,
            max_position_embeddings=512,
        ),
        "t5": lambda: T5Config(d_model=384, d_ff=1024, num_layers=4, num_heads=6, d_kv=64, vocab_size=16384),
    }
    classes = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration"}
    configuration = configurations[kind]()
    configuration.architectures = [classes[kind]]
    configuration.save_pretrained(folder)


CASES = {
    "lavra-9m bf16": Case(8, ours("lavra-9m", 256, precision="bf16")),
    "lavra-9m fp32": Case(8, ours("lavra-9m", 256)),
    "lavra-9m fp32, checkpointing": Case(8, ours("lavra-9m", 256, transforms=_CHECKPOINTING)),
    "lavra-9m fp32, LoRA": Case(8, ours("lavra-9m", 256, transforms=_LORA)),
    "lavra-9m fp32, whole logits": Case(8, ours("lavra-9m", 256, whole_logits=True)),
    "pythia-70m bf16": Case(2, ours("pythia-70m", 256, precision="bf16")),
    "transformers GPT-2 fp32": Case(8, hf_model("gpt2", 256)),
    "transformers GPT-2 fp32, checkpointing": Case(8, hf_model("gpt2", 256, transforms=_CHECKPOINTING)),
    "transformers Llama bf16, LoRA": Case(4, hf_model("llama", 256, precision="bf16", transforms=_LORA)),
    "transformers T5 fp32": Case(4, hf_model("t5", 256)),
}
"""Rows, and what is rehearsed. Logits are held a chunk at a time, but for the case that says otherwise."""


def measure(name: str) -> dict[str, Any]:
    """Return a configuration's predicted and measured bytes, in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        dry_run = replace(case.make(Path(folder)), gpu=device.type == "cuda")

        def train() -> None:
            trainer = dry_run.trainer(case.rows, device=device)
            for _ in range(2):
                trainer.run_step()

        predicted = estimate_memory(dry_run, case.rows).peak
        measured = measure_peak(train, device) or measure_allocated(train)
    return {
        "configuration": name,
        "rows": case.rows,
        "context": dry_run.context,
        "device": device.type,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "ratio": predicted / measured,
    }


def in_a_process(name: str) -> dict[str, Any]:
    """Return what a fresh process measures."""
    done = subprocess.run(
        [sys.executable, __file__, "--in-process", name], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--in-process", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        print(json.dumps(measure(options.in_process)))
        return 0
    found = []
    for name in options.only:
        found.append(in_a_process(name))
        if not options.json:
            line = found[-1]
            predicted, measured = line["predicted_bytes"] / MIB, line["measured_bytes"] / MIB
            print(
                f"{name:<40} {line['rows']} x {line['context']}  predicted {predicted:8.1f} MiB  "
                f"measured {measured:8.1f} MiB  ratio {line['ratio']:.3f}",
                flush=True,
            )
    within = sum(abs(line["ratio"] - 1.0) <= TOLERANCE for line in found)
    result = {"configurations": found, "within_a_tenth": within}
    record("memory", result)
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{within} of {len(found)} within {TOLERANCE:.0%}")
    return int(within < len(found))


if __name__ == "__main__":
    sys.exit(main())
