"""What others do with the model of bench/gpu.sh: Trainer adapts it, and transformers writes with it beside lavra.

    python bench/_gpu_peers.py adapt MODEL TEXT.jsonl [--context 1024] [--rows 64,32,16,8,4] [--seconds 8]
    python bench/_gpu_peers.py generate MODEL PROMPTS.jsonl [--tokens 100] [--rounds 2]

Each prints its figures as a line of JSON, and an early line before what may take too long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _compare import compare
from _turns import Worker

SCRIPT = Path(__file__).with_name("_gpu_sides.py")
OURS = "lavra generate"
THEIRS = "transformers generate"


def adapt(options: argparse.Namespace) -> dict[str, Any]:
    """Return the speed of Trainer's steady steps, its memory, and the seconds of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "side": "Trainer",
            "model": options.model,
            "text": options.text,
            "context": options.context,
            "rows": options.rows,
            "device": options.device,
            "store": str(Path(folder) / "store"),
        }
        with Worker(SCRIPT, settings) as worker:
            turn = worker.turn(worker.steps_in(options.seconds))
            held = worker.close()
    rows = round(turn.tokens / turn.steps / options.context)
    return {
        "tokens_per_second": turn.speed,
        "peak_bytes": held["device_bytes"] or held["peak_bytes"],
        "steps": turn.steps,
        "rows": rows,
        "first_step_seconds": worker.ready["first_step_seconds"],
        "says": f"{rows} x {options.context} tokens, fused AdamW, bf16, not compiled",
    }


def generate(options: argparse.Namespace) -> dict[str, Any]:
    """Return the speed of lavra beside transformers, both warm, and the seconds of the command as a whole."""
    found: dict[str, Any] = {"process_seconds": of_command(options)}
    found["says"] = f"as a whole {found['process_seconds']:.1f} s"
    print(json.dumps(found), flush=True)
    settings = {
        "model": options.model,
        "prompts": options.prompts,
        "tokens": options.tokens,
        "device": options.device,
        "warm_up": 1,  # a step writes all texts
    }
    ours, *others = compare(SCRIPT, settings, OURS, [THEIRS], rounds=options.rounds, seconds=1.0)
    figures = ours.to_json()
    found |= {
        "tokens_per_second": figures["tokens_per_second"]["median"],
        "peak_bytes": figures["device_bytes"] or figures["peak_bytes"],
        "sides": [figures, *(side.to_json() for side in others)],
    }
    if others:
        found["ratio"] = found["sides"][1]["ours_is_faster_by"]["median"]
        found["says"] = f"{found['ratio']:.2f} times {THEIRS}, both warm; {found['says']}"
    return found


def of_command(options: argparse.Namespace) -> float:
    """Return the seconds that `lavra generate --in` takes from its start to its end."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = [options.model, "--in", options.prompts, "--out", str(Path(folder) / "texts.jsonl")]
        words += ["--max-new-tokens", str(options.tokens), "--min-new-tokens", str(options.tokens)]
        subprocess.run([sys.executable, "-m", "lavra", "generate", *words], check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began


def request(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    kinds = parser.add_subparsers(dest="kind", required=True)
    trainer = kinds.add_parser("adapt")
    trainer.add_argument("model")
    trainer.add_argument("text")
    trainer.add_argument("--context", type=int, default=1024)
    trainer.add_argument("--rows", type=_numbers, default="64,32,16,8,4", help="micro-batches, the largest first")
    trainer.add_argument("--seconds", type=float, default=8.0, help="of the steps that are timed")
    writing = kinds.add_parser("generate")
    writing.add_argument("model")
    writing.add_argument("prompts")
    writing.add_argument("--tokens", type=int, default=100, help="of each text")
    writing.add_argument("--rounds", type=int, default=2)
    return parser.parse_args(words)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> int:
    options = request()
    print(json.dumps({"adapt": adapt, "generate": generate}[options.kind](options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
