"""How fast text becomes ids: a share of the tokenizers library's own speed, and beside `datasets.map`.

Usage: python bench/tokenizing.py [DATA…] [--rounds 5] [--json]; the installed documentation by default (20,000
documents of it). Two comparisons, each side in turns, with the same documents and the same tokenizer:

- encoding alone: the library makes its encodings; ours also cuts long documents and makes the arrays of a token store;
- a JSON Lines file made ready for training: `lavra prepare` (the split, checksums and the report
  included) beside `load_dataset`, `map` and grouping by `map` with two processes, as transformers'
  `run_clm.py` does it. This side is left out where `datasets` is not installed.

Exits 1 where encoding is below nine tenths of the library's speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any

from _results import Spread, ratios, record
from lavra.core.progress import log, set_quiet
from lavra.data.readers.documents import read_rows
from lavra.data.token_store.prepare import prepare
from lavra.data.tokenizers.tokenizer import Tokenizer

MOST_DOCUMENTS = 20_000
WANTED = 0.9
PROCESSES = 2
BLOCK = 256


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round of every side."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return times


def as_run_clm(file: Path, tokenizer: Path, folder: Path) -> None:
    """Read, tokenise and group a file as `run_clm.py` does, with nothing cached before."""
    from datasets import load_dataset
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    data = load_dataset("json", data_files=str(file), cache_dir=str(folder), split="train")

    def tokenized(examples: Any) -> Any:
        return fast(examples["text"])

    def grouped(examples: Any) -> Any:
        joined = {key: list(chain(*examples[key])) for key in examples}
        length = len(joined["input_ids"]) // BLOCK * BLOCK
        result = {key: [ids[i : i + BLOCK] for i in range(0, length, BLOCK)] for key, ids in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    options: Any = {"batched": True, "num_proc": PROCESSES}
    data = data.map(tokenized, remove_columns=["text"], **options)
    data.map(grouped, **options)


def whole(texts: list[str], tokenizer: Tokenizer, rounds: int) -> dict[str, list[float]]:
    """Return the seconds from a file to what training reads."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        file = home / "text.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf8")
        tokenizer.save(home / "tokenizer")
        number = iter(range(2 * rounds))
        sides: dict[str, Callable[[], object]] = {
            "lavra prepare": lambda: prepare([str(file)], home / str(next(number)), tokenizer=tokenizer)
        }
        if find_spec("datasets"):
            from datasets.utils.logging import disable_progress_bar

            disable_progress_bar()
            saved = next((home / "tokenizer").glob("tokenizer.json"))
            sides["datasets.map"] = lambda: as_run_clm(file, saved, home / str(next(number)))
        else:
            log("datasets is not installed: pip install datasets")
        return in_turns(sides, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["installed-docs:"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    texts = [row.text for row in islice(read_rows(arguments.data), MOST_DOCUMENTS)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    set_quiet(True)
    tokenizer = Tokenizer.train(texts[::4], 8192)
    encoding = in_turns(
        {
            "tokenizers library": lambda: tokenizer.inner.encode_batch_fast(texts, add_special_tokens=False),
            "lavra": lambda: tokenizer.encode_many(texts),
        },
        arguments.rounds,
    )
    found = {**encoding, **whole(texts, tokenizer, arguments.rounds)}
    share = ratios(found["tokenizers library"], found["lavra"])
    faster = ratios(found["datasets.map"], found["lavra prepare"]) if "datasets.map" in found else None
    result = {
        "documents": len(texts),
        "megabytes": megabytes,
        "megabytes_per_second": {
            name: Spread.of([megabytes / seconds for seconds in times]).to_json() for name, times in found.items()
        },
        "share_of_library": share.to_json(),
        "prepare_is_faster_by": None if faster is None else faster.to_json(),
    }
    record("tokenizing", result)
    print(json.dumps(result) if arguments.json else show(result))
    return int(share.median < WANTED)


def show(result: dict[str, Any]) -> str:
    """Return the result as lines."""
    lines = [f"{result['documents']:,} documents, {result['megabytes']:.1f} MB; medians and ranges"]
    for name, speed in result["megabytes_per_second"].items():
        lines.append(f"  {name:<20} {speed['median']:6.2f} MB/s  ({speed['low']:.2f}-{speed['high']:.2f})")
    share, faster = result["share_of_library"], result["prepare_is_faster_by"]
    lines.append(f"  encoding is {share['median']:.2f} of the library's speed ({share['low']:.2f}-{share['high']:.2f})")
    if faster is not None:
        lines.append(f"  preparing is {faster['median']:.2f} times as fast as datasets.map "
                     f"({faster['low']:.2f}-{faster['high']:.2f})")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
