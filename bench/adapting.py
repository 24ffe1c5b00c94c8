"""Real pretrained models adapted to text and chats: time, speed, memory and quality, beside Hugging Face's Trainer.

Usage: python bench/adapting.py --models FOLDER --data FOLDER [--only NAME…] [--budget 10m] [--peers eager,compiled]
       [--rates 5e-5,1e-4,2e-4] [--peer-precision faster] [--held-out 200KB] [--json]; a small trial:
       --only smollm2-text-256-whole --budget 20s --rates 5e-5 --peers eager --held-out 8KB

FOLDER of models holds smollm2, gemma-270m, minilm and e5-en-pt, each a folder that `transformers` opens. FOLDER of data
holds pt_freecodecamp, pt_python_docs and instruct_en, each a folder of JSON Lines (`text`; `instruction`, `input`,
`output`). `--list` names the cases.

lavra gets the budget and chooses the rest. "time" is the whole life of its process over the budget, "first step" counts
from the start of the process, "tokens/s" (tokens read, padding left out) and "memory" are as measured, with what the
run's plan said beside them. Bits per byte are those of held-out documents before and after, by one measure for all
sides.

The peer reads the same rows with the library's defaults, and 2,048 tokens a step. Its number of steps is set from a
short run, which is not counted, so that its last step ends with the budget; bf16 or fp32, whichever was faster there.
Of several learning rates the best result counts, which the peer is given for nothing. Where a case has no like in the
peer (an extended vocabulary), it trains the whole model as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _adapting_cases import CASES, WAYS, Case, Data, chosen, write_data
from _results import record
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import parse_duration, parse_size

HERE = Path(__file__).parent
BATCH_TOKENS = 2048
PROBE_STEPS = 4
PEERS = {"eager": False, "compiled": True}


class Failed(RuntimeError):
    """A process ended with an error; the message holds the end of what it said."""


@dataclass(frozen=True)
class Ended:
    """What was seen of a process: seconds of its life, the most bytes that it held, and the last line that it printed
    as JSON."""

    seconds: float
    peak_bytes: int
    said: dict[str, Any]


def run(words: list[str]) -> Ended:
    """Run a program and watch its time and memory.

    Raises:
        Failed: If it fails.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        began = time.monotonic()
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise Failed(f"{' '.join(words[:4])} … ended with {process.returncode}:\n{err.read()[-2000:]}")
        lines = out.read().strip().splitlines()
    unit = 1 if sys.platform == "darwin" else 1024
    return Ended(seconds, usage.ru_maxrss * unit, json.loads(lines[-1]) if lines else {})


class Bench:
    """The runs of the chosen cases.

    Args:
        options: The command line.
        home: Folder for data and runs.
    """

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options, self.home = options, home
        self.data: dict[str, Data] = {}
        self.before: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.peers: dict[tuple[Any, ...], dict[str, Any]] = {}

    def case(self, case: Case) -> dict[str, Any]:
        """Return the figures of a case."""
        data = self._data(case.kind)
        key = case.model, case.kind, case.context
        if key not in self.before:
            self.before[key] = self._score(case, data, self._model(case))
        row = {"case": case.name, **asdict(case), "budget_seconds": self.options.budget}
        row |= {"bits_per_byte_before": self.before[key], "lavra": self._ours(case, data)}
        row["trainer"] = {peer: self._peer(case, data, PEERS[peer]) for peer in self.options.peers}
        return row

    def _data(self, kind: str) -> Data:
        kind = "chats" if kind == "chats" else "text"
        if kind not in self.data:
            self.data[kind] = write_data(kind, self.options.data, self.home, self.options.held_out)
        return self.data[kind]

    def _model(self, case: Case) -> str:
        return str(self.options.models / case.model)

    def _score(self, case: Case, data: Data, model: str) -> dict[str, Any]:
        settings = {"model": model, "kind": case.kind, "context": case.context, "base": self._model(case)}
        settings["held_out"] = str(data.held_out)
        return run([sys.executable, str(HERE / "_adapting_score.py"), json.dumps(settings)]).said

    def _ours(self, case: Case, data: Data) -> dict[str, Any]:
        out, report = self.home / "run", self.home / "watch.json"
        words = ["train", str(data.train), "--from", self._model(case), "--out", str(out), "--force"]
        words += ["--model.context", str(case.context), "--budget", f"{self.options.budget:g}s", *WAYS[case.way]]
        watched = [sys.executable, str(HERE / "_watched.py"), str(report), str(time.time())]
        try:
            ended = run([*watched, *words, "--json", "--quiet"])
            scored = self._score(case, data, str(out))
        except Failed as error:
            return {"failed": str(error)}
        result = json.loads((out / "result.json").read_text())
        plan = json.loads((out / "plan.json").read_text())
        watch = json.loads(report.read_text())
        read = watch["positions"] / watch["targets"] if watch["targets"] else 1.0  # tokens read for each one predicted
        return {
            "taken_seconds": ended.seconds,
            "first_step_seconds": watch.get("learned_from"),
            "steps": result["step"],
            "tokens": result["tokens"],
            "batch_tokens": plan["batch_tokens"],
            "compiled": plan["compile"],
            "precision": plan["precision"],
            "tokens_per_second": {
                "planned": _times(plan["forecast"].get("tokens_per_second"), read),
                "measured": _times(result["tokens_per_second"], read),
            },
            "peak_bytes": {"planned": plan["forecast"].get("peak_bytes"), "measured": ended.peak_bytes},
            "bits_per_byte": scored,
        }

    def _peer(self, case: Case, data: Data, compiled: bool) -> dict[str, Any]:
        """Return the peer's best figures over its learning rates; equal requests are run once."""
        way = "whole" if case.way == "extended" else case.way
        key = case.model, case.kind, case.context, way, compiled
        if key not in self.peers:
            settings = {
                "model": self._model(case),
                "kind": case.kind,
                "way": way,
                "context": case.context,
                "rows": max(1, BATCH_TOKENS // case.context),
                "train": str(data.train),
                "out": str(self.home / "trainer"),
                "compiled": compiled,
            }
            try:
                self.peers[key] = self._best_rate(case, data, settings)
            except Failed as error:
                self.peers[key] = {"failed": str(error)}
        return self.peers[key]

    def _best_rate(self, case: Case, data: Data, settings: dict[str, Any]) -> dict[str, Any]:
        tried = [name == "bf16" for name in ("fp32", "bf16") if self.options.peer_precision in (name, "faster")]
        probes = {bf16: self._trained(settings, bf16, PROBE_STEPS, 5e-5, save=False) for bf16 in tried}
        bf16 = min(tried, key=lambda bf16: _step_seconds(probes[bf16].said))
        seen = probes[bf16].said
        steps = 1 + max(0, int((self.options.budget - seen["first_step_done"]) / _step_seconds(seen)))
        found = []
        for rate in self.options.rates:
            ended = self._trained(settings, bf16, steps, rate, save=True)
            said = ended.said
            found.append(
                {
                    "precision": "bf16" if bf16 else "fp32",
                    "learning_rate": rate,
                    "taken_seconds": ended.seconds,
                    "first_step_seconds": said["first_step_done"],
                    "steps": said["steps"],
                    "tokens": said["tokens"],
                    "tokens_per_second": said["tokens"] / said["steps"] / _step_seconds(said),
                    "peak_bytes": ended.peak_bytes,
                    "bits_per_byte": self._score(case, data, str(self.home / "trainer" / "model")),
                }
            )
        return min(found, key=lambda one: one["bits_per_byte"]["value"])

    def _trained(self, settings: dict[str, Any], bf16: bool, steps: int, rate: float, *, save: bool) -> Ended:
        shutil.rmtree(settings["out"], ignore_errors=True)
        settings = settings | {"bf16": bf16, "steps": steps, "learning_rate": rate, "save": save, "began": time.time()}
        return run([sys.executable, str(HERE / "_adapting_trainer.py"), json.dumps(settings)])


def _step_seconds(said: dict[str, Any]) -> float:
    """Return the seconds of a step of the peer, the first left out."""
    if said["steps"] == 1:
        return said["first_step_done"]
    return (said["steps_done"] - said["first_step_done"]) / (said["steps"] - 1)


HEADING = (
    f"{'case':<30} {'side':<18} {'time':>6} {'1st step':>9} {'steps':>6} {'tokens/s':>9} {'planned':>8} "
    f"{'memory':>8} {'planned':>8} {'bits/byte':>10} {'interval':>14}"
)


def lines_of(row: dict[str, Any]) -> list[str]:
    """Return the lines of a case for people: the model before, lavra, and each peer."""
    before, ours, budget = row["bits_per_byte_before"], row["lavra"], row["budget_seconds"]
    lines = [
        f"{row['case']:<30} {'before':<18} {'':>6} {'':>9} {'':>6} {'':>9} {'':>8} {'':>8} {'':>8} {_bits(before)}"
    ]
    sides = [("lavra", ours), *((f"Trainer {name}", side) for name, side in row["trainer"].items())]
    for name, side in sides:
        if "failed" in side:
            lines.append(f"{'':<30} {name:<18} failed: {side['failed'].strip().splitlines()[-1]}")
            continue
        speed, memory = side["tokens_per_second"], side["peak_bytes"]
        if not isinstance(speed, dict):
            name, speed, memory = f"{name} {side['precision']}", {"measured": speed}, {"measured": memory}
        cells = [
            f"{'':<30} {name:<18} {side['taken_seconds'] / budget:>6.0%}",
            f"{_number(side['first_step_seconds'], '.0f'):>7} s {side['steps']:>6}",
            f"{_number(speed['measured'], ',.0f'):>9} {_number(speed.get('planned'), ',.0f'):>8}",
            f"{_gigabytes(memory['measured']):>8} {_gigabytes(memory.get('planned')):>8}",
            _bits(side["bits_per_byte"]),
        ]
        lines.append(" ".join(cells))
    return lines


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f} GB"


def _bits(figure: dict[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    interval = "" if low is None or high is None else f"{low:.3f}-{high:.3f}"
    return f"{figure['value']:>10.4f} {interval:>14}"


def request(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; without the folders it says what to give, and exits with 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with a folder for each model")
    parser.add_argument("--data", type=Path, help="folder with a folder for each data set")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases by name or glob; all by default")
    parser.add_argument("--budget", type=parse_duration, default=600.0, metavar="TIME")
    parser.add_argument("--peers", default="eager,compiled", help="of eager, compiled; empty for none")
    parser.add_argument(
        "--rates", default="5e-5,1e-4,2e-4", help="learning rates of the peer, the best of which counts"
    )
    parser.add_argument(
        "--peer-precision", choices=("faster", "bf16", "fp32"), default="faster", help="faster tries both"
    )
    parser.add_argument("--held-out", type=parse_size, default=200_000, metavar="SIZE", help="most bytes held out")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--json", action="store_true", help="a JSON line for each case, as soon as it is known")
    options = parser.parse_args(words)
    options.peers = [name for name in options.peers.split(",") if name]
    options.rates = [float(rate) for rate in options.rates.split(",")]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peers: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    try:
        options.cases = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if not options.list:
        refuse_missing(parser, options)
    return options


def refuse_missing(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Say which folders are missing, and exit with 2."""
    if options.models is None or options.data is None:
        parser.error(
            "give the folders: --models FOLDER (smollm2, gemma-270m, minilm, e5-en-pt) and --data FOLDER "
            "(pt_freecodecamp, pt_python_docs, instruct_en); --help says what they hold"
        )
    for name in sorted({case.model for case in options.cases}):
        if not (options.models / name / "config.json").exists():
            parser.error(f"{options.models / name} is no model folder: it has no config.json")


def main() -> int:
    options = request()
    if options.list:
        print("\n".join(case.name for case in CASES))
        return 0
    log(f"{len(options.cases)} cases of about {options.budget * (1 + len(options.peers) * len(options.rates)):,.0f} s")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for case in options.cases:
            try:
                rows.append(bench.case(case))
            except (Failed, FileNotFoundError, InputError) as error:
                print(f"{case.name}: {error}", file=sys.stderr)
                return 1
            record("adapting", rows[-1])
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
            else:
                print("\n".join(lines_of(rows[-1])), flush=True)
    if not options.json and len(rows) > 1:
        print("\n".join(["", HEADING, *(line for row in rows for line in lines_of(row))]))
    return int(any("failed" in row["lavra"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
