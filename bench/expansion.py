"""Speed of writing 10 queries for each document, as a ratio to `transformers.generate` with the same model.

    python bench/expansion.py [--documents 16] [--samples 10] [--tokens 16] [--runs 3] [--threads N] [--only WORDS]

Every side works in a process of its own, in turn with `transformers`, which waits meanwhile. Every query has the same
number of tokens on all sides, drawn among the 10 likeliest. Documents are given in the same random order to all;
`transformers` gets batches of 8 of them (80 texts at once). Weights are random.
"""

from __future__ import annotations

import argparse

from _writing import Case, arguments, measure

SIDES = {
    "6 layers of 384": ("torch fp32", "torch bf16", "ctranslate2 int8"),
    "T5-small": ("torch fp32", "ctranslate2 int8"),
}
LENGTHS = {"documents of 160 tokens": (160, 160), "of 60 to 200": (60, 200)}


def cases(options: argparse.Namespace) -> list[Case]:
    """Return both shapes with documents of one length, and of several."""
    work = {"texts": options.documents, "samples": options.samples, "tokens": options.tokens}
    return [
        (f"{shape}, {name}", {"shape": shape, "lengths": lengths, **work}, sides)
        for shape, sides in SIDES.items()
        for name, lengths in LENGTHS.items()
    ]


def main() -> None:
    """Measure, and print tokens per second."""
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    measure("expansion", cases(options), options)


if __name__ == "__main__":
    main()
