"""A pretrained encoder tuned on labels: time, speed and accuracy, beside Hugging Face's Trainer on the same rows.

Usage: python bench/classification.py --model FOLDER --train FILE --test FILE [--epochs 3] [--seeds 0] [--rows 4000]
       [--peers max,longest] [--rate 5e-5] [--json]

FOLDER is an encoder that `transformers` opens; the files are JSON Lines with `text` and `label`. `--rows` takes the
first so many training rows, in the order of a hash of their text.

lavra trains for the same number of epochs with its own defaults. Trainer takes 32 texts a step, bf16 where the
processor has it, and pads every text to 128 tokens (max, the default of its example) or to the longest of its batch
(longest). "time" is the whole life of the process, start-up, reading and evaluation included; "examples/s" is that of
the training alone. The accuracy on the test rows is that of one measure for all sides.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _results import record

HERE = Path(__file__).parent
CONTEXT, BATCH = 128, 32


def run(words: list[str]) -> tuple[float, dict[str, Any]]:
    """Run a program; return the seconds of its life, and the last line that it printed as JSON.

    Raises:
        RuntimeError: If it fails.
    """
    began = time.monotonic()
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[:5])} … ended with {done.returncode}:\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    return time.monotonic() - began, json.loads(lines[-1]) if lines else {}


def ours(options: argparse.Namespace, home: Path, train: Path, seed: int) -> dict[str, Any]:
    """Return the figures of lavra."""
    out = home / "run"
    words = [sys.executable, "-m", "lavra", "train", str(train), "--from", str(options.model), "--out", str(out)]
    words += ["--epochs", str(options.epochs), "--seed", str(seed), "--force", "--json", "--quiet"]
    seconds, _ = run(words)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    speeds = sorted(line["tokens_per_second"] for line in lines if line["split"] == "train" and line["step"] > 2)
    test = [sys.executable, "-m", "lavra", "evaluate", str(out), "--data", str(options.test), "--json", "--quiet"]
    _, found = run(test)
    return {
        "seconds": seconds,
        "examples_per_second": speeds[len(speeds) // 2],
        "accuracy": found["accuracy"],
        "linear": found["baseline_scores"].get("linear", {}).get("accuracy"),
    }


def peer(options: argparse.Namespace, train: Path, padding: str, seed: int) -> dict[str, Any]:
    """Return the figures of Trainer with one way of padding."""
    settings = {
        "model": str(options.model),
        "train": str(train),
        "test": str(options.test),
        "context": CONTEXT,
        "padding": padding,
        "rows": BATCH,
        "epochs": options.epochs,
        "learning_rate": options.rate,
        "bf16": options.bf16,
        "seed": seed,
    }
    seconds, said = run([sys.executable, str(HERE / "_classification_trainer.py"), json.dumps(settings)])
    return {"seconds": seconds, **said}


def some_rows(path: Path, count: int | None, home: Path) -> Path:
    """Return a file of some rows of another, by a hash of their text, so that a sorted file gives all classes."""
    if count is None:
        return path
    lines = [line for line in path.read_text(encoding="utf8").splitlines() if line.strip()]
    lines.sort(key=lambda line: hashlib.sha256(line.encode()).digest())
    out = home / "train.jsonl"
    out.write_text("\n".join(lines[:count]) + "\n", encoding="utf8")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate of the peer")
    parser.add_argument("--peers", default="max,longest", help="of max, longest; empty for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--no-bf16", dest="bf16", action="store_false", help="let the peer compute in fp32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        train = some_rows(options.train, options.rows, home)
        for seed in options.seeds:
            row = {"train": options.train.name, "model": options.model.name, "epochs": options.epochs, "seed": seed}
            row |= {"rows": options.rows, "lavra": ours(options, home, train, seed)}
            row["trainer"] = {name: peer(options, train, name, seed) for name in options.peers.split(",") if name}
            record("classification", row)
            print(json.dumps(row) if options.json else table(row), flush=True)
    return 0


def table(row: dict[str, Any]) -> str:
    """Return the figures as lines for people."""
    lines = [f"{row['train']}, {row['model']}, {row['epochs']:g} epochs, seed {row['seed']}"]
    lines.append(f"{'':<16} {'time':>8} {'examples/s':>11} {'accuracy':>9}")
    accuracy = row["lavra"]["accuracy"]
    interval = f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
    sides = {"lavra": {**row["lavra"], "accuracy": accuracy["value"]}}
    sides |= {f"Trainer {name}": side for name, side in row["trainer"].items()}
    for name, side in sides.items():
        speed = f"{side['examples_per_second']:>11.1f}"
        more = interval if name == "lavra" else f"{side['seconds'] / row['lavra']['seconds']:.2f} times the time"
        lines.append(f"{name:<16} {side['seconds']:>6.0f} s {speed} {side['accuracy']:>9.3f} {more}")
    if row["lavra"]["linear"]:
        lines.append(f"{'linear baseline':<16} {'':>8} {'':>11} {row['lavra']['linear']['value']:>9.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
