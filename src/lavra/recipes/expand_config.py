"""What a person can ask of an expansion; the defaults, the command line and the help in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Engine = Literal["auto", "torch", "ctranslate2"]
"""What computes the queries."""


@dataclass(frozen=True)
class ExpandConfig:
    """Queries for the documents of a collection."""

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """A BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    model: str
    """A run of `lavra doc2query train`, or any decoder or encoder-decoder: folder or hub name."""
    out: str = "expanded.jsonl"
    """The file of queries; FILE.about.json beside it says how they were made."""
    queries: int = 10
    """For each chunk; one is the likeliest, several are drawn."""
    top_k: int = 10
    """Draw each token among this many likeliest ones; 0 for all."""
    temperature: float = 1.0
    """Of the draw; below 1 queries are more alike."""
    chunk_tokens: int = 0
    """Long documents are cut into chunks of whole sentences of at most this many tokens; 0: what the model can read."""
    overlap: int = 0
    """Tokens that consecutive chunks share at most."""
    score_with: str = ""
    """Score queries for the filter with `model` (its log-probability), or a folder of a cross-encoder or bi-encoder."""
    engine: Engine = "auto"
    """What computes: auto takes ctranslate2 in int8 for an encoder-decoder on a CPU, else torch."""
    cache: str | None = None
    """File of what was written, by content; FILE.cache beside the queries by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the weights, with torch."""
    seed: int = 0
    """Of what is drawn: same seed, same queries."""
    force: bool = False
    """Replace a file of queries that was made otherwise."""
