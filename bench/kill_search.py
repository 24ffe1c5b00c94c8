"""Kill `lavra expand` and `lavra index` with SIGKILL, give the command again, and compare with one never stopped.

Usage: python bench/kill_search.py [--times 30] [--seed 0] [--json]; exits 1 unless every trial ends the same.

Trials take turns: an expansion, a new index, and an index that is brought up to date after documents were changed,
added and taken away, both without vectors and with them. Each dies at a random access to the files that it makes, or at
a random moment by the clock. Compared are the bytes of the expansions and of what is searched, and that nothing was
written or embedded twice. The vectors are drawn by the content of a text, since what is tried is their keeping.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

DOCUMENTS = 150
SEGMENT = 40
VECTORS = ("vectors", "vectors again")
"""The trials of an index with vectors: a new one, and one that is brought up to date."""

PROGRAM = """
import os, signal, sys, zlib
moment, root, segment = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
reached = 0

def reach():
    global reached
    reached += 1
    if reached == moment:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"):
        return
    if isinstance(arguments[0], str | bytes | os.PathLike) and os.fsdecode(arguments[0]).startswith(root):
        reach()

def put(cache, values):
    reach()
    keep(cache, values)
    reach()

import numpy as np
from lavra.cli.main import main
from lavra.search.expansion import expand
from lavra.search.expansion.cache import ExpansionCache
from lavra.search.index.dense import embedding
from lavra.search.index.segments import SegmentWriter
from lavra.workflows.search import dense

class Drawn:
    fingerprint, dimensions, longest = "drawn by content", 16, None

    def encode(self, texts, *, kind="text"):
        reach()
        drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(16) for text in texts]
        vectors = np.array(drawn, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

dense.open_encoder = lambda *_: Drawn()
embedding.BATCH = 16
expand._GROUP = 8
SegmentWriter.is_full = property(lambda self: len(self) >= segment)
keep, ExpansionCache.put = ExpansionCache.put, put
sys.addaudithook(hook)
ended = main(sys.argv[4:])
print(f"reached {reached}", file=sys.stderr)
sys.exit(ended)
"""
"""A command that dies at the n-th access to what lies below `root`; segments and groups are small, so that there
are several, and as many at every speed."""


def command(*words: str, root: Path, moment: int = 0) -> subprocess.Popen[bytes]:
    """Start a lavra command that dies at its `moment`-th access to what lies below `root`; 0: never."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(moment), str(root), str(SEGMENT), *words, "--quiet", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], int]:
    """Wait for a command that must succeed; return what it printed, and how often it accessed its files."""
    printed, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"ended with {process.returncode}:\n{errors.decode()}")
    return json.loads(printed), int(errors.decode().rpartition("reached ")[2])


def killed(process: subprocess.Popen[bytes], after: float | None = None) -> bool:
    """Let a command die, by itself or after some seconds; return whether it did."""
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"ended with {process.returncode} instead of being killed")
    return process.returncode != 0


def make_model(folder: Path) -> Path:
    """Write a tiny GPT-2 with random weights, and a tokenizer of bytes."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<|endoftext|>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf8")
    width, context = 16, 256
    sizes = {"vocab_size": len(vocabulary), "n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": context}
    kind = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 0, "eos_token_id": 0}
    (folder / "config.json").write_text(json.dumps(kind | sizes), encoding="utf8")
    shapes = {"wte.weight": (len(vocabulary), width), "wpe.weight": (context, width)}
    for name, rows, columns in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):
        shapes |= {f"h.0.{name}.weight": (rows * width, columns * width), f"h.0.{name}.bias": (columns * width,)}
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    chance = np.random.default_rng(0)
    weights = {f"transformer.{name}": chance.normal(0, 0.3, shape) for name, shape in shapes.items()}
    save_file({name: weight.astype(np.float32) for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def write_corpus(path: Path, *, later: bool = False, documents: int = DOCUMENTS) -> Path:
    """Write documents; `later`, some of them have changed, some are gone and some are new."""
    words = ("rio", "monte", "praia", "serra", "vinho", "queijo", "barco", "ponte", "igreja", "castelo", "feira", "mar")
    chance = random.Random(7)
    lines = []
    for number in range(documents + 30):
        text = " ".join(chance.choices(words, k=12))
        if (number % 11 == 0) if later else number >= documents:
            continue
        text += f" mudou {number}" if later and number % 5 == 0 else f" {number}"
        lines.append(json.dumps({"_id": f"d{number}", "title": "", "text": text}) + "\n")
    path.write_text("".join(lines), encoding="utf8")
    return path


def expand_words(corpus: Path, model: Path, out: Path) -> list[str]:
    """Return the command that writes queries."""
    return ["expand", str(corpus), "--model", str(model), "--queries", "2", "--device", "cpu", "--out", str(out)]


def index_words(corpus: Path, expansions: Path, out: Path) -> list[str]:
    """Return the command that makes an index, or brings it up to date."""
    return ["index", str(corpus), "--expansions", str(expansions), "--language", "pt", "--out", str(out)]


def expansion_fingerprint(out: Path) -> dict[str, Any]:
    """Return what must be equal: the bytes of the queries, all that is in the cache, and that nothing else lies there.

    The cache keeps the first of two values of a key, so that its rows tell what was written, and its number how often.
    """
    cache = out.with_name(f"{out.name}.cache")
    with closing(sqlite3.connect(cache)) as database:
        rows = database.execute("SELECT key, value FROM made ORDER BY key").fetchall()
    left = sorted(path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}"))
    request = json.loads(out.with_name(f"{out.name}.provenance.json").read_text("utf8"))["request"]
    return {"queries": _hash(out), "cache": hash_of(repr(rows).encode()), "left": left, "request": request}


def index_fingerprint(folder: Path) -> dict[str, Any]:
    """Return what must be equal: all that is searched, the documents, and that nothing else lies in the folder."""
    from lavra.search.index.index import Index

    index = Index(folder)
    assert index.snapshot is not None
    searched = index.snapshot.folder
    names = ("scores", "units", "starts", "lengths", "ids", "id_starts", "ranks", "hashes")
    documents = hash_of("".join(repr((one.id, one.text, one.queries)) for one in index.documents()).encode())
    manifest = json.loads((folder / "index.json").read_text("utf8"))
    named = {*manifest["segments"], *manifest["vocabulary"], manifest["postings"], "index.json", "lock"}
    dense = folder / manifest["dense"] if manifest["dense"] else None
    return {
        **{name: _hash(searched / f"{name}.npy") for name in names},
        **{f"dense {name}": _hash(dense / f"{name}.npy") for name in ("vectors", "keys") if dense},
        "waiting": manifest["vectors"],
        "documents": documents,
        "complete": index.is_complete,
        "left": sorted(path.name for path in folder.iterdir() if path.name not in {*named, manifest["dense"]}),
    }


def embedded_texts(folder: Path) -> set[bytes]:
    """Return the keys of the texts of which an index has vectors, also of an unfinished update."""
    import numpy as np

    if not (folder / "index.json").exists():
        return set()
    manifest = json.loads((folder / "index.json").read_text("utf8"))
    named = [name for name in (manifest["dense"], *manifest["vectors"]) if name]
    return {key.tobytes() for name in named for key in np.load(folder / name / "keys.npy")}


def _hash(path: Path) -> str:
    return hash_of(path.read_bytes())


def hash_of(content: bytes) -> str:
    """Return a short name of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


class Bench:
    """The inputs, the results that were never interrupted, and trials that are.

    Args:
        folder: for all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = make_model(folder / "model")
        self.corpora = write_corpus(folder / "corpus.jsonl"), write_corpus(folder / "later.jsonl", later=True)
        self.expansions = folder / "whole.jsonl"
        self.accesses: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, dict[str, Any]] = {}
        for kind in ("expand", "index", "update", *VECTORS):
            home = folder / f"whole-{kind}"
            self.prepare(kind, home)
            begun = time.monotonic()
            _, self.accesses[kind] = finish(command(*self.words(kind, home), root=home))
            self.seconds[kind] = time.monotonic() - begun
            self.expected[kind] = self.fingerprint(kind, home)
            if kind == "expand":
                shutil.copy(home / "out.jsonl", self.expansions)

    def words(self, kind: str, home: Path) -> list[str]:
        """Return the command of a kind of trial."""
        if kind == "expand":
            return expand_words(self.corpora[0], self.model, home / "out.jsonl")
        words = index_words(self.corpora[kind in ("update", VECTORS[1])], self.expansions, home / "index")
        return [*words, "--dense", "drawn", "--dense.store", "int8"] if kind in VECTORS else words

    def prepare(self, kind: str, home: Path) -> None:
        """Make the folder of a trial; an update finds an index there."""
        home.mkdir()
        before = {"update": "index", VECTORS[1]: VECTORS[0]}.get(kind)
        if before:
            shutil.copytree(self.folder / f"whole-{before}" / "index", home / "index")

    def fingerprint(self, kind: str, home: Path) -> dict[str, Any]:
        """Return what must be equal."""
        return expansion_fingerprint(home / "out.jsonl") if kind == "expand" else index_fingerprint(home / "index")

    def trial(self, kind: str, name: str, *, moment: int = 0, after: float | None = None) -> tuple[bool, str]:
        """Kill a command and give it again; return whether it died, and what came of it."""
        home = self.folder / name
        self.prepare(kind, home)
        died = killed(command(*self.words(kind, home), root=home, moment=moment), after)
        kept = _entries(home / "out.jsonl.cache") if kind == "expand" else 0
        embedded = embedded_texts(home / "index")
        report, _ = finish(command(*self.words(kind, home), root=home))
        same = self.fingerprint(kind, home) == self.expected[kind]
        if kind == "expand":
            once = report["written"] == _entries(home / "out.jsonl.cache") - kept
        else:
            once = report["added"] + report["replaced"] + report["unchanged"] == report["documents"]
            once &= report["embedded"] == len(embedded_texts(home / "index") - embedded)
        shutil.rmtree(home)
        return died, "the same" if same and once else ("DIFFERENT" if not same else "SOMETHING TWICE")


def _entries(cache: Path) -> int:
    """Return how many chunks the cache holds."""
    if not cache.exists():
        return 0
    with closing(sqlite3.connect(cache)) as database:
        try:
            return database.execute("SELECT count(*) FROM made").fetchone()[0]
        except sqlite3.OperationalError:  # killed before there was a table
            return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="lavra-kill-search-"))
    trials = []
    try:
        bench = Bench(folder)
        for number in range(options.times):
            kind = ("expand", "index", "update", *VECTORS)[number % 5]
            if chance.random() < 0.7:
                given: dict[str, Any] = {"moment": chance.randint(1, bench.accesses[kind])}
            else:
                given = {"after": chance.uniform(0.3, 1.0) * bench.seconds[kind]}
            died, verdict = bench.trial(kind, f"trial-{number}", **given)
            when = ", ".join(f"{name} {value:.4g}" for name, value in given.items())
            trials.append({"kind": kind, "moment": when if died else f"{when} (had ended)", "verdict": verdict})
            if not options.json:
                print("{kind:<13} {moment:<32} {verdict}".format(**trials[-1]), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    same = sum(trial["verdict"] == "the same" for trial in trials)
    if options.json:
        print(json.dumps({"times": options.times, "same": same, "trials": trials}))
    else:
        print(f"{same}/{options.times} ended as the command that was never stopped")
    return int(same != options.times)


if __name__ == "__main__":
    sys.exit(main())
