"""Peak memory of indexing, searching and expanding, as a corpus grows: it must not grow with it.

Usage: python bench/streaming.py [--documents 20000 100000] [--words 40] [--json]

Each stage is a process of its own, whose peak of resident memory the system reports (VmHWM): `lavra index` of new
documents with two generated queries each, `lavra index` again with nothing changed, `lavra search`, and all that
`lavra expand` does around its model: reading, sampling, chunking, the cache and the file (queries come from a stand-in
that takes them out of the passage). What is mapped from disk counts in that peak as far as it was read; a second figure
leaves it out (RssAnon, looked at ten times a second).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_REPORT = """
import sys
from lavra.cli.main import main
code = main(sys.argv[1:])
print(open("/proc/self/status").read(), file=sys.stderr)
sys.exit(code)
"""

_EXPAND = """
import sys
from pathlib import Path
import lavra.workflows.search.expand as recipe
from lavra.cli.main import main
from lavra.workflows.search.query_generators import OpenWriter
from lavra.search.expansion.prompts import BARE

class Words:
    unknown = None
    def encode(self, text): return text.split()
    def decode(self, ids): return " ".join(ids)

class Copying:
    fingerprint, room, tokenizer = "copying", 32, Words()
    def write(self, passages, count, seed):
        return [[" ".join(passage.split()[number : number + 5]) for number in range(count)] for passage in passages]

recipe.open_writer = lambda config: OpenWriter(Copying(), BARE, "none", None)
code = main(sys.argv[1:])
print(open("/proc/self/status").read(), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Stage:
    """What a process took: seconds, its peak of resident memory, and that without what is mapped from files; in MiB."""

    name: str
    documents: int
    seconds: float
    peak: float
    own: float


def write_corpus(folder: Path, documents: int, words: int) -> None:
    """Write documents of random words with the frequencies of language, and two queries for each."""
    chance = random.Random(documents)
    vocabulary = ["".join(chance.choices("abcdefghilmnoprstuv", k=chance.randint(3, 9))) for _ in range(50_000)]
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    sums = [0.0]
    for weight in weights:
        sums.append(sums[-1] + weight)
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "expansions.jsonl").open("w") as expansions:
        for number in range(documents):
            text = chance.choices(vocabulary, cum_weights=sums[1:], k=words + 8)
            row = {"_id": f"document-{number}", "title": "", "text": " ".join(text[:words])}
            corpus.write(json.dumps(row) + "\n")
            queries = [" ".join(text[start : start + 5]) for start in (words - 1, words + 3)]
            expansions.write(json.dumps({"id": row["_id"], "predicted_queries": queries}) + "\n")


def measure(name: str, documents: int, program: str, *words: str) -> Stage:
    """Run a command to its end, and return what it took."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    own = _Watch(process.pid)
    _, errors = process.communicate()
    own.join()
    if process.returncode:
        raise RuntimeError(f"{name} ended with {process.returncode}:\n{errors}")
    peak = next(int(line.split()[1]) for line in errors.splitlines() if line.startswith("VmHWM:"))
    return Stage(name, documents, time.monotonic() - begun, peak / 1024, own.highest / 1024)


class _Watch(threading.Thread):
    """Looks at a process's own memory until it ends."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.highest, self._status = 0, Path(f"/proc/{process}/status")
        self.start()

    def run(self) -> None:
        while True:
            try:
                fields = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
                self.highest = max(self.highest, int(fields["RssAnon"].split()[0]))
            except (OSError, KeyError):  # it has ended
                return
            time.sleep(0.1)


def stages(documents: int, words: int) -> Iterator[Stage]:
    """Measure every stage on a corpus of that many documents."""
    folder = Path(tempfile.mkdtemp(prefix="lavra-streaming-"))
    try:
        write_corpus(folder, documents, words)
        corpus, index = str(folder / "corpus.jsonl"), str(folder / "index")
        expansions = ("--expansions", str(folder / "expansions.jsonl"))
        indexing = ("index", corpus, *expansions, "--language", "en", "--out", index, "--quiet")
        out = str(folder / "written.jsonl")
        expanding = ("expand", corpus, "--model", "none", "--queries", "2", "--out", out, "--quiet")
        yield measure("index", documents, _REPORT, *indexing)
        yield measure("index again", documents, _REPORT, *indexing)
        searching = ("search", "the document of words", "--index", index, "--quiet")
        yield measure("search", documents, _REPORT, *searching)
        yield measure("expand", documents, _EXPAND, *expanding)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    for documents in options.documents:
        for stage in stages(documents, options.words):
            found.append(stage)
            if not options.json:
                print(
                    f"{stage.documents:>9,} documents  {stage.name:<12} {stage.seconds:7.1f} s  "
                    f"peak {stage.peak:6.0f} MiB, {stage.own:6.0f} without mapped files",
                    flush=True,
                )
    if options.json:
        print(json.dumps([vars(stage) for stage in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
