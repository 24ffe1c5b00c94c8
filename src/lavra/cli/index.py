"""`lavra index`: documents, and the queries generated for them, into a search index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.cli.options import parse, print_json, say_last
from lavra.core.program import command, without_display_flags


@dataclass
class _Index:
    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CORPUS")]
    """The documents: a BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    out: str = "search-index"
    """The folder of the index; an existing index is brought up to date."""
    expansions: str | None = None
    """File of generated queries, as `lavra expand` writes it."""
    language: Literal["auto", "pt", "en"] = "auto"
    """Language of the documents, which chooses stop words and the stemmer; auto guesses it from the documents."""
    fields: Literal["doc", "doc+queries", "queries", "doc+new-terms"] = "doc+queries"
    """What is searched: the document (doc), the document and its generated queries (doc+queries), the queries alone
    (queries), or the document and the terms of the queries that it lacks (doc+new-terms)."""
    k1: float = 0.9
    """BM25 term-frequency saturation: the higher, the more each further occurrence of a term counts."""
    b: float = 0.4
    """BM25 length normalisation, from 0 (document length does not matter) to 1 (full normalisation)."""
    query_weight: float = 1.0
    """Weight of a term's occurrence in a generated query; one in the document itself has weight 1."""
    keep_queries: float = 1.0
    """Share of the generated queries that is indexed, those with the highest scores; above 0, at most 1."""
    drop_repeats: bool = False
    """Leave out generated queries that repeat another query of the document or copy its text."""
    chunk_words: int = 0
    """Score documents by their best chunk of at most this many words (MaxP); 0 scores whole documents."""
    chunk_overlap: int = 0
    """Most words that consecutive chunks share."""
    add: bool = False
    """Keep documents of the index that CORPUS does not have; without it they are deleted from the index."""
    on_bad_row: Literal["skip", "error"] = "skip"
    """What to do with rows that cannot be used: skip and count them, or stop at the first (error)."""
    export: str | None = None
    """Also write the documents with their generated queries into this file, for another search engine."""
    export_format: Literal["anserini", "elasticsearch", "parquet", "sqlite"] = "anserini"
    """Format of the file of --export."""
    force: bool = False
    """Build the index again from nothing, and replace the file of --export."""


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
    from lavra.core.progress import log
    from lavra.core.units import counted, show_size
    from lavra.workflows.search.search import export_index, make_index

    values = {
        name: value for name, value in vars(options).items() if name not in ("collection", "export", "export_format")
    }
    made = make_index(options.collection, **values)
    for warning in made.warnings:
        log(warning)
    if options.export:
        export_index(made.index.folder, options.export, options.export_format, force=options.force)
    if as_json:
        print_json(made.to_json())
    else:
        counts = ", ".join(f"{count:,} {name}" for name, count in made.changes.items())
        size = show_size(made.index.postings_bytes)
        print(f"{made.index.folder}: {counted(len(made.index), 'document')} ({counts}), {size}")
        say_last(
            *([("exported", options.export)] if options.export else []),
            ("search", command("search", "…", "--index", made.index.folder)),
            ("update", command("index", *_again(arguments))),
        )
    return 0


def _again(arguments: list[str]) -> list[str]:
    """Return the words that bring the index up to date: those of this command, without building it from nothing."""
    return [word for word in without_display_flags(arguments) if word != "--force"]
