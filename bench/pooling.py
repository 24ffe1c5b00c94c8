"""From how many labels on is the first token as good a pooling as the mean, once an encoder is tuned?

Usage: python bench/pooling.py --model FOLDER --train FILE --test FILE [--rows 100,250,500,1000,2000] [--seeds 0,1,2]
       [--epochs 5] [--poolings first,mean] [--json]

FOLDER is an encoder that `transformers` opens; the files are JSON Lines with `text` and `label`. Each number of rows
takes the first so many training rows in the order of a hash of their text, so that smaller parts lie in larger ones.

Every run is an ordinary `lavra train` on all of these rows for so many passes, with and without a head that begins
fitted on frozen features (--head.probe), since the two go together in the default for few texts. It is measured on the
test rows. The table gives the accuracy by seed and its mean; the rule `FEW_TEXTS` of `lavra.workflows.models.task_head`
should be the number of rows from which on the first token is no longer behind on several sets and models. A run takes
about a minute for 500 short texts on two cores: the whole table for one set and model is some hours.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _results import record
from _runs import lavra


def rows_of(path: Path) -> list[str]:
    """Return the lines of a file in the order of a hash of their text."""
    lines = [line for line in path.read_text(encoding="utf8").splitlines() if line.strip()]
    return sorted(lines, key=lambda line: hashlib.sha256(json.loads(line)["text"].encode()).digest())


def accuracy(options: argparse.Namespace, home: Path, rows: int, pooling: str, probe: bool, seed: int) -> float:
    """Return the accuracy on the test rows of one run."""
    data, out = home / f"{rows}.jsonl", home / "run"
    data.write_text("\n".join(rows_of(options.train)[:rows]) + "\n", encoding="utf8")
    cores = frozenset(os.sched_getaffinity(0))
    words = ["train", str(data), "--from", str(options.model), "--out", str(out), "--force", "--no-check"]
    words += ["--text.validation-share", "0", "--epochs", str(options.epochs), "--seed", str(seed)]
    words += ["--head.pooling", pooling, "--head.probe" if probe else "--head.no-probe"]
    lavra(words, cores)
    found = lavra(["evaluate", str(out), "--data", str(options.test)], cores)
    return float(found["accuracy"]["value"])


def main() -> None:
    """Train and measure, and print a line for each number of rows, pooling and beginning of the head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--rows", default="100,250,500,1000,2000")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--poolings", default="first,mean")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes, seeds = ([int(one) for one in text.split(",")] for text in (options.rows, options.seeds))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows, pooling, probe in itertools.product(sizes, options.poolings.split(","), (True, False)):
            values = [accuracy(options, Path(folder), rows, pooling, probe, seed) for seed in seeds]
            mean = statistics.fmean(values)
            found.append({"rows": rows, "pooling": pooling, "probe": probe, "accuracy": values, "mean": mean})
            shown = " ".join(f"{value:.3f}" for value in values)
            if not options.json:
                print(
                    f"{rows:>6,} rows  {pooling:<5} {'fitted head' if probe else 'random head':<11} {mean:.3f}  {shown}"
                )
    settings = {"model": options.model.name, "train": str(options.train), "epochs": options.epochs}
    record("pooling", {**settings, "runs": found})
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
