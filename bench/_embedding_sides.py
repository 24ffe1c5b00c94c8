"""The worker of bench/embedding.py: the same texts embedded with the same weights, by lavra or sentence-transformers.

Settings: `side`, `model`, `texts` (a JSON file with a list), `at_once` (texts of a call), `vectors` (a file for the
vectors of the first call). A step is one call of `encode`, as a user makes it; what is counted are texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from _turns import Turns, memory, serve

Encode = Callable[[list[str]], np.ndarray]


def lavra(model: str, precision: str) -> Encode:
    """Return lavra's encoder, in a process that keeps freed memory as `lavra embed` does."""
    from lavra.core.machine import keep_freed_memory

    keep_freed_memory()
    from lavra.workflows.embeddings.open_encoder import open_encoder

    return open_encoder(model, device="cpu", precision=precision).encode


def sentence_transformers(model: str, half: bool) -> Encode:
    """Return the encoder of sentence-transformers, with its own batches."""
    import torch
    from sentence_transformers import SentenceTransformer

    kwargs: dict[str, Any] = {"model_kwargs": {"dtype": torch.bfloat16}} if half else {}
    opened = SentenceTransformer(model, device="cpu", local_files_only=True, **kwargs)

    def encode(texts: list[str]) -> np.ndarray:
        found = opened.encode(texts, show_progress_bar=False, normalize_embeddings=True, convert_to_tensor=True)
        return found.float().numpy()

    return encode


SIDES: dict[str, Callable[[str], Encode]] = {
    "lavra": lambda model: lavra(model, "auto"),
    "lavra, fp32": lambda model: lavra(model, "fp32"),
    "sentence-transformers": lambda model: sentence_transformers(model, half=False),
    "sentence-transformers, bf16": lambda model: sentence_transformers(model, half=True),
}


def blocks(texts: list[str], at_once: int) -> Iterator[list[str]]:
    """Yield the texts of each call, again and again."""
    for number in count():
        start = number * at_once % max(1, len(texts) - at_once + 1)
        yield texts[start : start + at_once]


def program(settings: dict[str, Any], turns: Turns) -> None:
    """Embed block by block."""
    texts = json.loads(Path(settings["texts"]).read_text(encoding="utf8"))
    memory.begin()
    encode = SIDES[settings["side"]](settings["model"])
    for number, block in enumerate(blocks(texts, settings["at_once"])):
        found = encode(block)
        if not number:
            np.save(Path(settings["vectors"]) / f"{settings['side']}.npy", found)
        if not turns.step_done(len(block)):
            return


if __name__ == "__main__":
    serve(program)
