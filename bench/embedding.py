"""Documents per second of embedding, against sentence-transformers' `encode` on the same weights and texts.

Usage: python bench/embedding.py --model FOLDER --data FILE… [--texts 512] [--rounds 5] [--seconds 8] [--most 4096]
       [--peers NAME…] [--json]

FOLDER is one that both open: a folder of sentence-transformers or an encoder of `transformers`. Each side is measured
in turns with `lavra`, in a process of its own with as many threads as there are cores; a call embeds so many `--texts`,
which both sort by length. `lavra` takes the type of the weights that the processor multiplies fastest, and
sentence-transformers fp32, as each does by default; the same type for both stands beside it. The vectors are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from _compare import Measured, compare, size
from _results import record
from lavra.data.readers.documents import read_rows

OURS = "lavra"
PEERS = ("sentence-transformers", "sentence-transformers, bf16", "lavra, fp32")
SCRIPT = Path(__file__).with_name("_embedding_sides.py")
WANTED = 2.5


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of all sides."""
    rows = read_rows(options.data, text_column=options.text_column, wanted=())
    texts = [row.text for row in islice(rows, options.most)]
    file = folder / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf8")
    settings = {
        "model": str(options.model),
        "texts": str(file),
        "at_once": min(options.texts, len(texts)),
        "vectors": str(folder),
        "warm_up": 2,
    }
    sides = compare(SCRIPT, settings, OURS, options.peers, rounds=options.rounds, seconds=options.seconds)
    return {
        "model": options.model.name,
        "data": [Path(name).name for name in options.data],
        "documents": len(texts),
        "characters": {str(share): int(np.percentile([len(text) for text in texts], share)) for share in (10, 50, 90)},
        "at_once": settings["at_once"],
        "sides": [figures(side, folder) for side in sides],
    }


def figures(side: Measured, folder: Path) -> dict[str, Any]:
    """Return the figures of a side, with the cosines between its vectors and ours."""
    ours, theirs = (np.load(folder / f"{name}.npy") for name in (OURS, side.side))
    cosines = (ours * theirs).sum(1)
    found = side.to_json()
    found["documents_per_second"] = found.pop("tokens_per_second")
    return {**found, "least_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}


def table(result: dict[str, Any]) -> str:
    """Return the figures for people."""
    characters = result["characters"]
    lines = [
        f"{result['model']}, {result['documents']:,} documents of {characters['10']}, {characters['50']} and "
        f"{characters['90']} characters (at 10, 50 and 90 %), {result['at_once']} in a call",
        f"{'side':<28} {'documents/s':>12} {'lavra is':>9} {'(range)':>11} {'memory':>8} {'least cosine':>13}",
    ]
    for side in result["sides"]:
        speed, ratio = side["documents_per_second"], side["ours_is_faster_by"]
        times = f"{ratio['median']:.2f}x" if ratio else ""
        between = f"{ratio['low']:.2f}-{ratio['high']:.2f}" if ratio else ""
        lines.append(
            f"{side['side']:<28} {speed['median']:>12,.0f} {times:>9} {between:>11} "
            f"{size(side.get('steady_bytes')):>8} {side['least_cosine']:>13.5f}"
        )
    return "\n".join([*lines, f"wanted: at least {WANTED} times the documents/s of sentence-transformers"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--texts", type=int, default=512, help="texts of a call")
    parser.add_argument("--most", type=int, default=4096, help="texts in all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    record("embedding", result)
    print(json.dumps(result) if options.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
