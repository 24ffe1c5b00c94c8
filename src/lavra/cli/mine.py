"""`lavra mine`: rows to train an encoder or a reranker on, from pairs or from documents alone."""

from __future__ import annotations

from lavra.cli.options import parse, print_json, say_last
from lavra.config.mining import MineConfig
from lavra.core.program import command


def main(arguments: list[str]) -> int:
    """Run `lavra mine …`."""
    config, as_json = parse(
        MineConfig,
        arguments,
        prog="lavra mine",
        description="Mine hard negatives: texts that seem to answer a query and do not. DATA are pairs of a query and "
        "a passage; or with --generator documents, about which a model asks (GPL, InPars). Killed or interrupted, the "
        "same command goes on.",
        examples=[
            "lavra mine pairs.jsonl --model models/e5 --out mined.jsonl",
            "lavra mine docs/ --generator runs/queries --model models/e5 --teacher runs/reranker --out gpl.jsonl",
            "lavra mine docs/ --generator runs/queries --rows pairs --negatives 1 --consistent 1 --out pairs.jsonl",
        ],
    )
    from lavra.workflows.embeddings.mine import mine
    from lavra.workflows.embeddings.mine_report import summary

    report = mine(config)
    if as_json:
        print_json(report.to_json())
        return 0
    print(summary(report))
    say_last(
        ("result", f"{report.out} (made as {report.out}.provenance.json says)"),
        ("train", command("train", report.out, "--from", _learner(config))),
        ("cache", f"{report.cache} makes the same quick; it may be deleted"),
    )
    return 0


def _learner(config: MineConfig) -> str:
    """Return the model that is to be trained on the rows, where the request names it."""
    return "ENCODER" if config.rows == "pairs" or not config.model else config.model
