"""`lavra doc2query train`: a model that writes the queries that a passage answers."""

from __future__ import annotations

from pathlib import Path

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.search import Doc2QueryConfig
from lavra.core.errors import InputError
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra doc2query train …`."""
    if arguments[:1] not in (["train"], ["-h"], ["--help"], ["--help-all"]):
        raise InputError(f"there is no `lavra doc2query {' '.join(arguments[:1])}`", "say: lavra doc2query train PAIRS")
    words = arguments[1:] if arguments[0] == "train" else arguments
    config, as_json = parse(
        Doc2QueryConfig,
        words,
        prog="lavra doc2query train",
        description="Train a model that writes the queries that a passage answers (doc2query), and measure it on "
        "validation documents: loss, BLEU, ROUGE and examples. Then `lavra expand --model RUN` writes queries for your "
        "documents.",
        examples=[
            "lavra doc2query train installed-docs: --budget 4m --out runs/queries",
            "lavra doc2query train beir/squad --from t5-small --budget 1h",
            "lavra doc2query train pairs.jsonl --from runs/portuguese --epochs 2",
        ],
    )
    from lavra.workflows.search.doc2query import report, train_generator

    generator = train_generator(config)
    if as_json:
        print_json(generator.to_json())
    else:
        show("\n".join(report(generator)))
        run = generator.run.path
        corpus = "CORPUS" if Path(config.pairs).is_file() else config.pairs  # a file of pairs is no collection
        queries = run.with_name(f"{run.name}-queries.jsonl")
        say_last(
            ("result", f"{run} (figures in doc2query-validation.json)"),
            ("expand", command("expand", corpus, "--model", run, "--out", queries)),
            ("report", command("report", run)),
        )
    return 0
