"""Real sets with labels: what an encoder reaches over several seeds, and what each technique adds at an equal cost.

Usage: python bench/labels.py --models FOLDER --data FOLDER --out FILE [--sets sst2 trec_qc …] [--seeds 0 1 2 3 4]
       [--variants plain sam …] [--rows 1000] [--table]

FOLDER of models holds the encoders named in `SETS`; FOLDER of data a folder for each set with `train`, `dev` and `test`
as JSON Lines. FILE gets a line of JSON for each run as soon as it is known;
what is in FILE already is not run again, so that a stopped benchmark goes on. `--table` prints the tables of FILE and
runs nothing.

The reference is the linear model of the same run. A technique that costs two gradients a step gets half of the passes.
`--rows` takes the first so many training rows in the order of a hash of their text; all by default. The table of sets
gives the mean over seeds with Student's interval; that of techniques the mean difference from `plain`, paired by set
and seed, with the interval over all pairs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats


@dataclass(frozen=True)
class Set:
    """A set with labels.

    Attributes:
        folder: Its folder.
        model: The folder of the encoder.
        epochs: Passes over all of its training rows.
        metric: The figure that counts.
        words: Further words of the command.
        goal: What is wanted of it.
    """

    folder: str
    model: str
    epochs: float
    metric: str
    goal: float
    words: tuple[str, ...] = ()


SETS = {
    "sst2": Set("sst2", "minilm", 3, "accuracy", 0.90),
    "trec_qc": Set("trec_qc", "minilm", 5, "accuracy", 0.96),
    "banking77": Set("banking77", "minilm", 6, "accuracy", 0.93),
    "hatebr": Set("hatebr", "e5-en-pt", 4, "macro_f1", 0.89),
    "toldbr": Set("toldbr", "e5-en-pt", 3, "macro_f1", 0.76),
    "assin2-entailment": Set("assin2", "e5-en-pt", 5, "accuracy", 0.86, ("--label-column", "entailment")),
    "assin2-similarity": Set("assin2", "e5-en-pt", 5, "pearson", 0.83, ("--label-column", "score")),
}

VARIANTS: dict[str, tuple[tuple[str, ...], int]] = {
    "plain": ((), 1),
    "sam": (("--sam", ".05"), 2),
    "asam": (("--asam", ".5"), 2),
    "awp": (("--awp", ".001"), 2),
    "fgm": (("--fgm", "1"), 2),
    "r-drop": (("--r-drop", "1"), 2),
    "mixup": (("--mixup", ".2"), 1),
    "cutout": (("--cutout", ".1"), 1),
    "progressive": (("--progressive-length", ".5"), 1),
    "dropouts": (("--dropout-samples", "5"), 1),
    "dropout-losses": (("--dropout-samples", "5", "--technique.dropout-average", "losses"), 1),
    "unfreeze": (("--unfreeze", ".3"), 1),
    "layer-decay": (("--optimizer.layer-decay", ".9"), 1),
    "smoothing": (("--label-smoothing", ".1"), 1),
    "swa": (("--average.kind", "swa", "--average.start", ".5"), 1),
    "ema": (("--average.kind", "ema", "--average.decay", ".98"), 1),
    "mean": (("--head.pooling", "mean"), 1),
}
"""Flags of a technique, and gradients of a step."""


def read(path: Path) -> list[str]:
    """Return the lines of a file that may be compressed."""
    found = path if path.exists() else path.with_name(path.name + ".gz")
    opened = gzip.open if found.suffix == ".gz" else open
    with opened(found, "rt", encoding="utf8") as file:
        return [line for line in file if line.strip()]


def some(lines: list[str], count: int | None) -> list[str]:
    """Return the first so many lines in the order of a hash, so that a sorted file gives all classes."""
    ordered = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
    return ordered if count is None else ordered[:count]


def command(words: Iterable[object]) -> list[str]:
    """Run lavra and return what it printed as lines.

    Raises:
        RuntimeError: If it fails.
    """
    words = [sys.executable, "-m", "lavra", *map(str, words)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[2:8])} … ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()


def one_run(options: argparse.Namespace, name: str, variant: str, seed: int, home: Path) -> dict[str, Any]:
    """Return what one run reached."""
    chosen, (flags, gradients) = SETS[name], VARIANTS[variant]
    train, test, out = home / "train.jsonl", home / "test.jsonl", home / "run"
    train.write_text("".join(some(read(options.data / chosen.folder / "train.jsonl"), options.rows)), encoding="utf8")
    test.write_text("".join(read(options.data / chosen.folder / "test.jsonl")), encoding="utf8")
    epochs = (chosen.epochs if options.epochs is None else options.epochs) / gradients
    words = ["train", train, "--from", options.models / chosen.model, "--out", out, "--force", "--quiet", "--json"]
    began = time.monotonic()
    command([*words, *chosen.words, *flags, "--epochs", f"{epochs:g}", "--seed", seed])
    seconds = time.monotonic() - began
    found = json.loads(command(["evaluate", out, "--data", test, "--json", "--quiet"])[-1])
    result = json.loads((out / "result.json").read_text())
    linear = found.get("baseline_scores", {}).get("linear", {}).get(chosen.metric)
    return {
        "set": name,
        "variant": variant,
        "seed": seed,
        "rows": options.rows,
        "epochs": epochs,
        "metric": chosen.metric,
        "value": found[chosen.metric]["value"],
        "low": found[chosen.metric]["low"],
        "high": found[chosen.metric]["high"],
        "linear": None if linear is None else linear["value"],
        "delivers": result.get("delivers", "model"),
        "seconds": seconds,
    }


def interval(values: list[float]) -> tuple[float, float]:
    """Return half the width of Student's 95 % interval of a mean, and the mean."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return float("nan"), mean
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5, mean


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the tables of runs as text."""
    lines = [f"{'set':<20} {'variant':<15} {'rows':>6} {'seeds':>5} {'mean':>7} {'±':>6} {'linear':>7} {'goal':>6}"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["variant"], row["rows"]), []).append(row)
    for (name, variant, count), found in sorted(groups.items(), key=lambda one: (str(one[0][2]), one[0])):
        half, mean = interval([row["value"] for row in found])
        linear = "-" if found[0]["linear"] is None else f"{found[0]['linear']:.4f}"
        lines.append(
            f"{name:<20} {variant:<15} {count or 'all':>6} {len(found):>5} {mean:>7.4f} {half:>6.4f} {linear:>7} "
            f"{SETS[name].goal:>6.2f}"
        )
    plain = {(row["set"], row["seed"], row["rows"]): row["value"] for row in rows if row["variant"] == "plain"}
    gains: dict[str, list[float]] = {}
    for row in rows:
        key = row["set"], row["seed"], row["rows"]
        if row["variant"] != "plain" and key in plain:
            gains.setdefault(row["variant"], []).append(row["value"] - plain[key])
    if gains:
        lines += ["", f"{'technique':<15} {'pairs':>5} {'gain':>8} {'±':>7} {'better':>6} {'worse':>6}"]
    for variant, found in sorted(gains.items(), key=lambda one: -statistics.fmean(one[1])):
        half, mean = interval(found)
        better, worse = sum(gain > 0 for gain in found), sum(gain < 0 for gain in found)
        lines.append(f"{variant:<15} {len(found):>5} {mean:>+8.4f} {half:>7.4f} {better:>6} {worse:>6}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--epochs", type=float, help="passes over the rows, instead of those of each set")
    parser.add_argument("--table", action="store_true", help="print the tables of FILE")
    options = parser.parse_args()
    known = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.table:
        print(tables(known))
        return 0
    done = {(row["set"], row["variant"], row["seed"], row["rows"]) for row in known}
    for seed in options.seeds:
        for name in options.sets:
            for variant in options.variants:
                if (name, variant, seed, options.rows) in done:
                    continue
                with tempfile.TemporaryDirectory() as home:
                    row = one_run(options, name, variant, seed, Path(home))
                with options.out.open("a", encoding="utf8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{name} {variant} {seed}: {row['value']:.4f} in {row['seconds']:.0f} s", flush=True)
    print(tables([json.loads(line) for line in options.out.read_text().splitlines()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
