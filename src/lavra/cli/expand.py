"""`lavra expand`: queries for documents, written by a model."""

from __future__ import annotations

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.search import ExpandConfig
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra expand …`."""
    config, as_json = parse(
        ExpandConfig,
        arguments,
        prog="lavra expand",
        description="Write the queries that each document answers, for `lavra index` and `lavra search evaluate`. Says "
        "beforehand what it takes. Safe to interrupt; the same command goes on, and after changes of the documents it "
        "writes for those alone.",
        examples=[
            "lavra expand notes/ --model runs/doc2query --out notes.jsonl",
            "lavra expand beir/scifact --model runs/doc2query --queries 20 --score-with model --out scifact.jsonl",
        ],
    )
    from lavra.workflows.search.expand import expand, summary

    report = expand(config)
    if as_json:
        print_json(report.to_json())
    else:
        show(summary(report))
        say_last(
            ("index", command("index", config.collection, "--expansions", config.out)),
            *_measuring(config),
        )
    return 0


def _measuring(config: ExpandConfig) -> list[tuple[str, str]]:
    """Return the command that measures what the queries bring, where the collection has judgements."""
    from lavra.search.corpora.formats import open_collection

    if not open_collection(config.collection).splits:
        return []
    return [("evaluate", command("search", "evaluate", config.collection, "--expansions", config.out))]
