"""Run folders as trainings leave them, made by hand in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.disk.files import write_json
from lavra.core.disk.json_lines import JsonLines
from lavra.core.disk.run_folder import RunFolder
from lavra.evaluation.document_losses import DOCUMENT_LOSSES, DocumentLosses

HOSTILE = '<script>alert("x")</script>'
STEPS = 20

PLAN: dict[str, Any] = {
    "model": {"vocabulary": 400, "context": 64, "depth": 2, "width": 32, "heads": 2, "positions": "rope"},
    "parameters": 50_000,
    "context": 64,
    "batch_tokens": 512,
    "steps": STEPS,
    "tokens": 512 * STEPS,
    "epochs": 0.5,
    "device": "cpu",
    "precision": "fp32",
    "threads": 2,
    "seed": 7,
    "objective": "causal",
    "optimizer": {"name": "adamw", "learning_rate": 0.003},
    "schedule": {"shape": "wsd", "warmup_steps": 10},
    "budget_seconds": 60.0,
    "forecast": {"seconds": 60.0, "bits_per_byte": 2.4, "bits_per_byte_low": 2.2, "bits_per_byte_high": 2.6},
}


def losses(values: list[float], *, text: str = "text", tokenizer: str = "one", first: int = 0) -> DocumentLosses:
    """Return losses of documents of 100 bytes each, in nats."""
    numbers = np.arange(first, first + len(values))
    return DocumentLosses(text, tokenizer, numbers, np.full(len(values), 100), np.array(values))


def make_run(
    path: Path, *, config: str = 'data = ["corpus"]\nseed = 7\n', found: DocumentLosses | None = None
) -> RunFolder:
    """Make a finished run of 20 steps, the 7th of which was skipped; its bits per byte are those of `found`."""
    run = RunFolder.create(path, config)
    run.write_plan(PLAN)
    _log(run)
    found = found or losses([150.0, 160.0, 155.0, 149.0, 162.0, 158.0])
    found.save(run.path / DOCUMENT_LOSSES)
    bits = float(found.nll.sum() / np.log(2) / found.bytes.sum())
    write_json(run.path / "checks.json", {"verdict": "warn", "checks": _CHECKS, "skipped": ["padding"], "seconds": 1.0})
    machine = {"step": 0, "time": "2026-01-01 10:00:00", "processor": "a processor", "cores": 2, "memory": 2**33}
    versions = {"versions": {"python": "3.11", "torch": "2.13"}, "device": "cpu (2 threads)", "system": "Linux"}
    JsonLines(run.path / "machines.jsonl").append(machine | versions)
    sizes = {"documents": 40, "tokens": 20_480, "bytes": 60_000, "words": 9_000}
    write_json(run.path / "data" / "report.json", {"split": {"train": sizes, "validation": sizes | {"documents": 6}}})
    run.write_result(_result(bits))
    return run


_CHECKS = [
    {"name": "first_loss", "verdict": "ok", "measured": "5.99", "expected": "ln V", "remedy": ""},
    {
        "name": "labels",
        "verdict": "warn",
        "measured": HOSTILE,
        "expected": "all",
        "remedy": "look",
        "details": ["a | b"],
    },
]


def _log(run: RunFolder) -> None:
    for step in range(1, STEPS + 1):
        line: dict[str, Any] = {"step": step, "split": "train", "tokens": 512 * step, "loss": 6.0 - 0.1 * step}
        line |= {"bits_per_byte": 3.0 - 0.05 * step, "tokens_per_second": 1024.0, "gradient_norm": 1.0}
        line |= {"learning_rate": 0.003}
        run.metrics.append(line | ({"skipped": True, "loss": None} if step == 7 else {}))
        if step % 5 == 0:
            line = {"step": step, "split": "validation", "tokens": 512 * step, "loss": 6.1 - 0.1 * step}
            run.metrics.append(line | {"bits_per_byte": 3.05 - 0.05 * step, "perplexity": 400.0})
    run.log("checks: 1 ok, 1 warn (1.0 s)")
    run.log("step 5: forecast: 2.4 bits per byte at the end [2.2, 2.6], by the curve")
    run.log("out of memory at step 9: micro-batch 8 -> 4 rows; the step is done again with the same tokens")
    run.log("resumed at step 10")
    run.samples.append({"step": STEPS, "prompt": "", "text": f"Era uma vez {HOSTILE} \x1b[2J"})


def _result(bits: float) -> dict[str, Any]:
    estimate = {"value": bits, "low": bits - 0.1, "high": bits + 0.1}
    loss = {"value": 4.1, "low": 4.0, "high": 4.2}
    data_usage = [{"source": HOSTILE, "tokens": 20_480, "epochs": 0, "seen": 10_240, "left": 10_240, "total": 10_240}]
    difference = {"predicted": 2.4, "actual": bits, "difference": bits / 2.4 - 1, "low": 2.2, "high": 2.6}
    return {
        "step": STEPS,
        "tokens": 512 * (STEPS - 1),
        "seconds": 66.0,
        "tokens_per_second": 1024.0,
        "peak_bytes": 2.0**29,
        "parameters": 50_000,
        "data": ["corpus"],
        "bits_per_byte": estimate,
        "loss": loss,
        "perplexity": {"value": 60.3, "low": 54.6, "high": 66.7},
        "baselines": [{"name": "xz -9", "bits_per_byte": 2.5, "explanation": "x"}],
        "evaluation": {
            "documents": 6,
            "validation_documents": 9,
            "bytes": 600,
            "tokens": 200,
            "words": 90,
            "loss": loss,
        },
        "data_usage": data_usage,
        "predicted": {"bits_per_byte": difference},
        "skipped_steps": 1,
    }
