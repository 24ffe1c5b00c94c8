"""Kill a training run with SIGKILL at random moments, resume it, and compare it bit by bit with one never stopped.

Usage: python bench/kill.py [--times 50] [--seed 0] [--optimizer muon] [--json]; exits 1 unless every trial ends in the
same bits.

Moments: inside a step, inside a validation, inside the writing of a checkpoint (at fault points compiled into the
program), and at a random time chosen by the clock, from the first import to the last line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 24
VALIDATIONS = 1
CHECKPOINTS = 6
MOMENTS = {
    "step.backward": 2 * STEPS,
    "step.apply": STEPS,
    "validation": VALIDATIONS,
    "checkpoint.half_file": CHECKPOINTS,
    "checkpoint.before_manifest": CHECKPOINTS,
    "checkpoint.before_rename": CHECKPOINTS,
    "checkpoint.after_rename": CHECKPOINTS,
}
"""Fault points, and how often a run of `STEPS` steps comes by."""

_IGNORED = ("tokens_per_second",)


def lavra(*words: str, fault: str = "", threads: int = 1) -> subprocess.Popen[bytes]:
    """Start a lavra command."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LAVRA_FAULT": fault}
    return subprocess.Popen(
        [sys.executable, "-m", "lavra", *words, "--quiet"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def train_words(data: Path, run: Path, optimizer: str = "muon") -> list[str]:
    """Return the command that trains the small model of the trials, with an optimiser by its name."""
    words = (
        f"--steps {STEPS} --checkpoint-every {STEPS // CHECKPOINTS} --model.depth 2 --model.width 32 --model.heads 2"
    )
    more = (
        "--model.context 64 --optimization.batch-tokens 512 --machine.micro-batch-size 4 --average.kind ema --samples 0"
    )
    chosen = ["--optimizer", optimizer, "--stability.every", "5"]
    if optimizer == "schedule-free-adamw":
        more = more.replace("--average.kind ema ", "")  # it averages by itself
    return ["train", str(data), "--out", str(run), *words.split(), *more.split(), *chosen]


def prepare(folder: Path) -> Path:
    """Tokenise some text that every Python has, and return the prepared folder."""
    from pydoc_data.topics import topics

    text = folder / "text"
    text.mkdir(parents=True)
    for name, topic in topics.items():
        (text / f"{name.replace('/', '_')}.txt").write_text(topic, encoding="utf8")
    finish(lavra("prepare", str(text), "--out", str(folder / "prepared"), "--text.vocabulary", "512"))
    return folder / "prepared"


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a command that must succeed."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}:\n{errors.decode()}")


def fingerprint(run: Path) -> dict[str, Any]:
    """Return what must be equal: the hash of the weights, and the metrics but for the clock's."""
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if key not in _IGNORED} for line in lines]
    stability = (run / "stability.jsonl").read_text()
    return {"weights": weights, "metrics": metrics, "stability": stability}


def killed_and_resumed(
    data: Path, run: Path, *, fault: str = "", after: float | None = None, optimizer: str = "muon"
) -> bool:
    """Train, die at the fault point or after some seconds, resume to the end; return whether it died at all."""
    process = lavra(*train_words(data, run, optimizer), fault=fault)
    if after is not None:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode == 0:
        return False
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"ended with {process.returncode} instead of being killed")
    if (run / "config.toml").exists():
        finish(lavra("resume", str(run)))
    else:  # killed before there was a run folder: nothing is lost, and the command is simply given again
        finish(lavra(*train_words(data, run, optimizer)))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimizer", default="muon")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="lavra-kill-"))
    trials = []
    try:
        data = prepare(folder)
        begin = time.monotonic()
        finish(lavra(*train_words(data, folder / "whole", options.optimizer)))
        whole = time.monotonic() - begin
        wanted = fingerprint(folder / "whole")
        for number in range(options.times):
            trials.append(_trial(number, chance, data, folder, whole, wanted, options.optimizer))
            if not options.json:
                print("{moment:<32} {verdict}".format(**trials[-1]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    equal = sum(trial["verdict"] == "equal bits" for trial in trials)
    if options.json:
        print(json.dumps({"times": options.times, "equal": equal, "trials": trials}))
    else:
        print(f"{equal}/{options.times} ended in the same bits as the run that was never stopped")
    return int(equal != options.times)


def _trial(
    number: int,
    chance: random.Random,
    data: Path,
    folder: Path,
    whole: float,
    wanted: dict[str, Any],
    optimizer: str,
) -> dict[str, str]:
    run = folder / f"run-{number}"
    if number % 2:
        moment = chance.choice(list(MOMENTS))
        fault = f"{moment}:{chance.randint(1, MOMENTS[moment])}:kill"
        died = killed_and_resumed(data, run, fault=fault, optimizer=optimizer)
    else:
        after = chance.uniform(0.05 * whole, whole)
        fault = f"after {after:.2f} s"
        died = killed_and_resumed(data, run, after=after, optimizer=optimizer)
    same = fingerprint(run) == wanted
    shutil.rmtree(run)
    return {"moment": fault if died else f"{fault} (had ended)", "verdict": "equal bits" if same else "DIFFERENT"}


if __name__ == "__main__":
    sys.exit(main())
