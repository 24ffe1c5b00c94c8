"""`lavra doc2query train`: a model that writes the queries that a passage answers."""

from __future__ import annotations

from lavra.cli.options import parse, print_json
from lavra.config.search import Doc2QueryConfig
from lavra.core.errors import InputError


def main(arguments: list[str]) -> int:
    """Run `lavra doc2query train …`."""
    if arguments[:1] not in (["train"], ["-h"], ["--help"]):
        raise InputError(f"there is no `lavra doc2query {' '.join(arguments[:1])}`", "say: lavra doc2query train PAIRS")
    words = arguments[1:] if arguments[0] == "train" else arguments
    config, as_json = parse(
        Doc2QueryConfig,
        ["--base" + word.removeprefix("--from") if word.partition("=")[0] == "--from" else word for word in words],
        prog="lavra doc2query train",
        description="Train a model that writes the queries that a passage answers, and measure it on documents set "
        "apart: loss, BLEU, ROUGE and examples. Then `lavra expand --model RUN` writes queries for your documents.",
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
        print("\n".join(report(generator)))
    return 0
