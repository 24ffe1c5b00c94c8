"""What a person can ask of the training of a query generator; the defaults, the command line and the help in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.core.quantities import Duration


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
