"""Planned and real time: `lavra plan` for each budget, then the training, from the start of the process to its end.

Usage: python bench/plan_time.py [TEXT] [--budgets 2m,5m,10m] [--seed 0] [--again] [--json]; by default a minute on the
installed documentation. Exits 1 unless every time is within a tenth. Run it on a machine that does nothing else: a plan
measures the speed that it finds.

Compared: seconds in all (start-up, preparing the text, compiling, steps, validations, the last evaluation), tokens
that the run got through, tokens per second, and the loss and bits per byte at the end beside the forecast's interval.
Results are appended to bench/results/plan_time.jsonl; what is there with the same settings is not run again unless
--again is given.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _runs import Kept, lanes, lavra, place_of
from lavra.core.progress import log
from lavra.core.units import parse_duration, show_duration

TOLERANCE = 0.1


def planned_and_real(text: str, budget: str, seed: int) -> dict[str, Any]:
    """Plan, train, and return both sides of every figure."""
    cores, words = lanes(parallel=False)[0], [text, "--budget", budget, "--seed", str(seed)]
    begin = time.monotonic()
    plan = lavra(["plan", *words], cores)
    planning = time.monotonic() - begin
    log(f"{budget}: planned in {show_duration(planning)}: {show_duration(plan['seconds'])} in all; training")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        run = lavra(["train", *words, "--out", str(Path(folder) / "run")], cores)
        seconds = time.monotonic() - begin
    forecast = plan["forecast"]
    figures = {
        "seconds": (plan["seconds"], seconds),
        "tokens": (plan["tokens"], run["tokens"]),
        "tokens_per_second": (plan["speed"]["tokens_per_second"], run["tokens_per_second"]),
        "loss": (forecast["loss"]["value"], _value(run["loss"])),
        "bits_per_byte": (forecast["bits_per_byte"]["value"], _value(run["bits_per_byte"])),
    }
    interval = forecast["bits_per_byte"]
    return {
        "planning_seconds": planning,
        "interval": [interval["low"], interval["high"]],
        "covered": interval["low"] <= figures["bits_per_byte"][1] <= interval["high"],
        "figures": {
            name: {"predicted": predicted, "actual": actual, "difference": actual / predicted - 1.0}
            for name, (predicted, actual) in figures.items()
        },
    }


def _value(figure: Any) -> float:
    return float(figure["value"] if isinstance(figure, dict) else figure)


def show(budget: str, found: dict[str, Any]) -> str:
    """Return the figures of a budget as lines."""
    low, high = found["interval"]
    lines = [f"{budget} (planned in {found['planning_seconds']:.0f} s)"]
    for name, figure in found["figures"].items():
        words = f"  {name:<18} predicted {figure['predicted']:>12,.4g}  actual {figure['actual']:>12,.4g}"
        lines.append(f"{words}  {figure['difference']:+7.1%}")
    lines.append(f"  bits per byte in [{low:.3f}, {high:.3f}]: {'yes' if found['covered'] else 'no'}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default="installed-docs:")
    parser.add_argument("--budgets", default="1m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    budgets = arguments.budgets.split(",")
    log(f"about {show_duration(sum(parse_duration(budget) + 60 for budget in budgets))} in all")
    kept, results = Kept("plan_time"), {}
    for budget in budgets:
        settings = {"text": place_of(arguments.text), "budget": budget, "seed": arguments.seed}
        found = None if arguments.again else kept.find(settings)
        results[budget] = found or kept.add(settings, planned_and_real(arguments.text, budget, arguments.seed))
        if not arguments.json:
            print(show(budget, results[budget]), flush=True)
    within = sum(abs(found["figures"]["seconds"]["difference"]) <= TOLERANCE for found in results.values())
    if arguments.json:
        print(json.dumps({"budgets": results, "within_a_tenth": within}))
    else:
        print(f"time: {within} of {len(budgets)} within {TOLERANCE:.0%}")
    return int(within < len(budgets))


if __name__ == "__main__":
    sys.exit(main())
