"""What a person can ask of the training of a query generator, and of an expansion of documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.config.quantities import Duration


@dataclass(frozen=True)
class Doc2QueryConfig:
    """A query generator, from passages and the queries that people asked of them."""

    pairs: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PAIRS")]
    """A BEIR folder, installed-docs:, ir_datasets:NAME, MS MARCO triples (.tsv), or JSONL with passage and query."""
    split: str = "train"
    """Of a collection's judgements."""
    base: str | None = None
    """The model to go on from (also --from): an encoder-decoder, a decoder, or an encoder, which gets a decoder."""
    budget: Duration | None = None
    """Time for all of it, validation included; 10m when no length is given."""
    epochs: float | None = None
    """Length in passes over the pairs, instead of a time."""
    steps: int | None = None
    """Length in optimiser steps, instead of a time."""
    out: str | None = None
    """The run folder; a new one under runs/ by default."""
    force: bool = False
    """Replace an existing run folder."""
    seed: int = 0
    """Of everything that is random."""
    learning_rate: float | None = None
    """AdamW's peak learning rate; chosen by what is trained by default."""
    freeze: tuple[str, ...] = ()
    """Parts of the model given by --from that do not learn, as names or globs, which makes steps quicker."""
    context: int | None = None
    """Tokens of a row, for a model from nothing; 512 by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the working weights."""
    check: bool = True
    """Check the set-up before the first step."""
    validation_documents: int = 200
    """Held-out documents for which queries are written and compared with people's."""


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
