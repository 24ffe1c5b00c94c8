"""Queries per second at 10 samples for each document, as a ratio to `transformers.generate` with the same model.

    python bench/expansion.py [--documents 32] [--samples 10] [--tokens 16] [--runs 3] [--threads N] [--json]

Random weights; every query has exactly the same number of tokens on all sides, drawn among the 10 likeliest. Documents
are given in the same random order to all; `transformers` gets batches of 8 of them (80 texts at once). The sides take
turns in one process; medians, after one run of each that is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavra.core.progress import set_quiet
from lavra.generation.engines.converting import Convertible, why_not_convertible
from lavra.generation.engines.ctranslate import CTranslate2Engine
from lavra.generation.engines.engine import Engine, TorchEngine
from lavra.generation.options import GenerateOptions
from lavra.models.decoder import build_decoder
from lavra.models.families.exporting import export_decoder
from lavra.models.presets import PRESETS
from lavra.models.wrapped.folders import open_wrapped

VOCABULARY = 8192
BATCH = 8
LENGTHS = {"equal": (160, 161), "varied": (60, 200)}


class NumberTokenizer:
    """Documents spelt as numbers, so that all sides read the same ids."""

    end_of_document, vocabulary_size, fingerprint = 1, VOCABULARY, "numbers"

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any) -> str:
        return "".join(chr(0x4E00 + int(number)) for number in ids)


TOKENIZER: Any = NumberTokenizer()


def decoder_sides(folder: Path) -> tuple[Any, dict[str, Engine]]:
    """Return a decoder as `transformers` opens it, and the same as our engines run it."""
    from transformers import AutoModelForCausalLM

    spec = replace(PRESETS["gpt2-124m"], vocabulary=VOCABULARY, context=512, depth=6, width=384, heads=6)
    model = build_decoder(spec, 0).eval()
    export_decoder(folder, model, {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0})
    inner = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    small = build_decoder(spec, 0).eval()
    for parameter in small.parameters():
        parameter.data = parameter.data.bfloat16()
    engines: dict[str, Engine] = {
        "lavra fp32": TorchEngine(model, TOKENIZER),
        "lavra bf16": TorchEngine(small, TOKENIZER),
    }
    return inner, engines | _converted(model)


def encoder_decoder_sides(folder: Path) -> tuple[Any, dict[str, Engine]]:
    """Return the same for an encoder-decoder of T5-small's shape."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = T5Config(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=1)
    shape.decoder_start_token_id = 0  # pyright: ignore[reportAttributeAccessIssue]
    inner = T5ForConditionalGeneration(shape).eval()
    inner.save_pretrained(folder)
    wrapped: Any = open_wrapped(folder)
    return inner, {"lavra fp32": TorchEngine(wrapped, TOKENIZER), **_converted(wrapped)}


def _converted(model: Any) -> dict[str, Engine]:
    source = Convertible(model, TOKENIZER)
    if why_not_convertible(source) is not None:
        return {}
    threads = torch.get_num_threads()
    return {"lavra ctranslate2 int8": CTranslate2Engine(source, "int8", "cpu", threads)}


def ours(engine: Engine, documents: list[list[int]], samples: int, tokens: int) -> Callable[[], int]:
    texts = [" ".join(map(str, ids)) for ids in documents]
    options = GenerateOptions(
        samples=samples, max_new_tokens=tokens, min_new_tokens=tokens, temperature=1.0, top_k=10, top_p=1.0
    )
    return lambda: sum(1 for _ in engine.generate_each(texts, options))


def theirs(inner: Any, documents: list[list[int]], samples: int, tokens: int) -> Callable[[], int]:
    from_encoder = bool(inner.config.is_encoder_decoder)
    rows = [[*ids, 1] if from_encoder else [1, *ids] for ids in documents]

    def run() -> int:
        made = 0
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            longest = max(map(len, batch))
            padded = [
                [0] * (longest - len(ids)) + ids if not from_encoder else ids + [0] * (longest - len(ids))
                for ids in batch
            ]
            ids = torch.tensor(padded)
            made += len(
                inner.generate(
                    ids,
                    attention_mask=(ids != 0).long(),
                    do_sample=True,
                    top_k=10,
                    num_return_sequences=samples,
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                )
            )
        return made

    return run


def seconds_in_turn(sides: dict[str, Callable[[], int]], runs: int) -> dict[str, list[float]]:
    """Return the times of each side; one run of each beforehand is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(runs + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    shapes = {"decoder 6 x 384": decoder_sides, "T5-small": encoder_decoder_sides}
    for shape, make in shapes.items():
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            inner, engines = make(Path(folder))
            for lengths, (shortest, longest) in LENGTHS.items():
                stream = np.random.default_rng(0)
                sizes = stream.integers(shortest, longest, options.documents)
                documents = [stream.integers(2, VOCABULARY, size).tolist() for size in sizes]
                given = documents, options.samples, options.tokens
                sides = {name: ours(engine, *given) for name, engine in engines.items()}
                sides["transformers fp32"] = theirs(inner, *given)
                times = seconds_in_turn(sides, options.runs)
                for name, taken in times.items():
                    ratios = sorted(base / one for base, one in zip(times["transformers fp32"], taken, strict=True))
                    queries = options.documents * options.samples / statistics.median(taken)
                    row = {"shape": shape, "lengths": lengths, "engine": name, "queries_per_second": round(queries, 1)}
                    rows.append(row | {"ratio": round(statistics.median(ratios), 2), "ratios": [ratios[0], ratios[-1]]})
    return rows


def main() -> None:
    """Print queries per second and the ratio to transformers, with its spread over the runs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_quiet(True)
    rows = measure(options)
    if options.json:
        print(json.dumps({**vars(options), "expansion": rows}))
        return
    print(f"{options.documents} documents, {options.samples} queries of {options.tokens} tokens each")
    print(f"{'shape':<16}  {'lengths':<7}  {'engine':<24}  {'queries/s':>9}  ratio to transformers")
    for row in rows:
        low, high = row["ratios"]
        spread = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        print(
            f"{row['shape']:<16}  {row['lengths']:<7}  {row['engine']:<24}  {row['queries_per_second']:>9.1f}  {spread}"
        )


if __name__ == "__main__":
    main()
