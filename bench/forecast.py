"""How good forecasts are: a ladder of small runs on each text, and longer runs that no fit has seen.

Usage: python bench/forecast.py FOLDER TEXT... [--repeats 10] [--small 600k] [--times 10] [--seeds 3] [--json]

For each prepared or raw TEXT: small runs (three sizes, two lengths, three seeds) and one held-out run of about
`--times` the compute of the largest of them. The law is fitted to subsets of the small runs, drawn anew `--repeats`
times. Reported: the absolute error of the held-out loss, how often the 90 % interval held it, and the built-in law's
error. Finished runs are kept in FOLDER, so that it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.progress import say
from lavra.core.run_folder import RunFolder, is_run
from lavra.core.units import parse_count
from lavra.data.prepare import open_prepared
from lavra.planning.builtin_law import law_for
from lavra.planning.law import Observation
from lavra.planning.observing import observations_of
from lavra.planning.survey import compressed_bits_per_byte, stretches
from lavra.recipes.config import ModelConfig, OptimizationConfig, TrainConfig
from lavra.recipes.pilot import pilot_law
from lavra.recipes.prepare import prepare_text
from lavra.recipes.train import train

SIZES = ((2, 64), (3, 96), (4, 128))
HELD_OUT = (4, 192)


@dataclass(frozen=True)
class Job:
    """One run."""

    name: str
    depth: int
    width: int
    tokens: int
    seed: int


def jobs(small: int, times: float, seeds: int) -> tuple[list[Job], Job]:
    """Return the small runs, and the one that is held out, with `times` the compute of the largest of them."""
    ladder = [
        Job(f"{depth}x{width}-{tokens}-{seed}", depth, width, tokens, seed)
        for depth, width in SIZES
        for tokens in (small // 3, small)
        for seed in range(seeds)
    ]
    per_size = (HELD_OUT[0] * HELD_OUT[1] ** 2) / (SIZES[-1][0] * SIZES[-1][1] ** 2)
    return ladder, Job("held-out", *HELD_OUT, int(times * small / min(per_size, 2.0)), 100)


def run_of(job: Job, folder: Path, data: Path, context: int) -> RunFolder:
    """Return a finished run, trained now if it was not."""
    path = folder / job.name
    if not (is_run(path) and RunFolder(path).status == "finished"):
        say(f"{folder.name}: {job.name}")
        train(
            TrainConfig(
                data=(str(data),),
                tokens=job.tokens,
                out=str(path),
                force=True,
                seed=job.seed,
                check=False,
                samples=0,
                keep_checkpoints=1,
                model=ModelConfig(depth=job.depth, width=job.width, heads=max(1, job.width // 64), context=context),
                optimization=OptimizationConfig(tokens_per_step=2048),
            )
        )
    return RunFolder(path)


def prepared(text: str, folder: Path) -> Path:
    """Return the prepared folder of a text, made now if it was not."""
    if (Path(text) / "train" / "manifest.json").exists():
        return Path(text)
    path = folder / "text"
    if not path.exists():
        from lavra.recipes.config import TextConfig

        prepare_text((text,), str(path), TextConfig(vocabulary=2048))
    return path


def measure(text: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what is left to do on one text, and return the errors."""
    folder.mkdir(parents=True, exist_ok=True)
    data = prepared(text, folder)
    ladder, held_out = jobs(parse_count(arguments.small), arguments.times, arguments.seeds)
    runs = [observations_of(run_of(job, folder, data, arguments.context)) for job in ladder]
    end = observations_of(run_of(held_out, folder, data, arguments.context))[0]
    compressed = compressed_bits_per_byte(stretches(open_prepared(data)))
    errors, covered = [], 0
    for repeat in range(arguments.repeats):
        drawn = np.random.default_rng(repeat).permutation(len(runs))[: max(3, 2 * len(runs) // 3)]
        seen: list[Observation] = [point for number in drawn for point in runs[number]]
        found = pilot_law(seen, compressed).forecast(end.parameters, end.text_bytes, seed=repeat)
        errors.append(found.value / end.bits_per_byte - 1.0)
        covered += found.low <= end.bits_per_byte <= found.high
    builtin = law_for(compressed).forecast(end.parameters, end.text_bytes)
    return {
        "text": text,
        "held_out_bits_per_byte": end.bits_per_byte,
        "compute_ratio": end.parameters
        * end.text_bytes
        / max(point.parameters * point.text_bytes for points in runs for point in points),
        "mean_absolute_error": statistics.fmean(map(abs, errors)),
        "largest_error": max(map(abs, errors)),
        "covered": covered,
        "repeats": arguments.repeats,
        "builtin_error": builtin.value / end.bits_per_byte - 1.0,
        "builtin_covers": builtin.low <= end.bits_per_byte <= builtin.high,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--small", default="600k")
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [
        measure(text, arguments.folder / f"{number}-{Path(text.rstrip('/:')).stem}", arguments)
        for number, text in enumerate(arguments.texts)
    ]
    if arguments.json:
        print(json.dumps({"forecasts": results}))
    for line in results if not arguments.json else ():
        held_out, ratio = line["held_out_bits_per_byte"], line["compute_ratio"]
        print(
            f"{line['text']}: held out {held_out:.3f} bits per byte at {ratio:.1f} times the compute: "
            f"error {line['mean_absolute_error']:.2%} (at most {line['largest_error']:.2%}), "
            f"covered {line['covered']} of {line['repeats']}; built-in law {line['builtin_error']:+.2%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
