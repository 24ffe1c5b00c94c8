"""Time to quality: bits per byte of held-out text after a given time of training, lavra beside its peers.

Usage: python bench/quality.py [TEXT…] [--held-out TEXT…] [--budgets 2m,5m,10m] [--nanogpt FOLDER]
           [--litgpt-python PYTHON] [--peers trainer,nanogpt,litgpt] [--ladder 30s,1m] [--seeds 1]
           [--lavra="--model.ngram-copy …"] [--again] [--json]

Without arguments: half a minute on the installed documentation against Hugging Face's Trainer alone. The whole thing
(over an hour; say where nanoGPT's checkout and an interpreter with litgpt are, see bench/peers/litgpt.py):

    python bench/quality.py mytext/ --budgets 2m,5m,10m --nanogpt ~/nanoGPT --litgpt-python ~/venv-litgpt/bin/python

Every side gets the same tokens (an 8,192-token byte-level BPE trained on the training text), the same held-out text
and the same parameters in its blocks (6 layers x 256 unless --depth and --width say otherwise), checked to 5 %. The
peers read batches of 16 x 256 tokens, with AdamW and a cosine that ends with their time; lavra chooses the rest itself.

A budget is wall-clock time from the start of the process until the model exists, imports and compilation (caches
cold) included. To end there, the peers' number of steps is set from a short probe of every variant of their flags
(precision, compilation), which is not counted, and the variant that takes most steps in the budget is taken
(`--peers trainer:bf16+compile` fixes it); lavra is helped likewise with the time that it takes to start. Scoring is
not counted, and is the same for all: see bench/peers/scoring.py. The time that lavra needs for a peer's value is read
off whole runs of lavra on a ladder of budgets, between two neighbours straight in the logarithm of time.

Runs are appended to quality.jsonl in --out as they end; those that are there with the same settings and versions are
not repeated, so the same command goes on where it was stopped (--again repeats; the table shows medians and ranges).
A run that a busy machine made end too early or too late (10 %, 3 %) is marked, and repeated by the same command.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

if __package__ in (None, ""):  # run as a script: what lies beside it is a package all the same
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import _results
from bench.peers.jobs import Failed, Side, Variant
from bench.peers.litgpt import LitGPT
from bench.peers.nanogpt import NanoGPT
from bench.peers.ours import Lavra
from bench.peers.running import Bench, Entry
from bench.peers.tables import curve_of, rows_of, table
from bench.peers.text import prepared_text
from bench.peers.trainer import HuggingFaceTrainer

from lavra.core.disk.json_lines import JsonLines
from lavra.core.progress import log
from lavra.core.units import parse_duration, show_duration

RUNGS = (10, 15, 20, 30, 45, 60, 75, 90, 120, 180, 300, 600)
"""Budgets in seconds for lavra's ladder: from a quarter of the shortest to half of the longest that was asked for."""


def order(
    peers: list[Entry], lavra: Entry, budgets: list[float], ladder: list[float], seeds: list[int]
) -> list[tuple[Entry, float, int]]:
    """Return the runs: sides in turn, each budget beginning with another side, and the ladder spread between them."""
    runs: list[tuple[Entry, float, int]] = []
    for seed in seeds:
        rungs = [rung for rung in ladder if rung not in budgets]
        for number, budget in enumerate(sorted(budgets)):
            sides = [lavra, *peers]
            turned = sides[number % len(sides) :] + sides[: number % len(sides)]
            for entry in turned:
                runs.append((entry, budget, seed))
                if rungs and entry is not lavra:
                    runs.append((lavra, rungs.pop(0), seed))
        runs += [(lavra, rung, seed) for rung in rungs]
    return runs


def durations(text: str) -> list[float]:
    """Return the seconds of "30s,2m"."""
    return [parse_duration(part) for part in text.split(",") if part]


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", default=["installed-docs:"])
    parser.add_argument(
        "--held-out", nargs="*", default=[], help="text to validate on; else 5 %% of the documents, at most 1 MB"
    )
    parser.add_argument("--budgets", type=durations, default=[30.0])
    parser.add_argument("--ladder", type=durations, default=None, help="more budgets for lavra alone")
    parser.add_argument("--peers", default=None, help="trainer,nanogpt,litgpt; NAME:fp32+compile fixes its flags")
    parser.add_argument("--nanogpt", type=Path, default=None, help="folder of a nanoGPT checkout")
    parser.add_argument("--litgpt-python", default=None, help="interpreter of an environment with litgpt")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--context", type=int, default=256, help="of the peers, and of the scoring")
    parser.add_argument("--lavra", default="", metavar="FLAGS", help="more flags of `lavra train`, as one word after =")
    parser.add_argument("--rows", type=int, default=16, help="of a peer's batch")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the peers, at its peak")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--seeds", type=int, default=1, help="how many, counted from --seed")
    parser.add_argument("--out", type=Path, default=_results.folder())
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    if options.ladder is None:
        least, most = min(options.budgets) / 4, max(options.budgets) / 2
        options.ladder = [float(rung) for rung in RUNGS if least <= rung <= most]
    return options


def peers_of(options: argparse.Namespace) -> list[Entry]:
    """Return the peers asked for, or all that are there.

    Raises:
        ValueError: for a peer that is unknown, or that was not said where it is.
    """
    names = options.peers
    if names is None:
        names = ",".join(["trainer", *["nanogpt"] * bool(options.nanogpt), *["litgpt"] * bool(options.litgpt_python)])
    entries = []
    for word in filter(None, names.split(",")):
        name, _, variant = word.partition(":")
        if name == "trainer":
            side: Side = HuggingFaceTrainer()
        elif name == "nanogpt" and options.nanogpt:
            side = NanoGPT(options.nanogpt)
        elif name == "litgpt" and options.litgpt_python:
            side = LitGPT(options.litgpt_python)
        else:
            raise ValueError(
                f"{name}: trainer, nanogpt (with --nanogpt FOLDER) or litgpt (with --litgpt-python PYTHON)"
            )
        entries.append(Entry(side, (Variant.parse(variant),) if variant else side.variants))
    return entries


def go(bench: Bench, runs: list[tuple[Entry, float, int]]) -> None:
    """Do the runs that are not recorded; one that fails is told, and does not keep the others from theirs."""
    for entry, budget, seed in runs:
        if bench.recorded(entry, budget, seed):
            continue
        try:
            bench.probe(entry)
            bench.measure(entry, budget, seed)
        except Failed as error:
            log(f"  {entry.name} in {show_duration(budget)} FAILED: {error}")


def main() -> int:
    options = options_of()
    try:
        peers = peers_of(options)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    ours = Lavra(options.lavra)
    lavra = Entry(ours, ours.variants)
    home = (options.out / "quality").resolve()
    text, folder = prepared_text(options.texts, options.held_out, home, options.vocabulary, share=0.05)
    bench = Bench(options, text, folder, JsonLines(options.out / "quality.jsonl"))
    seeds = list(range(options.seed, options.seed + options.seeds))
    runs = order(peers, lavra, options.budgets, options.ladder, seeds)
    log(
        f"{text.name}: {text.train_tokens:,} tokens to train on; {text.documents:,} documents, {text.bytes:,} bytes, "
        f"{text.tokens:,} tokens held out; about {show_duration(bench.expected_seconds(runs))}"
    )
    go(bench, runs)
    rows = rows_of(bench, [lavra, *peers], lavra, options.ladder)
    curve = curve_of(bench, lavra, options.ladder)
    if options.json:
        print(json.dumps({"text": asdict(text), "rows": rows, "lavra": curve}))
    else:
        print(f"{text.name}, {options.depth} x {options.width}, vocabulary {text.vocabulary}")
        print(table(rows, curve))
    return 0


if __name__ == "__main__":
    sys.exit(main())
