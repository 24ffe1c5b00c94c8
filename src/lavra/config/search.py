"""The options of training a query generator, and of expanding documents with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.config.quantities import Duration


@dataclass(frozen=True)
class Doc2QueryConfig:
    """Training of a query generator (doc2query) on passages and the queries that people asked of them."""

    pairs: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PAIRS")]
    """The pairs of passage and query: a BEIR folder, installed-docs:, ir_datasets:NAME, MS MARCO triples (.tsv), or
    JSON Lines with passage and query."""
    split: str = "train"
    """Split of a collection's relevance judgements from which the pairs come."""
    base: str | None = None
    """The pretrained model to adapt (also --from): an encoder-decoder, a decoder, or an encoder, to which a decoder is
    added. By default a new decoder is trained from scratch."""
    budget: Duration | None = None
    """Time for training and validation together; 10m when no length is given."""
    epochs: float | None = None
    """Length of the run in passes over the pairs, instead of a time."""
    steps: int | None = None
    """Length of the run in optimiser steps, instead of a time."""
    out: str | None = None
    """The folder of the run; a new one under runs/ by default."""
    force: bool = False
    """Replace an existing run folder."""
    seed: int = 0
    """Seed of everything that is random."""
    learning_rate: float | None = None
    """AdamW's peak learning rate; by default it depends on the model that is trained."""
    freeze: tuple[str, ...] = ()
    """Parameters of the model given by --from that are not trained, as names or globs; steps are faster then."""
    context: int | None = None
    """Tokens of a sequence, for a model trained from scratch; 512 by default."""
    device: str = "auto"
    """Device that holds the model and computes: auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the weights in the forward and backward pass."""
    check: bool = True
    """--no-check leaves out the checks of the set-up before the first step; a failed check ends the run."""
    validation_documents: int = 200
    """Number of validation documents for which queries are generated and compared with people's."""


Engine = Literal["auto", "torch", "ctranslate2"]
"""Names of the libraries that can generate the queries; auto chooses one."""


@dataclass(frozen=True)
class ExpandConfig:
    """Expansion of the documents of a collection with generated queries (doc2query)."""

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """The documents: a BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    model: str
    """The query generator: a run of `lavra doc2query train`, or any decoder or encoder-decoder (folder or hub name)."""
    out: str = "expanded.jsonl"
    """The file of queries; FILE.about.json beside it says how they were generated."""
    queries: int = 10
    """Queries for each chunk; a single one is generated greedily, several are sampled."""
    top_k: int = 10
    """Sample each token among this many most probable ones; 0 for all."""
    temperature: float = 1.0
    """Sampling temperature; below 1 the queries are more alike."""
    chunk_tokens: int = 0
    """Split long documents into chunks of whole sentences with at most this many tokens; 0 takes as many as the model
    can read."""
    overlap: int = 0
    """Most tokens that consecutive chunks share."""
    score_with: str = ""
    """Score the queries, for the filter of `lavra index`: `model` takes the generator's log-probability; else give the
    folder of a cross-encoder or bi-encoder."""
    engine: Engine = "auto"
    """Library that generates: auto takes ctranslate2 in int8 for an encoder-decoder on a CPU, else torch."""
    cache: str | None = None
    """File that caches the generated queries by the content of their chunk; by default FILE.cache beside the queries.
    """
    device: str = "auto"
    """Device that holds the model and computes: auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the weights, with torch."""
    seed: int = 0
    """Seed of the sampling; the same seed gives the same queries."""
    force: bool = False
    """Replace a file of queries that was generated with another model or other options."""
