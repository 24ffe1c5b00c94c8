"""`lavra index`: documents, and the queries generated for them, into a search index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.search import IndexConfig
from lavra.core.program import command, without_display_flags

if TYPE_CHECKING:
    from lavra.workflows.search.search import IndexReport


def main(arguments: list[str]) -> int:
    """Run `lavra index …`."""
    options, as_json = parse(
        IndexConfig,
        arguments,
        prog="lavra index",
        description="Make a BM25 index of documents and of the queries generated for them, with --dense also of their "
        "vectors, or bring one up to date: only what changed is counted and embedded again. Safe to interrupt; run it "
        "again and it goes on.",
        examples=[
            "lavra index notes/ --language pt",
            "lavra index notes/ --language pt --dense models/e5",
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
        show(f"{made.index.folder}: {counted(len(made.index), 'document')} ({counts}), {size}")
        if made.index.vectors is not None:
            show(f"  {_vectors(made)}")
        say_last(
            *([("exported", options.export)] if options.export else []),
            ("search", command("search", "…", "--index", made.index.folder)),
            ("update", command("index", *_again(arguments))),
        )
    return 0


def _vectors(made: IndexReport) -> str:
    """Return a sentence on the vectors of an index."""
    from lavra.core.units import counted, show_size

    vectors = made.index.vectors
    assert vectors is not None
    return (
        f"{counted(len(vectors), 'vector')} of {vectors.settings.dimensions} ({vectors.settings.store}, "
        f"{vectors.method}; {made.embedded:,} made now), {show_size(vectors.bytes)}"
    )


def _again(arguments: list[str]) -> list[str]:
    """Return the words that bring the index up to date: those of this command, without building it from nothing."""
    return [word for word in without_display_flags(arguments) if word != "--force"]
