"""The worker of bench/generation.py and bench/expansion.py: one side continues the same prompts, again and again.

Settings: `side` ("transformers fp32", "torch bf16", …), `shape` (a name of `SHAPES`), `texts` (their
number), `lengths` (least and most tokens of one), `samples` of each (one is greedy; several are drawn from the 10
likeliest), `tokens` of each sample, `threads`, `cache` (folder for conversions). Weights are random, and every sample
has exactly the same number of tokens on all sides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from _turns import Turns, serve
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec

TOP_K = 10
BATCH = 8
"""Documents that `transformers` is given at once where several samples of each are drawn."""

BEGINNING = 0
END = 1
SHAPES = {
    "6 layers of 256": replace(PRESETS["gpt2-124m"], vocabulary=8192, context=512, depth=6, width=256, heads=4),
    "6 layers of 384": replace(PRESETS["gpt2-124m"], vocabulary=8192, context=512, depth=6, width=384, heads=6),
    "GPT-2 124M": PRESETS["gpt2-124m"],
    "T5-small": None,
}
T5_VOCABULARY = 32128

Settings = dict[str, Any]
Ids = list[list[int]]


class NumberTokenizer:
    """Prompts spelt as numbers, so that all sides read the same ids."""

    fingerprint = "numbers"
    end_of_document = document_bos = END
    text_bos = (END,)
    around_source = ([], [END])

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary_size = vocabulary

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any) -> str:
        return "".join(chr(0x4E00 + int(number)) for number in ids)


def program(settings: Settings, turns: Turns) -> None:
    """Write all texts in every step."""
    import torch

    from lavra.core.machine import keep_freed_memory
    from lavra.core.progress import set_quiet

    set_quiet(True)
    torch.set_num_threads(settings["threads"])
    os.environ["XDG_CACHE_HOME"] = settings["cache"]
    spec = SHAPES[settings["shape"]]
    documents = documents_of(settings, spec.vocabulary if spec else T5_VOCABULARY)
    engine, precision = settings["side"].split()
    make = theirs if engine == "transformers" else ours
    if make is ours:
        keep_freed_memory()
    write = make(spec, engine, precision, documents, settings)
    tokens = settings["texts"] * settings["samples"] * settings["tokens"]
    with torch.no_grad():
        while True:
            write()
            if not turns.step_done(tokens):
                break


def documents_of(settings: Settings, vocabulary: int) -> Ids:
    """Return random ids, of lengths in random order, without those that mark beginning and end."""
    import numpy as np

    shortest, longest = settings["lengths"]
    stream = np.random.default_rng(0)
    sizes = stream.integers(shortest, longest + 1, settings["texts"])
    return [stream.integers(2, min(vocabulary, 30000), size).tolist() for size in sizes]


def ours(
    spec: DecoderSpec | None, engine: str, precision: str, documents: Ids, settings: Settings
) -> Callable[[], object]:
    """Return what writes with one of our engines."""
    from lavra.config.generation import GenerateOptions
    from lavra.generation.engines.engine import generate_with
    from lavra.models.hf.model import HFModel
    from lavra.models.native.building import build_decoder

    model: Any = build_decoder(spec).eval() if spec else HFModel(t5_small(), "encoder-decoder")
    tokenizer: Any = NumberTokenizer(spec.vocabulary if spec else T5_VOCABULARY)
    tokens, samples = settings["tokens"], settings["samples"]
    options = GenerateOptions(
        greedy=samples == 1,
        samples=samples,
        top_k=TOP_K,
        top_p=1.0,
        temperature=1.0,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
    )
    opened = engine_of(model, tokenizer, engine, precision, settings["threads"])
    texts = [" ".join(map(str, ids)) for ids in documents]
    return lambda: generate_with(opened, texts, options)


def engine_of(model: Any, tokenizer: Any, engine: str, precision: str, threads: int) -> Any:
    """Return the engine with the model in a precision, as `--engine` and `--precision` open it."""
    import torch

    from lavra.generation.engines.converting import Convertible
    from lavra.generation.engines.ctranslate import CTranslate2Engine
    from lavra.generation.engines.engine import TorchEngine
    from lavra.models.native.decoder import Decoder
    from lavra.models.native.low_precision import can_pack, pack_weights, round_weights
    from lavra.training.precision import TYPES

    if engine == "ctranslate2":
        return CTranslate2Engine(Convertible(model, tokenizer), precision, threads=threads)
    if precision == "int8":
        round_weights(model)
    else:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(TYPES[precision])
        if isinstance(model, Decoder) and can_pack(torch.device("cpu"), TYPES[precision]):
            pack_weights(model)
    return TorchEngine(model, tokenizer)


def theirs(
    spec: DecoderSpec | None, _: str, precision: str, documents: Ids, settings: Settings
) -> Callable[[], object]:
    """Return what writes with `transformers.generate`."""
    import torch

    from lavra.training.precision import TYPES

    model = (gpt2(spec) if spec else t5_small()).to(TYPES[precision])
    samples, tokens = settings["samples"], settings["tokens"]
    how: dict[str, Any] = {"do_sample": False} if samples == 1 else {"do_sample": True, "top_k": TOP_K}
    how |= {"num_return_sequences": samples, "max_new_tokens": tokens, "min_new_tokens": tokens}
    rows = [[END, *ids] for ids in documents] if spec else [[*ids, END] for ids in documents]
    at_once = BATCH if samples > 1 else len(rows)
    batches = [padded(rows[start : start + at_once], left=spec is not None) for start in range(0, len(rows), at_once)]
    batches = [(torch.tensor(ids), torch.tensor(mask)) for ids, mask in batches]

    def write() -> None:
        for ids, mask in batches:
            model.generate(ids, attention_mask=mask, **how)

    return write


def padded(rows: Ids, *, left: bool) -> tuple[Ids, Ids]:
    """Return rows of one length, and which of their ids are real."""
    longest = max(map(len, rows))
    fill = [[0] * (longest - len(row)) for row in rows]
    ones = [[1] * len(row) for row in rows]
    if left:
        return [a + b for a, b in zip(fill, rows, strict=True)], [a + b for a, b in zip(fill, ones, strict=True)]
    return [a + b for a, b in zip(rows, fill, strict=True)], [a + b for a, b in zip(ones, fill, strict=True)]


def gpt2(spec: DecoderSpec) -> Any:
    """Return GPT-2 in a shape, as `transformers` has it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        vocab_size=spec.vocabulary,
        n_positions=spec.context,
        n_embd=spec.width,
        n_layer=spec.depth,
        n_head=spec.heads,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=BEGINNING,
    )
    return GPT2LMHeadModel(shape).eval()


def t5_small() -> Any:
    """Return T5-small's shape, as `transformers` has it."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = T5Config(vocab_size=T5_VOCABULARY, pad_token_id=BEGINNING, eos_token_id=END)
    shape.decoder_start_token_id = BEGINNING  # pyright: ignore[reportAttributeAccessIssue]
    return T5ForConditionalGeneration(shape).eval()


if __name__ == "__main__":
    serve(program)
