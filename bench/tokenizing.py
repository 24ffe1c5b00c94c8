"""How fast text becomes ids, as a share of what the tokenizers library reaches alone on the same text.

Usage: python bench/tokenizing.py [DATA…] [--json]; the installed documentation by default. Both sides encode the same
documents with the same tokenizer in turns; medians of five. The library's side only makes its encodings; ours also cuts
long documents and makes the arrays that a token store holds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import islice

from lavra.data.readers import read_rows
from lavra.data.tokenizer import Tokenizer

TIMES, MOST_DOCUMENTS, WANTED = 5, 20_000, 0.9


def main() -> int:
    locations = [word for word in sys.argv[1:] if not word.startswith("--")] or ["installed-docs:"]
    texts = [row.text for row in islice(read_rows(locations), MOST_DOCUMENTS)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = Tokenizer.train(texts[::4], 8192)
    sides: dict[str, Callable[[list[str]], object]] = {
        "library": lambda some: tokenizer.inner.encode_batch_fast(some, add_special_tokens=False),
        "lavra": tokenizer.encode_many,
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TIMES):
        for name, encode in sides.items():
            start = time.perf_counter()
            encode(texts)
            times[name].append(time.perf_counter() - start)
    speed = {name: megabytes / statistics.median(values) for name, values in times.items()}
    share = speed["lavra"] / speed["library"]
    if "--json" in sys.argv:
        print(
            json.dumps({"documents": len(texts), "megabytes": megabytes, "megabytes_per_second": speed, "share": share})
        )
    else:
        print(f"{len(texts):,} documents, {megabytes:.1f} MB, medians of {TIMES}")
        for name, value in speed.items():
            spread = (max(times[name]) - min(times[name])) / statistics.median(times[name])
            print(f"  {name:<8} {value:6.1f} MB/s  (spread {spread:.0%})")
        print(f"  share    {share:6.2f}  (wanted: {WANTED})")
    return int(share < WANTED)


if __name__ == "__main__":
    sys.exit(main())
