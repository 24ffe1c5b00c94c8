"""Useful tokens per second: documents packed with isolation, against documents padded as plain scripts do it.

Usage: python bench/packing.py [TEXT…] [--context 512] [--rows 8] [--shape 7M] [--rounds 3] [--seconds 3] [--json]; the
installed documentation by default. Only documents shorter than half of the context are taken. A useful token is one
that is learned from; padding is not. All sides train the same shape in the same precision with AdamW, with the same
number of rows a step; each is measured in turns with `packed`, in a process of its own. Padding to the longest document
of a batch cannot be compiled, so `packed, not compiled` stands beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from _compare import compare, heading, row
from _results import record
from _shapes import SHAPES, write_store
from lavra.data.readers.documents import read_rows
from lavra.data.tokenizers.tokenizer import Tokenizer

OURS = "packed"
PEERS = ("padded to longest", "padded to context", "packed, not compiled", "Trainer, to longest")
SCRIPT = Path(__file__).with_name("_packing_sides.py")
MOST_DOCUMENTS = 20_000
WANTED = 2.5


def encoded(locations: Sequence[str], vocabulary: int, folder: Path) -> list[np.ndarray]:
    """Return the ids of the documents, each with its end, by a tokenizer trained on them and kept in `folder`."""
    texts = [found.text for found in islice(read_rows(list(locations)), MOST_DOCUMENTS)]
    tokenizer = Tokenizer.train(texts, vocabulary)
    folder.mkdir()
    tokenizer.save(folder)
    return [np.append(ids, tokenizer.end_of_document) for ids in tokenizer.encode_many(texts)]


def short(documents: Sequence[np.ndarray], context: int) -> list[np.ndarray]:
    """Return the documents shorter than half of the context; raises SystemExit when there are too few."""
    kept = [ids for ids in documents if 2 * len(ids) < context]
    if len(kept) < 2:
        raise SystemExit(
            f"only {len(kept)} documents are shorter than {context // 2} tokens: choose a larger --context"
        )
    return kept


def useful_share(lengths: np.ndarray, rows: int, context: int, *, whole: bool, draws: int = 1000) -> float:
    """Return the mean share of a padded batch's positions that is learned from.

    Args:
        lengths: (documents,) targets of each.
        rows: of a batch.
        context: longest row.
        whole: padded to the context, instead of to the longest of the batch.
        draws: batches drawn.
    """
    drawn = np.minimum(np.random.default_rng(0).choice(lengths, (draws, rows)), context)
    width = np.full(draws, context) if whole else drawn.max(1)
    return float(drawn.sum() / (rows * width.sum()))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of all sides."""
    documents = short(
        encoded(arguments.texts or ["installed-docs:"], SHAPES[arguments.shape].vocabulary, folder / "tokenizer"),
        arguments.context,
    )
    lengths = np.array([len(ids) for ids in documents])
    vocabulary = 1 + max(int(ids.max()) for ids in documents)
    settings = {
        "shape": arguments.shape,
        "vocabulary": vocabulary,
        "context": arguments.context,
        "rows": arguments.rows,
        "device": "cpu",
        "store": str(write_store(folder / "store", np.concatenate(documents), np.cumsum(lengths), vocabulary)),
        "tokenizer": str(folder / "tokenizer"),
    }
    sides = compare(SCRIPT, settings, OURS, PEERS, rounds=arguments.rounds, seconds=arguments.seconds)
    shares = {
        name: useful_share(lengths, arguments.rows, arguments.context, whole=whole)
        for name, whole in (("padded to longest", False), ("padded to context", True))
    }
    return {
        "texts": arguments.texts or ["installed-docs:"],
        "shape": arguments.shape,
        "context": arguments.context,
        "rows": arguments.rows,
        "documents": len(documents),
        "lengths": {str(share): int(np.percentile(lengths, share)) for share in (10, 50, 90)},
        "useful_share": shares,
        "sides": [side.to_json() for side in sides],
    }


def table(result: dict[str, Any]) -> str:
    """Return the figures for people."""
    lengths, shares = result["lengths"], result["useful_share"]
    return "\n".join(
        [
            f"{result['documents']:,} documents of {lengths['10']}, {lengths['50']} and {lengths['90']} tokens "
            f"(at 10, 50 and 90 %), context {result['context']}, {result['rows']} rows a step",
            "positions that are learned from: "
            + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            + ", packed 100%",
            heading(OURS),
            *map(row, result["sides"]),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--shape", default="7M", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    record("packing", result)
    print(json.dumps({"packing": result}) if arguments.json else table(result))
    if not arguments.json:
        print(f"wanted: packed at least {WANTED} times as fast as padded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
