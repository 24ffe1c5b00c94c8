"""The options of training a query generator (doc2query) and of expanding documents with its queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.config.quantities import Duration


@dataclass(frozen=True)
class Doc2QueryConfig:
    """The training of a query generator from passages and the queries that people asked about them.

    Examples:
        >>> from lavra.config.search import Doc2QueryConfig
        >>> config = Doc2QueryConfig("pairs.jsonl", base="unicamp-dl/ptt5-base-portuguese-vocab", epochs=1)
        >>> config.split, config.validation_documents
        ('train', 200)
    """

    pairs: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PAIRS")]
    """A BEIR folder, installed-docs:, ir_datasets:NAME, MS MARCO triples (.tsv), or JSONL with passage and query."""
    split: str = "train"
    """Split of the collection's relevance judgements to train on."""
    base: str | None = None
    """The model to fine-tune (also --from): an encoder-decoder, a decoder, or an encoder, which gets a decoder."""
    budget: Duration | None = None
    """Length of the whole run as a time, validation included; 10m when no length is given."""
    epochs: float | None = None
    """Length of the run in passes over the pairs, instead of a time."""
    steps: int | None = None
    """Length of the run in optimiser steps, instead of a time."""
    out: str | None = None
    """The run folder; a new one under runs/ by default."""
    force: bool = False
    """Replace an existing run folder."""
    seed: int = 0
    """Seed of everything that is random."""
    learning_rate: float | None = None
    """AdamW's peak learning rate; by default it depends on what is trained."""
    freeze: tuple[str, ...] = ()
    """Parts of the model given by --from that are not trained, as names or globs, which makes steps quicker."""
    context: int | None = None
    """Tokens of a sequence, for a model trained from scratch; 512 by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the working weights."""
    check: bool = True
    """--no-check leaves out the checks of the set-up before the first step; a failed check ends the run."""
    validation_documents: int = 200
    """Number of validation documents for which queries are generated and compared with people's."""


Engine = Literal["auto", "torch", "ctranslate2"]
"""The libraries that can generate the queries."""


@dataclass(frozen=True)
class ExpandConfig:
    """The generation of queries for the documents of a collection.

    Examples:
        >>> from lavra.config.search import ExpandConfig
        >>> config = ExpandConfig("corpus.jsonl", model="runs/doc2query", queries=20)
        >>> config.out, config.top_k
        ('expanded.jsonl', 10)
    """

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """A BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    model: str
    """A run of `lavra doc2query train`, or any decoder or encoder-decoder: folder or hub name."""
    out: str = "expanded.jsonl"
    """The file of queries; FILE.provenance.json beside it says how they were made."""
    queries: int = 10
    """Number of queries for each chunk: 1 generates greedily, more are sampled."""
    top_k: int = 10
    """Sample each token from this many most likely ones; 0 samples from all."""
    temperature: float = 1.0
    """Temperature of the sampling; below 1 the queries are more alike."""
    chunk_tokens: int = 0
    """Long documents are cut into chunks of whole sentences of at most this many tokens; 0 takes as many as the model
    can read."""
    overlap: int = 0
    """Largest number of tokens that consecutive chunks share."""
    score_with: str = ""
    """Score queries for the filter with `model` (its log-probability), or a folder of a cross-encoder or bi-encoder."""
    engine: Engine = "auto"
    """Library that generates: auto takes ctranslate2 in int8 for an encoder-decoder on a CPU, else torch."""
    cache: str | None = None
    """File that keeps generated queries by the content of their chunk; FILE.cache beside the queries by default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the weights, with torch."""
    seed: int = 0
    """Seed of the sampling: the same seed gives the same queries."""
    force: bool = False
    """Replace a file of queries that was made with other options."""
