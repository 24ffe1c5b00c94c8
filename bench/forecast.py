"""How good forecasts are: a ladder of small runs on each text, and longer runs that no fit has seen.

Usage: python bench/forecast.py [TEXT...] [--repeats 10] [--small 600k] [--times 10] [--seeds 2] [--parallel]
           [--flops 25e9] [--folder FOLDER] [--json]

For each prepared or raw TEXT: small runs (three sizes, two lengths, some seeds) and one held-out run of about `--times`
the compute of the largest of them. The law is fitted to subsets of the small runs, drawn anew `--repeats` times.
Reported: the absolute error of the held-out loss, how often the 90 % interval held it, and the built-in law's error.
How long all will take is said first, reckoned from --flops, the FLOP/s that a lane of runs reaches in training.
Finished runs are kept in FOLDER, so that it goes on where it stopped. With --parallel, one run goes on on each core at
a time; lengths are in tokens, so losses do not depend on it. By default the installed documentation and runs far too
short to say much; three texts with --small 600k take half an hour on two cores.
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

from _results import folder as results_folder
from _results import record
from _runs import SETTING_UP, Job, run_all
from lavra.config.training import TextConfig
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.units import parse_count
from lavra.data.token_store.prepare import open_prepared
from lavra.models.spec import DecoderSpec
from lavra.planning.corpus_stats import compressed_bits_per_byte, stretches
from lavra.planning.machine.flops import training_flops_per_token
from lavra.planning.scaling_law.builtin import scaling_law_for
from lavra.planning.scaling_law.law import Observation
from lavra.planning.scaling_law.past_runs import observations_of
from lavra.workflows.datasets.preparation import prepare_text
from lavra.workflows.planning.pilot import pilot_law

SIZES = ((2, 64), (3, 96), (4, 128))
VALIDATION = (4, 192)
VOCABULARY = 2048


@dataclass(frozen=True)
class Ladder:
    """The runs on one text."""

    text: str
    folder: Path
    data: Path
    small: list[Job]
    validation_set: Job

    @property
    def jobs(self) -> list[Job]:
        """All of them."""
        return [self.validation_set, *self.small]


def ladder(text: str, folder: Path, arguments: argparse.Namespace) -> Ladder:
    """Return the small runs on a text, prepared now if it was not, and the one that is held out."""
    data, length = prepared(text, folder), parse_count(arguments.small)

    def job(name: str, shape: tuple[int, int], tokens: int, seed: int) -> Job:
        depth, width = shape
        heads, context = max(1, width // 64), arguments.context
        spec = DecoderSpec(vocabulary=VOCABULARY, context=context, depth=depth, width=width, heads=heads)
        sizes = {"depth": depth, "width": width, "heads": heads, "context": context}
        flags = [word for size, value in sizes.items() for word in (f"--model.{size}", str(value))]
        flags += ["--tokens", str(tokens), "--seed", str(seed), "--optimization.batch-tokens", "2048"]
        flags += ["--no-check", "--samples", "0", "--keep-checkpoints", "1"]
        seconds = tokens * training_flops_per_token(spec) / arguments.flops + SETTING_UP
        return Job(f"{folder.name}/{name}", [str(data), *flags], seconds)

    small = [
        job(f"{shape[0]}x{shape[1]}-{tokens}-{seed}", shape, tokens, seed)
        for shape in SIZES
        for tokens in (length // 3, length)
        for seed in range(arguments.seeds)
    ]
    per_size = (VALIDATION[0] * VALIDATION[1] ** 2) / (SIZES[-1][0] * SIZES[-1][1] ** 2)
    tokens = int(arguments.times * length / min(per_size, 2.0))
    validation_set = job(f"held-out-{tokens}", VALIDATION, tokens, 100)
    return Ladder(text, folder, data, small, validation_set)


def prepared(text: str, folder: Path) -> Path:
    """Return the prepared folder of a text, made now if it was not."""
    if (Path(text) / "train" / "manifest.json").exists():
        return Path(text)
    path = folder / "text"
    if not path.exists():
        prepare_text((text,), str(path), TextConfig(vocabulary=VOCABULARY))
    return path


def is_finished(job: Job, folder: Path) -> bool:
    """Say whether a run was done before."""
    path = folder / job.name
    return is_run(path) and RunFolder(path).status == "finished"


def errors_of(runs: Ladder, folder: Path, repeats: int) -> dict[str, Any]:
    """Return how far forecasts from the small runs on one text were from the one that is held out."""
    small = [observations_of(RunFolder(folder / job.name)) for job in runs.small]
    end = observations_of(RunFolder(folder / runs.validation_set.name))[0]
    compressed = compressed_bits_per_byte(stretches(open_prepared(runs.data)))
    errors, covered = [], 0
    for repeat in range(repeats):
        drawn = np.random.default_rng(repeat).permutation(len(small))[: max(3, 2 * len(small) // 3)]
        seen: list[Observation] = [point for number in drawn for point in small[number]]
        found = pilot_law(seen, compressed).forecast(end.parameters, end.text_bytes, end.start, repeat)
        errors.append(found.value / end.bits_per_byte - 1.0)
        covered += found.low <= end.bits_per_byte <= found.high
    builtin = scaling_law_for(compressed).forecast(end.parameters, end.text_bytes, end.start)
    largest = max(point.parameters * point.text_bytes for points in small for point in points)
    return {
        "text": runs.text,
        "validation_bits_per_byte": end.bits_per_byte,
        "compute_ratio": end.parameters * end.text_bytes / largest,
        "mean_absolute_error": statistics.fmean(map(abs, errors)),
        "largest_error": max(map(abs, errors)),
        "covered": covered,
        "repeats": repeats,
        "builtin_error": builtin.value / end.bits_per_byte - 1.0,
        "builtin_covers": builtin.low <= end.bits_per_byte <= builtin.high,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=["installed-docs:"])
    parser.add_argument("--folder", type=Path, default=results_folder() / "forecast", help="for the runs")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--small", default="60k", help="tokens of the longer small runs")
    parser.add_argument("--times", type=float, default=10.0, help="compute of the held-out run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--flops", type=float, default=25e9, help="FLOP/s of a lane, for saying how long it takes")
    parser.add_argument("--parallel", action="store_true", help="one run on each core at a time")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    ladders = []
    for number, text in enumerate(arguments.texts):
        folder = arguments.folder / f"{number}-{Path(text.rstrip('/:')).stem}"
        folder.mkdir(parents=True, exist_ok=True)
        ladders.append(ladder(text, folder, arguments))
    left = [job for runs in ladders for job in runs.jobs if not is_finished(job, arguments.folder)]
    run_all(left, arguments.folder, arguments.parallel)
    results = [errors_of(runs, arguments.folder, arguments.repeats) for runs in ladders]
    record("forecast", {"forecasts": results})
    print(json.dumps({"forecasts": results}) if arguments.json else "\n".join(map(line_of, results)))
    return 0


def line_of(found: dict[str, Any]) -> str:
    """Return the errors on one text in a line."""
    return (
        f"{found['text']}: held out {found['validation_bits_per_byte']:.3f} bits per byte at "
        f"{found['compute_ratio']:.1f} times the compute: error {found['mean_absolute_error']:.2%} (at most "
        f"{found['largest_error']:.2%}), covered {found['covered']} of {found['repeats']}; built-in law "
        f"{found['builtin_error']:+.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
