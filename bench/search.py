"""Indexing and searching against `bm25s` and `rank_bm25` used directly, in turn in one process: ratios and spread.

    python bench/search.py [BEIR_FOLDER] [--rounds 5]

Without a folder the installed documentation is searched with its own summaries. Times are processor seconds, so that
other work on the machine disturbs less. lavra's index also keeps texts and counts on disk, synced. `rank_bm25` scores
every document in Python and stems nothing, so it answers the first 50 queries only; its times are for as many as the
others'.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

import bm25s
import rank_bm25
import Stemmer

from lavra.core.progress import set_quiet
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import open_collection
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.text.analyzers import Analyzer


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


_ASKED = 50
_WORD = re.compile(r"\w+")


def in_python(documents: list[Document], queries: list[str], _: Path) -> tuple[float, float]:
    """Return the same for rank_bm25, whose searching is reckoned from a few queries."""
    start = time.process_time()
    engine = rank_bm25.BM25Okapi([_WORD.findall(document.contents.lower()) for document in documents], k1=0.9, b=0.4)
    indexed = time.process_time() - start
    asked = queries[:_ASKED]
    start = time.process_time()
    for query in asked:
        engine.get_top_n(_WORD.findall(query.lower()), documents, n=10)
    return indexed, (time.process_time() - start) * len(queries) / len(asked)


SIDES = {"lavra": ours, "bm25s": theirs, "rank_bm25": in_python}


def main() -> None:
    """Print all sides, and the ratio lavra / other over the rounds."""
    options = argparse.ArgumentParser()
    options.add_argument("collection", nargs="?", default="installed-docs:")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    set_quiet(True)
    collection = open_collection(chosen.collection)
    documents = list(collection.documents())
    queries = list(collection.queries().values())[:2000]
    print(f"{collection.name}: {len(documents):,} documents, {len(queries):,} queries")
    rounds: list[dict[str, tuple[float, float]]] = []
    for _ in range(chosen.rounds):
        rounds.append({})
        for name, run in SIDES.items():
            with tempfile.TemporaryDirectory() as folder:
                rounds[-1][name] = run(documents, queries, Path(folder))
    for part, work in enumerate(("indexing", "searching")):
        for name in SIDES:
            seconds = statistics.median(one[name][part] for one in rounds)
            ratios = sorted(one["lavra"][part] / one[name][part] for one in rounds)
            spread = f"lavra / {name} {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"{work}: {name} {seconds:.2f} s" + ("" if name == "lavra" else f", {spread}"))


if __name__ == "__main__":
    main()
