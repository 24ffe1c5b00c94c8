"""How long a resume takes to find its place: a store of a million tokens against one of a billion.

Usage: python bench/resume_time.py [--json]; the stores are synthetic (sparse files) and the run stands at
its last step. Medians of five; prints the ratio.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lavra.data.packing import WindowSource
from lavra.objectives.causal import Causal
from lavra.training.batches import BatchSource

TIMES = 5
CONTEXT = 256
ROWS = 16


def synthetic_store(folder: Path, tokens: int, document: int = 1000) -> Path:
    """Write a token store of `tokens` zeros but for an end-of-document token after every `document` tokens."""
    from lavra.data.token_store.manifest import Manifest, Source

    folder.mkdir()
    documents = tokens // document
    with (folder / "tokens.bin").open("wb") as handle:
        handle.truncate(2 * tokens)  # zeros that take no room; id 0 is a plain token here
    ends = np.memmap(folder / "tokens.bin", dtype="<u2", mode="r+", shape=(tokens,))
    ends[document - 1 :: document] = 1
    ends.flush()
    np.arange(0, tokens + 1, document, dtype="<u8").tofile(folder / "offsets.bin")
    np.full(documents, 4 * document, dtype="<u4").tofile(folder / "document_bytes.bin")
    sizes = {"documents": documents, "tokens": tokens, "bytes": 4 * tokens, "characters": 4 * tokens, "words": tokens}
    source = Source("synthetic", **sizes, fingerprint="")
    manifest = Manifest("synthetic", 512, 1, 1, "uint16", **sizes, sources=(source,))
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return folder


def seconds_to_last_step(store: Path) -> float:
    """Return the time from opening the store to the batches of the last step of its tenth epoch."""
    from lavra.data.token_store.store import TokenStore

    start = time.perf_counter()
    opened = TokenStore.open(store)
    source = WindowSource(opened, CONTEXT, seed=0)
    steps = 10 * source.order.windows // ROWS
    batches = BatchSource(source, Causal(CONTEXT), global_batch_size=ROWS, micro_batch_size=ROWS, steps=steps, seed=0)
    batches.micro_batches(steps - 1)
    spent = time.perf_counter() - start
    batches.close()
    return spent


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            name: synthetic_store(Path(folder) / name, tokens)
            for name, tokens in (("million", 10**6), ("billion", 10**9))
        }
        times = {name: statistics.median(seconds_to_last_step(s) for _ in range(TIMES)) for name, s in stores.items()}
    ratio = times["billion"] / times["million"]
    if "--json" in sys.argv:
        print(json.dumps({"seconds": times, "ratio": ratio}))
    else:
        for name, value in times.items():
            print(f"a {name} tokens: {1000 * value:.1f} ms to the batches of the last step")
        print(f"ratio {ratio:.2f}")
    return int(times["billion"] > 3.0)


if __name__ == "__main__":
    sys.exit(main())
