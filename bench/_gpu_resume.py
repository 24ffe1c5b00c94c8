"""A run killed with SIGKILL in the middle and resumed, against one never stopped, on the device that is there.

    python bench/_gpu_resume.py TEXT.jsonl FOLDER --steps 120 [-- WORDS …]      WORDS as of `lavra train`

Prints whether the final weights are the same bits, as a line of JSON; exits 1 unless they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _gpu_figures import read_lines, read_object
from kill import fingerprint

MEASURED = ("probe", "forecast")
"""Parts of a plan that are measurements, and differ between two plans of the same run."""


def lavra(*words: str, fault: str = "") -> int:
    """Run a lavra command, whose words are seen, and return its exit code."""
    environment = os.environ | {"LAVRA_FAULT": fault}
    command = [sys.executable, "-m", "lavra", *words]
    print("$ lavra", *words, f"(LAVRA_FAULT={fault})" if fault else "", flush=True)
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def needed(code: int, what: str) -> None:
    """Raise SystemExit where a command failed."""
    if code:
        raise SystemExit(f"{what} ended with {code}")


def same_plan(one: Path, other: Path) -> bool:
    """Say whether two runs did the same, their measurements aside: else their bits need not be equal."""
    plans = [read_object(run / "plan.json") for run in (one, other)]
    left, right = ({name: value for name, value in plan.items() if name not in MEASURED} for plan in plans)
    return left == right


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train twice and compare."""
    folder = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    data, whole, killed = folder / "data", folder / "whole", folder / "killed"
    vocabulary = ["--text.vocabulary", str(options.vocabulary)]
    needed(lavra("prepare", options.text, "--out", str(data), *vocabulary, "--quiet"), "preparing the text")
    words = ["train", str(data), "--steps", str(options.steps), "--samples", "0", "--no-check", *options.words, "--out"]
    needed(lavra(*words, str(whole)), "the run that is not stopped")
    at = max(1, options.steps // 2)
    code = lavra(*words, str(killed), fault=f"step.apply:{at}:kill")
    if code != -signal.SIGKILL:
        raise SystemExit(f"the run that was to be killed ended with {code}")
    reached = max((line.get("step", 0) for line in read_lines(killed / "metrics.jsonl")), default=0)
    needed(lavra("resume", str(killed)), "the resumed run")
    expected, found = fingerprint(whole), fingerprint(killed)
    result = read_object(whole / "result.json")
    equal, metrics = expected["weights"] == found["weights"], expected["metrics"] == found["metrics"]
    plans = same_plan(whole, killed)
    says = "the same bits" if equal else "DIFFERENT BITS" + ("" if plans else " (and different plans)")
    return {
        "equal_weights": equal,
        "equal_metrics": metrics,
        "same_plan": plans,
        "killed_after_step": reached,
        "steps": result.get("step"),
        "bad_steps": result.get("skipped_steps"),
        "tokens_per_second": result.get("tokens_per_second"),
        "peak_bytes": result.get("peak_bytes"),
        "says": f"{says} after SIGKILL at step {reached}" + ("" if metrics else "; metrics differ"),
    }


def request(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("folder", type=Path, help="made anew")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--vocabulary", type=int, default=8192)
    words = list(sys.argv[1:] if words is None else words)
    place = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:place])
    options.words = words[place + 1 :]
    return options


def main() -> int:
    found = measure(request())
    print(json.dumps(found))
    return int(not found["equal_weights"])


if __name__ == "__main__":
    sys.exit(main())
