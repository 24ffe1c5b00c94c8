"""Tokens per second of greedy generation, as a ratio to `transformers.generate` with the same shape and lengths.

Usage: python bench/generation.py [--json] [--runs N] [--threads N]. Random weights, prompts of 32 tokens, every text of
exactly the same length; medians of runs that are taken in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lavra.generation.generate import generate
from lavra.generation.options import GenerateOptions
from lavra.models.decoder import build_decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec

PROMPT = 32
SHAPES = {
    "6 layers of 256": (
        replace(PRESETS["gpt2-124m"], vocabulary=8192, context=512, depth=6, width=256, heads=4),
        64,
    ),
    "GPT-2 124M": (PRESETS["gpt2-124m"], 32),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class NumberTokenizer:
    """Prompts spelt as numbers, so that both sides read the same ids."""

    end_of_document = 0

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary_size = vocabulary

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any) -> str:
        return "".join(chr(0x4E00 + int(number)) for number in ids)


def ours(spec: DecoderSpec, weights: torch.dtype, prompts: list[list[int]], tokens: int) -> Callable[[], object]:
    model = build_decoder(spec).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(weights)
    texts = [" ".join(map(str, ids[1:])) for ids in prompts]
    options = GenerateOptions(greedy=True, max_new_tokens=tokens, min_new_tokens=tokens)
    tokenizer: Any = NumberTokenizer(spec.vocabulary)
    return lambda: generate(model, tokenizer, texts, options)


def theirs(spec: DecoderSpec, weights: torch.dtype, prompts: list[list[int]], tokens: int) -> Callable[[], object]:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=spec.vocabulary,
        n_positions=spec.context,
        n_embd=spec.width,
        n_layer=spec.depth,
        n_head=spec.heads,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model: Any = GPT2LMHeadModel(shape).eval().to(weights)
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)
    lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    return lambda: model.generate(ids, attention_mask=mask, do_sample=False, **lengths)


def seconds_in_turn(sides: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Return the median time of each side; one run of each beforehand is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def measure(runs: int) -> list[dict[str, Any]]:
    rows = []
    for shape, (spec, tokens) in SHAPES.items():
        for batch in (1, 16):
            generator = torch.Generator().manual_seed(0)
            prompts = torch.randint(1, spec.vocabulary, (batch, PROMPT), generator=generator)
            prompts[:, 0] = 0
            sides: dict[str, Callable[[], object]] = {}
            for name, weights in TYPES.items():
                sides[f"lavra {name}"] = ours(spec, weights, prompts.tolist(), tokens)
                sides[f"transformers {name}"] = theirs(spec, weights, prompts.tolist(), tokens)
            taken = seconds_in_turn(sides, runs)
            for name in sides:
                speed = batch * tokens / taken[name]
                ratio = taken["transformers fp32"] / taken[name]
                row = {"shape": shape, "batch": batch, "engine": name}
                rows.append(row | {"tokens_per_second": round(speed, 1), "ratio": round(ratio, 2)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.runs)
    if options.json:
        print(json.dumps({"runs": options.runs, "threads": options.threads, "generation": rows}))
        return
    print(f"medians of {options.runs}, {options.threads} threads; ratio to transformers with fp32 weights")
    print(f"{'shape':<16}  {'batch':>5}  {'engine':<18}  {'tokens/s':>9}  {'ratio':>5}")
    for row in rows:
        speed, ratio = f"{row['tokens_per_second']:>9.1f}", f"{row['ratio']:>5.2f}"
        print(f"{row['shape']:<16}  {row['batch']:>5}  {row['engine']:<18}  {speed}  {ratio}")


if __name__ == "__main__":
    main()
