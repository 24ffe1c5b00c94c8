"""Searching many vectors: index time, memory, size, latency and recall of each form, against comparing all of them.

    python bench/dense_search.py [--vectors 1000000] [--dimensions 384] [--forms hnsw,int8,binary,exact] [--json]

The vectors are drawn, and have a structure as those of texts do: topics in a space of a few dozen dimensions, put into
the many dimensions of an encoder with some noise. (Without structure no graph finds anything: all are equally far.)
A query lies near one of them, as a question lies near its passage. Each form is built and searched in a process of its
own, whose peak of memory is reported; a query goes alone, through the index's own search, with ten results wanted.

Goals for a million vectors of 384: p95 of a query at most 20 ms, Recall@10 at least 0.95 of the exact search.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _results import record
from lavra.core.progress import set_quiet
from lavra.search.index.dense.settings import DenseSettings, Method, Store
from lavra.search.index.dense.stores import stored
from lavra.search.index.dense.vectors import DenseSnapshot, build_vectors

FORMS: dict[str, tuple[Store, Method]] = {
    "hnsw": ("float16", "hnsw"),
    "int8": ("int8", "hnsw"),
    "binary": ("binary", "auto"),
    "exact": ("float16", "exact"),
}
GOALS = {"p95 of a query (ms)": 20.0, "Recall@10": 0.95}
LATENT = 48
AT_ONCE = 50_000
TOP = 10


def drawn(count: int, dimensions: int, seed: int, topics: int) -> NDArray[np.float32]:
    """Return vectors of length 1: (count, dimensions); the same topics and directions for every seed."""
    shared, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    directions = np.linalg.qr(shared.standard_normal((dimensions, LATENT)))[0].T.astype(np.float32)
    centres = shared.standard_normal((topics, LATENT), dtype=np.float32)
    latent = centres[own.integers(0, topics, count)] + 0.7 * own.standard_normal((count, LATENT), dtype=np.float32)
    vectors = latent @ directions
    vectors += 0.15 * own.standard_normal((count, dimensions), dtype=np.float32) * np.sqrt(LATENT / dimensions)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def queries_of(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return queries, each near one of the vectors: a cosine of about 0.8."""
    noise = np.random.default_rng([2, seed]).standard_normal(vectors.shape, dtype=np.float32)
    found = vectors + 0.75 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def write_sources(folder: Path, count: int, dimensions: int, store: Store) -> list[Path]:
    """Write the vectors in blocks, as an update embeds them; return the folders."""
    topics = max(10, count // 200)
    made = []
    for number, first in enumerate(range(0, count, AT_ONCE)):
        some = min(AT_ONCE, count - first)
        made.append(folder / f"vectors-{number:06d}")
        made[-1].mkdir()
        for name, part in stored(drawn(some, dimensions, number, topics), store).items():
            np.save(made[-1] / f"{name}.npy", part)
        np.save(made[-1] / "keys.npy", keys_of(first, some))
    return made


def keys_of(first: int, count: int) -> NDArray[np.uint64]:
    """Return different keys, (count, 2), in no order, as hashes are: an odd factor permutes the 64-bit numbers."""
    numbers = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    return np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers], axis=1)


def build(folder: Path, count: int, settings: DenseSettings) -> dict[str, float]:
    """Build one form; return seconds and the peak of memory in MB."""
    (folder / "dense").mkdir()
    begun = time.perf_counter()
    build_vectors(folder / "dense", keys_of(0, count), sorted(folder.glob("vectors-*")), settings)
    return {"index time (s)": time.perf_counter() - begun, "peak when indexing (MB)": peak()}


def search(folder: Path, asked: int) -> dict[str, float]:
    """Search one form; return latencies in ms, the recall and the peak of memory in MB."""
    folder /= "dense"
    count = len(np.load(folder / "keys.npy", mmap_mode="r"))
    snapshot = DenseSnapshot(folder, np.arange(count, dtype=np.int32), None)
    chosen = np.sort(np.random.default_rng(3).choice(count, min(asked, count), replace=False))
    queries = queries_of(snapshot.vectors.rows(chosen), 0)
    for query in queries[:20]:
        snapshot.search(query, TOP)
    seconds, found = [], []
    for query in queries:
        begun = time.perf_counter()
        found.append(snapshot.search(query, TOP).numbers)
        seconds.append(time.perf_counter() - begun)
    memory = peak()  # before all vectors are compared
    hits = 0
    for first in range(0, len(queries), 20):
        products = snapshot.vectors.products(queries[first : first + 20])
        exact = np.argpartition(products, -TOP, axis=1)[:, -TOP:]
        hits += sum(len(np.intersect1d(*pair)) for pair in zip(found[first : first + 20], exact, strict=True))
    p50, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {
        "p50 of a query (ms)": float(p50),
        "p95 of a query (ms)": float(p95),
        "Recall@10": hits / (len(queries) * TOP),
        "size on disk (MB)": sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        "peak when searching (MB)": memory,
    }


def peak() -> float:
    """Return the most memory that this process has held, in MB; pages of mapped files count while they are held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def alone(step: str, folder: Path, form: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one step in a process of its own."""
    words = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--forms", form]
    for name in ("vectors", "dimensions", "queries"):
        words += [f"--{name}", str(getattr(options, name))]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measured(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one form in a folder that is removed."""
    folder = Path(tempfile.mkdtemp(prefix="lavra-dense-"))
    try:
        alone("write", folder, form, options)
        built = alone("build", folder, form, options)
        return {**built, **alone("search", folder, form, options)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_step(options: argparse.Namespace) -> dict[str, float]:
    """Run the step that this process is for."""
    set_quiet(True)
    store, method = FORMS[options.forms]
    settings = DenseSettings("drawn", "drawn", options.dimensions, store, method)
    if options.step == "write":
        write_sources(options.folder, options.vectors, options.dimensions, store)
        return {}
    return (
        build(options.folder, options.vectors, settings)
        if options.step == "build"
        else search(options.folder, options.queries)
    )


def main() -> int:
    """Measure every form and print a table; 1 where the graph misses a goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--forms", default=",".join(FORMS), help="which of hnsw, int8, binary, exact")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", choices=("write", "build", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(run_step(options)))
        return 0
    found: dict[str, dict[str, float]] = {}
    for form in options.forms.split(","):
        found[form] = measured(form, options)
        if not options.json:
            print(form, *(f"  {name}: {value:,.2f}" for name, value in found[form].items()), sep="\n", flush=True)
    graph = found.get("hnsw", {})
    kept = {
        "p95": graph.get("p95 of a query (ms)", 0.0) <= GOALS["p95 of a query (ms)"],
        "recall": graph.get("Recall@10", 1.0) >= GOALS["Recall@10"],
    }
    result = {"vectors": options.vectors, "dimensions": options.dimensions, "forms": found, "goals_kept": kept}
    record("dense_search", result)
    if options.json:
        print(json.dumps(result))
    else:
        print("goals of the graph: " + ", ".join(f"{name} {'kept' if ok else 'MISSED'}" for name, ok in kept.items()))
    return int(not all(kept.values()))


if __name__ == "__main__":
    sys.exit(main())
