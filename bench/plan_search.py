"""How good the plan's choice is: the best of a random search at a budget, beside what the plan chooses by itself.

Usage: python bench/plan_search.py [TEXT] [--budget 5m] [--plan-budgets 5m,15m] [--trials 20] [--repeats 2] [--seed 0]
           [--parallel] [--folder FOLDER] [--json]

By default two trials of half a minute on the installed documentation; over an hour, on two cores:

    python bench/plan_search.py mytext/ --budget 5m --plan-budgets 5m,15m --trials 20 --parallel

Every trial is `lavra train TEXT --budget …` with another shape, vocabulary and batch; the plan's own choice is trained
`--repeats` times with other seeds at each of `--plan-budgets`. Reported: bits per byte of all, and by how much the plan
is behind the best trial. Each vocabulary's text is prepared once, before any budget begins to count.

With --parallel, as many runs go on at a time as there are cores, each on one core with one thread, the plan's own
among them, which chooses for one core. So all are compared under the same conditions, in a fraction of the time.
Results are appended to bench/results/plan_search.jsonl; what is there with the same settings is not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from _results import folder as results_folder
from _runs import SETTING_UP, Job, Kept, bits_of, lanes, lavra, place_of, run_all
from lavra.core.units import parse_duration

_WITHOUT = ("--no-check", "--samples", "0", "--keep-checkpoints", "1")
_FIGURES = ("seconds", "tokens", "tokens_per_second", "parameters", "loss")


def configuration(generator: random.Random) -> dict[str, int]:
    """Return a random shape, vocabulary and batch, of those that a person might try."""
    width = generator.choice((64, 96, 128, 192, 256, 320))
    context = generator.choice((128, 256, 512))
    return {
        "depth": generator.choice((2, 3, 4, 5, 6, 8)),
        "width": width,
        "context": context,
        "vocabulary": generator.choice((1024, 2048, 4096, 8192)),
        "batch_tokens": max(context, generator.choice((1024, 2048, 4096, 8192))),
    }


def job(name: str, arguments: argparse.Namespace, budget: str, shape: dict[str, int] | None, seed: int) -> Job:
    """Return a run with a shape, or, without one, with what the plan chooses."""
    settings = {
        "text": place_of(arguments.text),
        "budget": parse_duration(budget),
        "shape": shape,
        "seed": seed,
        "cores": len(lanes(arguments.parallel)[0]),
    }
    data, flags = arguments.text, ["--budget", budget, "--seed", str(seed), *_WITHOUT]
    if shape is not None:
        data = str(prepared_folder(arguments.folder, shape["vocabulary"]))
        flags += ["--optimization.batch-tokens", str(shape["batch_tokens"])]
        heads = max(1, shape["width"] // 64)
        for flag, value in {**{key: shape[key] for key in ("depth", "width", "context")}, "heads": heads}.items():
            flags += [f"--model.{flag}", str(value)]
    return Job(name, [data, *flags], parse_duration(budget) + SETTING_UP, settings)


def prepared_folder(folder: Path, vocabulary: int) -> Path:
    """Return where the text lies, tokenised with so large a vocabulary."""
    return folder / f"text-{vocabulary}"


def prepare(arguments: argparse.Namespace, jobs: list[Job]) -> None:
    """Tokenise the text once for each vocabulary of the runs to do."""
    every = lanes(parallel=False)[0]
    for vocabulary in sorted({one.settings["shape"]["vocabulary"] for one in jobs if one.settings["shape"]}):
        out = prepared_folder(arguments.folder, vocabulary)
        if not (out / "train" / "manifest.json").exists():
            words = ["prepare", arguments.text, "--out", str(out), "--text.vocabulary", str(vocabulary)]
            lavra(words, every)


def report(jobs: list[Job], kept: Kept) -> dict[str, Any]:
    """Return the figures of all runs, best trial first."""
    lines = [(one, found) for one in jobs if (found := kept.find(one.settings)) is not None]
    trials = [
        {**one.settings["shape"], "bits_per_byte": found["bits_per_byte"]}
        for one, found in lines
        if one.settings["shape"]
    ]
    trials.sort(key=lambda trial: trial["bits_per_byte"])
    best = trials[0]["bits_per_byte"]
    plans: dict[float, list[dict[str, Any]]] = {}
    for one, found in lines:
        if one.settings["shape"] is None:
            plans.setdefault(one.settings["budget"], []).append(found)
    chosen = [
        {
            "budget_seconds": budget,
            "chosen": found[0]["chosen"],
            "bits_per_byte": [line["bits_per_byte"] for line in found],
            "behind": statistics.fmean(line["bits_per_byte"] for line in found) / best - 1.0,
        }
        for budget, found in sorted(plans.items())
    ]
    return {"trials": trials, "best": best, "plan": chosen}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="installed-docs:", help="raw: vocabularies differ between trials")
    parser.add_argument(
        "--folder", type=Path, default=results_folder() / "plan_search", help="for the runs and prepared text"
    )
    parser.add_argument("--budget", default="30s", help="of every trial")
    parser.add_argument("--plan-budgets", default=None, help="of the plan's own runs; that of the trials by default")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="seeds of the plan's own runs")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--parallel", action="store_true", help="one run on each core at a time")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.folder /= Path(arguments.text.rstrip("/:")).stem
    generator = random.Random(arguments.seed)
    jobs = [
        job(f"trial-{number:02d}", arguments, arguments.budget, configuration(generator), number)
        for number in range(arguments.trials)
    ]
    for budget in (arguments.plan_budgets or arguments.budget).split(","):
        jobs += [job(f"plan-{budget}-{seed}", arguments, budget, None, seed) for seed in range(arguments.repeats)]
    kept = Kept("plan_search")
    left = [one for one in jobs if kept.find(one.settings) is None]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    prepare(arguments, left)

    def keep(one: Job, result: dict[str, Any]) -> None:
        plan = json.loads((Path(result["run"]) / "plan.json").read_text())
        chosen = {**{key: plan["model"][key] for key in ("depth", "width", "context", "vocabulary")}}
        chosen["batch_tokens"] = plan["batch_tokens"]
        figures = {key: result.get(key) for key in _FIGURES}
        kept.add(one.settings, {"bits_per_byte": bits_of(result), "chosen": chosen, **figures})

    run_all(left, arguments.folder, arguments.parallel, keep)
    found = report(jobs, kept)
    print(json.dumps(found) if arguments.json else show(found))
    return 0


def show(found: dict[str, Any]) -> str:
    """Return the report as lines."""
    lines = ["  ".join(f"{name} {value}" for name, value in trial.items()) for trial in found["trials"]]
    for plan in found["plan"]:
        bits = ", ".join(f"{one:.4f}" for one in plan["bits_per_byte"])
        lines.append(
            f"the plan for {plan['budget_seconds']:.0f} s chose {plan['chosen']}: {bits} bits per byte; best of "
            f"{len(found['trials'])} trials {found['best']:.4f}; behind by {plan['behind']:+.2%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
