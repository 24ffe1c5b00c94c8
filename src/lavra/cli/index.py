"""`lavra index`: documents, and the queries generated for them, into a search index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json


@dataclass
class _Index:
    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """A BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    out: str = "search-index"
    """The folder of the index; one that is there is brought up to date."""
    expansions: str | None = None
    """File of generated queries, as `lavra expand` writes it."""
    language: Literal["auto", "pt", "en"] = "auto"
    """Of the documents; chooses stop words and stems."""
    fields: Literal["doc", "doc+queries", "queries", "doc+new-terms"] = "doc+queries"
    """What is searched: the document, with its generated queries, these alone, or with their new terms only."""
    k1: float = 0.9
    """BM25: how slowly repeats of a term stop counting."""
    b: float = 0.4
    """BM25: how much long documents are held back, 0 to 1."""
    query_weight: float = 1.0
    """A term in a generated query counts as this many in the document."""
    keep_queries: float = 1.0
    """Share of the generated queries that is indexed, the best by score."""
    drop_repeats: bool = False
    """Leave out generated queries that repeat another one or copy the text."""
    chunk_words: int = 0
    """Score documents by their best piece of this many words; 0 scores them whole."""
    chunk_overlap: int = 0
    """Words that consecutive pieces share."""
    add: bool = False
    """Keep documents of the index that CORPUS does not have."""
    on_bad_row: Literal["skip", "error"] = "skip"
    """What to do with rows that cannot be used."""
    export: str | None = None
    """Also write the expanded documents into this file."""
    export_format: Literal["anserini", "elasticsearch", "parquet", "sqlite"] = "anserini"
    """Of that file."""
    force: bool = False
    """Make the index from nothing, and replace an exported file."""


def main(arguments: list[str]) -> int:
    """Run `lavra index …`."""
    options, as_json = parse(
        _Index,
        arguments,
        prog="lavra index",
        description="Make a BM25 index of documents and of the queries generated for them, or bring one up to date: "
        "only what changed is counted again. Safe to interrupt; run it again and it goes on.",
        examples=[
            "lavra index notes/ --language pt",
            "lavra index beir/scifact --expansions expanded.jsonl --keep-queries 0.3",
            "lavra index corpus.jsonl --expansions expanded.jsonl --export es.ndjson --export-format elasticsearch",
        ],
    )
    from lavra.core.progress import say
    from lavra.core.units import show_size
    from lavra.workflows.search.search import export_index, make_index

    values = {
        name: value for name, value in vars(options).items() if name not in ("collection", "export", "export_format")
    }
    made = make_index(options.collection, **values)
    for warning in made.warnings:
        say(warning)
    if options.export:
        export_index(made.index.folder, options.export, options.export_format, force=options.force)
    if as_json:
        print_json(made.to_json())
    else:
        counts = ", ".join(f"{count:,} {name}" for name, count in made.changes.items())
        size = show_size(made.index.postings_bytes)
        print(f"{made.index.folder}: {len(made.index):,} documents ({counts}), {size}")
    return 0
