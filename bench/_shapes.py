"""The shapes that lavra and its peers train at equal work, and the text that they train on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from lavra.data.token_store.manifest import Manifest, Source
from lavra.data.token_store.prepare import Prepared
from lavra.data.token_store.store import TokenStore
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec
from lavra.tasks.datasets import TextDataset

_GPT2 = PRESETS["gpt2-124m"]

SHAPES: dict[str, DecoderSpec] = {
    "tiny": replace(_GPT2, vocabulary=512, depth=2, width=64, heads=2),
    "7M": replace(_GPT2, vocabulary=8192, depth=6, width=256, heads=8),
    "124M": _GPT2,
    "opt-125m": PRESETS["opt-125m"],
}
"""GPT-2's architecture (tied head, learned positions, biases), but for OPT, which has ReLU and two positions more."""

TOKENS_PER_STEP = {"cpu": {"tiny": 512, "7M": 4096, "124M": 2048, "opt-125m": 2048}, "cuda": {"tiny": 4096}}
"""Of one micro-batch on a processor, so that every peer fits into 24 GiB; on a GPU 32,768."""


def shape_of(name: str, context: int) -> DecoderSpec:
    """Return the shape called `name` with that context; raises SystemExit for an unknown name."""
    if name not in SHAPES:
        raise SystemExit(f"there is no shape {name!r}; shapes: {', '.join(SHAPES)}")
    return replace(SHAPES[name], context=context)


def rows_of(name: str, context: int, device: str) -> int:
    """Return the windows of a step, the same for all sides."""
    return max(1, TOKENS_PER_STEP[device].get(name, 32768) // context)


class Numbers:
    """A tokenizer of which only its size is asked."""

    end_of_document = document_bos = 0
    fingerprint = "numbers"

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary_size = vocabulary


def dataset_of(folder: Path, vocabulary: int) -> TextDataset:
    """Return a store that `write_store` wrote as what `lavra train` would open: to train on, and held out."""
    store = TokenStore.open(folder)
    store.tokenizer = Numbers(vocabulary)  # pyright: ignore[reportAttributeAccessIssue]
    return TextDataset(Prepared(folder, store, store))


def write_random_store(folder: Path, vocabulary: int, tokens: int = 1 << 20, mean_length: float = 200.0) -> Path:
    """Write a token store of random ids in documents of log-normal length, the same for the same arguments."""
    random = np.random.default_rng(0)
    ids = random.integers(1, vocabulary, tokens)
    lengths = np.maximum(2, random.lognormal(np.log(mean_length) - 0.5, 1.0, 4 * int(tokens / mean_length)))
    ends = np.cumsum(lengths.astype(np.int64))
    ends = np.append(ends[ends < tokens - 1], tokens)
    ids[ends - 1] = Numbers.end_of_document
    return write_store(folder, ids, ends, vocabulary)


def write_store(folder: Path, ids: np.ndarray, ends: np.ndarray, vocabulary: int) -> Path:
    """Write a token store.

    Args:
        folder: made here.
        ids: (tokens,) of all documents, each with id 0 at its end.
        ends: (documents,) where each document ends in `ids`, its last token included.
        vocabulary: size of it; ids fit two bytes.
    """
    folder.mkdir(parents=True)
    ids.astype("<u2").tofile(folder / "tokens.bin")
    np.concatenate([[0], ends]).astype("<u8").tofile(folder / "offsets.bin")
    (4 * np.diff(ends, prepend=0)).astype("<u4").tofile(folder / "document_bytes.bin")
    tokens = len(ids)
    sizes = len(ends), tokens, 4 * tokens, 4 * tokens, tokens
    source = Source("bench", *sizes, fingerprint="")
    special = Numbers.end_of_document, Numbers.document_bos
    manifest = Manifest("bench", vocabulary, *special, "uint16", *sizes, sources=(source,))
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return folder
