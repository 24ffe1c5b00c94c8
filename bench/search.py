"""Indexing and searching against `bm25s` used directly, side by side in one process: ratios, and how far they spread.

    python bench/search.py [BEIR_FOLDER] [--rounds 5]

Without a folder the installed documentation is searched with its own summaries. Times are processor seconds, so that
other work on the machine disturbs less. lavra's index also keeps texts and counts on disk, synced.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import bm25s
import Stemmer

from lavra.core.progress import set_quiet
from lavra.search.analyzers import Analyzer
from lavra.search.documents import Document
from lavra.search.formats import open_collection
from lavra.search.index import Index
from lavra.search.settings import IndexSettings


def ours(documents: list[Document], queries: list[str], folder: Path) -> tuple[float, float]:
    """Return processor seconds for indexing, and for the ten best documents of all queries one by one."""
    start = time.process_time()
    index = Index.create(folder / "index", IndexSettings(Analyzer("en")))
    with index.update() as update:
        for document in documents:
            update.put(document)
    indexed = time.process_time() - start
    index = Index(folder / "index")
    index.ids(index.search(queries[0])[0])
    start = time.process_time()
    for query in queries:
        index.ids(index.search(query)[0])
    return indexed, time.process_time() - start


def theirs(documents: list[Document], queries: list[str], folder: Path) -> tuple[float, float]:
    """Return the same for bm25s with the same language."""
    stemmer = Stemmer.Stemmer("english")

    def tokenize(texts: list[str]):
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    start = time.process_time()
    engine = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    engine.index(tokenize([document.contents for document in documents]), show_progress=False)
    engine.save(folder, show_progress=False)
    indexed = time.process_time() - start
    ids = [document.id for document in documents]
    start = time.process_time()
    for query in queries:
        engine.retrieve(tokenize([query]), corpus=ids, k=10, show_progress=False)
    return indexed, time.process_time() - start


def main() -> None:
    """Print both, and the ratio ours / theirs of each round."""
    options = argparse.ArgumentParser()
    options.add_argument("collection", nargs="?", default="installed-docs:")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    set_quiet(True)
    collection = open_collection(chosen.collection)
    documents = list(collection.documents())
    queries = list(collection.queries().values())[:2000]
    print(f"{collection.name}: {len(documents):,} documents, {len(queries):,} queries")
    rounds = []
    for _ in range(chosen.rounds):
        measured = []
        for run in (ours, theirs):
            with tempfile.TemporaryDirectory() as folder:
                measured.append(run(documents, queries, Path(folder)))
        rounds.append(measured)
    for part, name in enumerate(("indexing", "searching")):
        ratios = sorted(one[part] / two[part] for one, two in rounds)
        middle = [statistics.median(one[part] for one in side) for side in zip(*rounds, strict=True)]
        spread = f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name}: lavra {middle[0]:.2f} s, bm25s {middle[1]:.2f} s, {spread}")


if __name__ == "__main__":
    main()
