"""Tokens per second of generation, as a ratio to `transformers.generate` with the same shape and lengths.

    python bench/generation.py [--runs 3] [--seconds 3] [--threads N] [--only WORDS]

Every side works in a process of its own, in turn with `transformers`, which waits meanwhile. Decoders write greedily
after prompts of 32 tokens. The encoder-decoder (T5-small's shape) writes 10 samples of 24 tokens, each of the 10
likeliest, for 8 documents of 128. Weights are random.
"""

from __future__ import annotations

from _writing import Case, arguments, measure

DECODERS = ("torch fp32", "torch bf16", "torch int8", "ctranslate2 fp32", "ctranslate2 int8", "transformers bf16")
ENCODER_DECODERS = ("torch fp32", "torch bf16", "ctranslate2 fp32", "ctranslate2 int8", "transformers bf16")
TOKENS = {"6 layers of 256": 64, "GPT-2 124M": 32}
PROMPT = (31, 31)
"""Tokens of a prompt, without the one that begins it."""


def cases() -> list[Case]:
    """Return two shapes of decoders with one text and sixteen, and T5-small's shape."""
    found: list[Case] = []
    for shape, tokens in TOKENS.items():
        for texts in (1, 16):
            settings = {"shape": shape, "texts": texts, "lengths": PROMPT, "samples": 1, "tokens": tokens}
            found.append((f"{shape}, {texts}", settings, DECODERS))
    t5 = {"shape": "T5-small", "texts": 8, "lengths": (127, 127), "samples": 10, "tokens": 24}
    return [*found, ("T5-small, 8 x 10", t5, ENCODER_DECODERS)]


if __name__ == "__main__":
    measure("generation", cases(), arguments(__doc__).parse_args())
