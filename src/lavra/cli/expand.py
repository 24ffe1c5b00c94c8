"""`lavra expand`: queries for documents, written by a model."""

from __future__ import annotations

from lavra.cli.options import parse, print_json
from lavra.config.search import ExpandConfig


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
        print(summary(report))
    return 0
