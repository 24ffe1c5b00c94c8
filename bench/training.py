"""Training at equal work: tokens per second and memory of lavra against Hugging Face's Trainer and nanoGPT.

Usage: python bench/training.py [--shapes 7M,124M] [--contexts 256,512,1024] [--nanogpt FOLDER] [--device cuda]
       [--peers NAME,NAME] [--rounds 3] [--seconds 3] [--json]; by default the 7M shape at context 256.

Every side trains the same architecture (GPT-2's) on the same random windows, in a process of its own, with its own
optimiser step. Each peer is measured in turns with lavra, so that a ratio comes from runs beside each other, and no
more than two sides are in memory. `lavra` does the peers' work (AdamW, windows as one text), `lavra as by default` what
`lavra train` does (Muon, documents isolated). The ceiling is that of matrix products in the best precision, measured
between the turns; FLOPs are counted exactly, the same for all sides. Peak memory is beyond what the libraries take;
"steady" leaves out the first steps, and with them the compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _compare import compare, heading, row, size
from _results import Spread, record
from _shapes import SHAPES, rows_of, shape_of, write_random_store

OURS = "lavra"
PEERS = ("Trainer fp32", "Trainer bf16", "Trainer bf16 compiled", "nanoGPT compiled", "lavra as by default")
SCRIPT = Path(__file__).with_name("_training_sides.py")


def peers_of(shape: str, wanted: Sequence[str], nanogpt: str | None) -> list[str]:
    """Return those of the wanted peers that can train a shape here: nanoGPT needs its folder and GPT-2's shape."""
    here = nanogpt and SHAPES[shape].activation != "relu"
    return [side for side in wanted if here or not side.startswith("nanoGPT")]


def measure(shape: str, context: int, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all sides at one shape and context."""
    spec, rows = shape_of(shape, context), rows_of(shape, context, arguments.device)
    settings = {
        "shape": shape,
        "context": context,
        "rows": rows,
        "device": arguments.device,
        "store": str(stored(folder, spec.vocabulary)),
        "nanogpt": arguments.nanogpt,
    }
    ceilings: list[float] = []
    sides = compare(
        SCRIPT,
        settings,
        OURS,
        peers_of(shape, arguments.peers.split(","), arguments.nanogpt),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        between=lambda: ceilings.append(peak_of(arguments.device)),
    )
    ceiling, flops = statistics.median(ceilings), flops_per_token(shape, context)
    return {
        "shape": shape,
        "context": context,
        "batch_tokens": rows * context,
        "ceiling_flops": Spread.of(ceilings).to_json(),
        "flops_per_token": flops,
        "sides": [with_share(side.to_json(), flops / ceiling) for side in sides],
    }


def with_share(side: dict[str, Any], seconds_per_token: float) -> dict[str, Any]:
    """Add the share of the ceiling, at which a token would take `seconds_per_token`."""
    return side | {"share_of_ceiling": side["tokens_per_second"]["median"] * seconds_per_token}


def stored(folder: Path, vocabulary: int) -> Path:
    """Return the store of a vocabulary, written now if it was not."""
    path = folder / str(vocabulary)
    return path if path.exists() else write_random_store(path, vocabulary)


def flops_per_token(shape: str, context: int) -> float:
    """Return the exact FLOPs of a training step per token."""
    from lavra.planning.machine.flops import count_flops

    return count_flops(shape_of(shape, context), context).exact


def peak_of(device: str) -> float:
    """Return the FLOP/s of matrix products, in the fastest precision that lavra would choose here."""
    import torch

    from lavra.planning.machine.hardware import measure_matrix_peak
    from lavra.training.devices import use_threads
    from lavra.training.precision import choose_precision

    use_threads(None)
    there = torch.device(device)
    return measure_matrix_peak(there, choose_precision("auto", there), 0.5)


def table(result: dict[str, Any]) -> str:
    """Return the figures of one shape and context for people."""
    lines = [
        f"{result['shape']}, context {result['context']}, {result['batch_tokens']} tokens a step, "
        f"{result['flops_per_token'] / 1e6:,.0f} MFLOP a token, "
        f"ceiling {result['ceiling_flops']['median'] / 1e9:,.0f} GFLOP/s",
        f"{heading(OURS)} {'ceiling':>8} {'peak':>8} {'steady':>8} {'first step':>11}",
    ]
    for side in result["sides"]:
        peak = side["device_bytes"] or side["peak_bytes"]
        lines.append(
            f"{row(side)} {side['share_of_ceiling']:>8.1%} {size(peak):>8} {size(side['steady_bytes']):>8} "
            f"{side['first_step_seconds']:>9.1f} s"
        )
    return "\n".join(lines)


def request(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="7M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--contexts", default="256")
    parser.add_argument("--nanogpt", help="folder of nanoGPT; without it, that side is left out")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--peers", default=",".join(PEERS), help="all of them by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(words)
    unknown = set(arguments.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"no such peers: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if arguments.nanogpt and not (Path(arguments.nanogpt) / "model.py").exists():
        parser.error(f"{arguments.nanogpt} is no folder of nanoGPT: it has no model.py")
    return arguments


def main() -> int:
    arguments = request()
    if not arguments.nanogpt:
        print("nanoGPT is left out: give its folder with --nanogpt", file=sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes.split(","):
            for context in map(int, arguments.contexts.split(",")):
                results.append(measure(shape, context, Path(folder), arguments))
                record("training", results[-1] | {"device": arguments.device})
                if not arguments.json:
                    print(table(results[-1]) + "\n", flush=True)
    if arguments.json:
        print(json.dumps({"training": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
