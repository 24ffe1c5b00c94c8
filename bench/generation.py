"""Tokens per second of generation, as a ratio to `transformers.generate` with the same shape and lengths.

Usage: python bench/generation.py [--json] [--runs N] [--threads N] [--only WORDS]. Random weights, every text of
exactly the same length; medians of runs that are taken in turn. Decoders write greedily after prompts of 32 tokens. The
encoder-decoder (T5-small's shape) writes 10 samples of 24 tokens, each of the 10 likeliest, for 8 documents of 128.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lavra.generation.engines.converting import Convertible
from lavra.generation.engines.ctranslate import CTranslate2Engine
from lavra.generation.engines.engine import TorchEngine, generate_with
from lavra.generation.options import GenerateOptions
from lavra.models.decoder import build_decoder
from lavra.models.low_precision import round_weights
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec
from lavra.models.wrapped.wrapped import Wrapped

PROMPT = 32
SHAPES = {
    "6 layers of 256": (
        replace(PRESETS["gpt2-124m"], vocabulary=8192, context=512, depth=6, width=256, heads=4),
        64,
    ),
    "GPT-2 124M": (PRESETS["gpt2-124m"], 32),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
T5_SMALL = "T5-small, 8 x 10"
DOCUMENTS, SOURCE, SAMPLES, TARGET = 8, 128, 10, 24

Side = Callable[[], object]


class NumberTokenizer:
    """Prompts spelt as numbers, so that both sides read the same ids."""

    fingerprint = "numbers"

    def __init__(self, vocabulary: int, end_of_document: int = 0) -> None:
        self.vocabulary_size, self.end_of_document = vocabulary, end_of_document

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any) -> str:
        return "".join(chr(0x4E00 + int(number)) for number in ids)


def spelt(prompts: list[list[int]]) -> list[str]:
    return [" ".join(map(str, ids)) for ids in prompts]


def ours(spec: DecoderSpec, engine: str, precision: str, prompts: list[list[int]], tokens: int) -> Side:
    model = build_decoder(spec).eval()
    tokenizer: Any = NumberTokenizer(spec.vocabulary)
    options = GenerateOptions(greedy=True, max_new_tokens=tokens, min_new_tokens=tokens)
    made = engine_of(model, tokenizer, engine, precision)
    texts = spelt([ids[1:] for ids in prompts])
    return lambda: generate_with(made, texts, options)


def engine_of(model: Any, tokenizer: Any, engine: str, precision: str) -> Any:
    if engine == "ctranslate2":
        return CTranslate2Engine(Convertible(model, tokenizer), precision, threads=torch.get_num_threads())
    if precision == "int8":
        round_weights(model)
    else:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(TYPES[precision])
    return TorchEngine(model, tokenizer)


def theirs(spec: DecoderSpec, weights: torch.dtype, prompts: list[list[int]], tokens: int) -> Side:
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
    model: Any = GPT2LMHeadModel(shape).eval()
    model.to(weights)
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)
    lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    return lambda: model.generate(ids, attention_mask=mask, do_sample=False, **lengths)


def t5_small(weights: torch.dtype) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = T5Config(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, vocab_size=32128)
    shape.decoder_start_token_id = 0
    model: Any = T5ForConditionalGeneration(shape).eval()
    return model.to(weights)


def t5_sides(documents: list[list[int]]) -> dict[str, Side]:
    options = GenerateOptions(
        samples=SAMPLES, top_k=10, top_p=1.0, temperature=1.0, max_new_tokens=TARGET, min_new_tokens=TARGET
    )
    tokenizer: Any = NumberTokenizer(32128, end_of_document=1)
    texts = spelt([ids[:-1] for ids in documents])
    sides: dict[str, Side] = {}
    for engine, precision in (("lavra", "fp32"), ("lavra", "bf16"), ("ctranslate2", "fp32"), ("ctranslate2", "int8")):
        made = engine_of(Wrapped(t5_small(torch.float32), "encoder-decoder"), tokenizer, engine, precision)
        sides[f"{engine} {precision}"] = lambda made=made: generate_with(made, texts, options)
    ids = torch.tensor(documents)
    how = {"do_sample": True, "top_k": 10, "num_return_sequences": SAMPLES, "attention_mask": torch.ones_like(ids)}
    lengths = {"max_new_tokens": TARGET, "min_new_tokens": TARGET}
    for precision, weights in TYPES.items():
        model = t5_small(weights)
        sides[f"transformers {precision}"] = lambda model=model: model.generate(ids, **how, **lengths)
    return sides


def seconds_in_turn(sides: dict[str, Side], runs: int) -> dict[str, float]:
    """Return the median time of each side; one run of each beforehand is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def decoder_sides(spec: DecoderSpec, prompts: list[list[int]], tokens: int) -> dict[str, Side]:
    sides: dict[str, Side] = {}
    for precision in ("fp32", "bf16", "int8"):
        sides[f"lavra {precision}"] = ours(spec, "torch", precision, prompts, tokens)
    for precision in ("fp32", "int8"):
        sides[f"ctranslate2 {precision}"] = ours(spec, "ctranslate2", precision, prompts, tokens)
    for precision, weights in TYPES.items():
        sides[f"transformers {precision}"] = theirs(spec, weights, prompts, tokens)
    return sides


def measure(runs: int, only: str) -> list[dict[str, Any]]:
    rows = []
    generator = torch.Generator().manual_seed(0)
    for shape, (spec, tokens) in SHAPES.items():
        for batch in (1, 16):
            if only in shape:
                prompts = torch.randint(1, spec.vocabulary, (batch, PROMPT), generator=generator)
                prompts[:, 0] = 0
                sides = decoder_sides(spec, prompts.tolist(), tokens)
                rows += compared(shape, batch, batch * tokens, sides, runs)
    if only in T5_SMALL:
        documents = torch.randint(2, 32000, (DOCUMENTS, SOURCE), generator=generator)
        documents[:, -1] = 1
        texts = DOCUMENTS * SAMPLES
        rows += compared(T5_SMALL, texts, texts * TARGET, t5_sides(documents.tolist()), runs)
    return rows


def compared(shape: str, batch: int, tokens: int, sides: dict[str, Side], runs: int) -> list[dict[str, Any]]:
    taken = seconds_in_turn(sides, runs)
    return [
        {
            "shape": shape,
            "batch": batch,
            "engine": name,
            "tokens_per_second": round(tokens / taken[name], 1),
            "ratio": round(taken["transformers fp32"] / taken[name], 2),
            "ratio_bf16": round(taken["transformers bf16"] / taken[name], 2),
        }
        for name in sides
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="shapes whose name holds these words")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        rows = measure(options.runs, options.only)
    if options.json:
        print(json.dumps({"runs": options.runs, "threads": options.threads, "generation": rows}))
        return
    print(
        f"medians of {options.runs}, {options.threads} threads; ratios to transformers with fp32 and with bf16 weights"
    )
    print(f"{'shape':<16}  {'batch':>5}  {'engine':<18}  {'tokens/s':>9}  {'fp32':>5}  {'bf16':>5}")
    for row in rows:
        speed = f"{row['tokens_per_second']:>9.1f}  {row['ratio']:>5.2f}  {row['ratio_bf16']:>5.2f}"
        print(f"{row['shape']:<16}  {row['batch']:>5}  {row['engine']:<18}  {speed}")


if __name__ == "__main__":
    main()
