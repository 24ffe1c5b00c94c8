"""How good the plan's choice is: the best of a random search at a budget, beside what the plan chooses by itself.

Usage: python bench/plan_search.py FOLDER TEXT [--budget 5m] [--trials 20] [--seed 0] [--json]

Every trial is `lavra train TEXT --budget …` with another shape, vocabulary and batch; the plan's own choice is trained
`--repeats` times with other seeds. Reported: bits per byte of all, and by how much the plan is behind the best.
Finished runs are kept in FOLDER, so that it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from lavra.core.progress import say
from lavra.core.run_folder import RunFolder, is_run
from lavra.core.units import parse_duration
from lavra.recipes.config import ModelConfig, OptimizationConfig, TextConfig, TrainConfig
from lavra.recipes.train import train


def configuration(generator: random.Random) -> dict[str, int]:
    """Return a random shape, vocabulary and batch, of those that a person might try."""
    width = generator.choice((64, 96, 128, 192, 256, 320))
    context = generator.choice((128, 256, 512))
    return {
        "depth": generator.choice((2, 3, 4, 5, 6, 8)),
        "width": width,
        "context": context,
        "vocabulary": generator.choice((1024, 2048, 4096, 8192)),
        "tokens_per_step": max(context, generator.choice((1024, 2048, 4096, 8192))),
    }


def bits_of(name: str, arguments: argparse.Namespace, shape: dict[str, int] | None, seed: int) -> float:
    """Return the bits per byte of a run, trained now if it was not."""
    path = arguments.folder / name
    if not (is_run(path) and RunFolder(path).status == "finished"):
        say(f"{name}: {shape or 'the plan chooses'}")
        given: dict[str, Any] = {}
        if shape is not None:
            given = {
                "text": TextConfig(vocabulary=shape["vocabulary"]),
                "optimization": OptimizationConfig(tokens_per_step=shape["tokens_per_step"]),
                "model": ModelConfig(
                    depth=shape["depth"],
                    width=shape["width"],
                    heads=max(1, shape["width"] // 64),
                    context=shape["context"],
                ),
            }
        train(
            TrainConfig(
                data=(arguments.text,),
                budget=parse_duration(arguments.budget),
                out=str(path),
                force=True,
                seed=seed,
                check=False,
                samples=0,
                keep_checkpoints=1,
                **given,
            )
        )
    figure = RunFolder(path).result["bits_per_byte"]
    return float(figure["value"] if isinstance(figure, dict) else figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", help="raw text, since vocabularies differ between trials")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(arguments.seed)
    shapes = [configuration(generator) for _ in range(arguments.trials)]
    found = [bits_of(f"trial-{number:02d}", arguments, shape, number) for number, shape in enumerate(shapes)]
    chosen = [bits_of(f"plan-{seed}", arguments, None, seed) for seed in range(arguments.repeats)]
    best = min(found)
    report = {
        "trials": [{**shape, "bits_per_byte": bits} for shape, bits in zip(shapes, found, strict=True)],
        "plan": chosen,
        "best": best,
        "behind": statistics.fmean(chosen) / best - 1.0,
    }
    if arguments.json:
        print(json.dumps(report))
    else:
        for line in sorted(report["trials"], key=lambda trial: trial["bits_per_byte"]):
            print("  ".join(f"{name} {value}" for name, value in line.items()))
        print(
            f"the plan: {', '.join(f'{bits:.4f}' for bits in chosen)}; best of {len(found)}: {best:.4f}; "
            f"behind by {report['behind']:+.2%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
