"""What a run spends besides its steps: start-up cold and warm, resume, checkpoints, data, evaluation.

Usage: python bench/run_times.py [TEXT…] [--model lavra-9m] [--steps 30] [--rounds 2] [--json]; by default Python's own
help topics. Real `lavra train` and `lavra resume` commands with a stopwatch inside. Cold is the first run with an empty
compiler cache; warm runs have the same shape, and must be through their first step, which waits for the compiler, in
10 s. The resumed run was killed after three quarters of its steps. Checkpoints come as often as in any run, 20 of them,
so a run this short waits for them more than a longer one. Times count from the start of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _results import Spread, record

WATCHED = Path(__file__).with_name("_watched.py")
WANTED = {
    "warm_first_step_done": 10.0,
    "resumed_first_step_began": 3.0,
    "checkpoint_stall_share": 0.02,
    "data_wait_share": 0.005,
}
LABELS = {
    "cold_first_step_began": "cold start: first step begins, s",
    "cold_first_step_done": "cold start: first step is done, s",
    "warm_first_step_began": "warm start: first step begins, s",
    "warm_first_step_done": "warm start: first step is done, s",
    "resumed_first_step_began": "resume: training goes on, s",
    "resumed_first_step_done": "resume: first step is done, s",
    "checkpoint_stall_share": "share of time waiting for checkpoints",
    "checkpoint_wait_seconds": "wait for one checkpoint, s",
    "data_wait_share": "share of time waiting for data",
    "evaluation_tokens_per_second": "final evaluation, tokens/s",
    "training_tokens_per_second": "training beside it, tokens/s",
}


def watched(words: Sequence[str], folder: Path, *, fault: str = "") -> dict[str, Any]:
    """Run a lavra command under the stopwatch and return what it said; empty when it was killed, as `fault` asks."""
    report = folder / "watch.json"
    report.unlink(missing_ok=True)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiler"), "LAVRA_FAULT": fault}
    done = subprocess.run(
        [sys.executable, str(WATCHED), str(report), str(time.time()), *words, "--quiet"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if fault and done.returncode == -signal.SIGKILL:
        return {}
    if done.returncode:
        raise RuntimeError(f"lavra {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(report.read_text())


def prepared(texts: Sequence[str], folder: Path) -> str:
    """Tokenise the texts, or Python's help topics, and return the prepared folder."""
    if not texts:
        from pydoc_data.topics import topics

        (folder / "topics").mkdir()
        for name, topic in topics.items():
            (folder / "topics" / f"{name.replace('/', '_')}.txt").write_text(topic, encoding="utf8")
        texts = [str(folder / "topics")]
    data = str(folder / "prepared")
    subprocess.run(
        [sys.executable, "-m", "lavra", "prepare", *texts, "--out", data, "--text.vocabulary", "4096", "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return data


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do the runs and return what they took."""
    data = prepared(arguments.texts, folder)
    words = f"--model {arguments.model} --steps {arguments.steps} --compile yes --samples 0 --force".split()
    train = ["train", data, *words, "--out"]
    cold = [watched([*train, str(folder / "cold")], folder)]
    warm = []
    for _ in range(arguments.rounds):
        said = watched([*train, str(folder / "warm")], folder)
        evaluation = json.loads((folder / "warm" / "result.json").read_text())["evaluation"]
        warm.append(said | {"evaluation_tokens_per_second": evaluation["tokens_per_second"]})
    killed = folder / "killed"
    at = max(1, 3 * arguments.steps // 4)
    watched([*train, str(killed), "--no-check"], folder, fault=f"step.apply:{at}:kill")
    resumed = []
    for number in range(arguments.rounds):
        copy = folder / f"resumed-{number}"
        shutil.copytree(killed, copy)
        resumed.append(watched(["resume", str(copy)], folder))
    tokens = json.loads((folder / "warm" / "plan.json").read_text())["batch_tokens"]
    return {
        "model": arguments.model,
        "steps": arguments.steps,
        "figures": figures(cold, warm, resumed, tokens),
    }


def figures(
    cold: Sequence[dict[str, Any]],
    warm: Sequence[dict[str, Any]],
    resumed: Sequence[dict[str, Any]],
    batch_tokens: int,
) -> dict[str, dict[str, float | int]]:
    """Return the spread of every figure of `LABELS`, from what the stopwatch said of each kind of run."""
    found: dict[str, list[float]] = {}
    for name, runs in (("cold", cold), ("warm", warm), ("resumed", resumed)):
        for moment in ("first_step_began", "first_step_done"):
            found[f"{name}_{moment}"] = [run[moment] for run in runs]
    # The loop's seconds leave out its first step, which the compiler takes part in.
    found["checkpoint_stall_share"] = [run["checkpoint_wait_seconds"] / run["loop_seconds"] for run in warm]
    found["checkpoint_wait_seconds"] = [run["checkpoint_wait_seconds"] / run["checkpoints"] for run in warm]
    found["data_wait_share"] = [run["data_wait_seconds"] / run["loop_seconds"] for run in warm]
    found["evaluation_tokens_per_second"] = [run["evaluation_tokens_per_second"] for run in warm]
    found["training_tokens_per_second"] = [batch_tokens * (run["steps"] - 1) / run["loop_seconds"] for run in warm]
    return {name: Spread.of(found[name]).to_json() for name in LABELS}


def table(result: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f"{result['model']}, {result['steps']} steps"]
    for name, label in LABELS.items():
        figure, wanted = result["figures"][name], WANTED.get(name)
        goal = f"  wanted: under {wanted:g}" if wanted else ""
        lines.append(
            f"{label:<38} {shown(figure['median'])}  ({shown(figure['low'])} to {shown(figure['high'])}){goal}"
        )
    return "\n".join(lines)


def shown(value: float) -> str:
    """Return a number with three figures, or more where it has more before the point."""
    return f"{value:>9,.0f}" if value >= 100 else f"{value:>9.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--model", default="lavra-9m")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    record("run_times", result)
    print(json.dumps({"run_times": result}) if arguments.json else table(result))
    return int(result["figures"]["warm_first_step_done"]["median"] > WANTED["warm_first_step_done"])


if __name__ == "__main__":
    sys.exit(main())
