"""`lavra train`: train a language model on text in the time given."""

from __future__ import annotations

import time

from lavra.cli.options import log_next, parse, print_json
from lavra.config.training import TrainConfig


def main(arguments: list[str]) -> int:
    """Run `lavra train …`."""
    began = time.monotonic()  # before the libraries are imported: a time budget is the time that a person waits
    config, as_json = parse(
        TrainConfig,
        arguments,
        prog="lavra train",
        description="Train the best language model that this machine can make of your text in the time you give.",
        examples=[
            "lavra train mytext/ --budget 20m",
            "lavra train book.txt --budget 5m --out runs/book",
            "lavra train 'news/*.jsonl.gz' --text-column body --epochs 2",
            "lavra train installed-docs: --model gpt2-124m --steps 100",
            "lavra train mytext/ --from gpt2 --budget 1h",
            "lavra train questions.jsonl --from t5-small --budget 30m",
            "lavra train chats.jsonl --from Qwen/Qwen2.5-0.5B-Instruct --adapter lora --epochs 2",
        ],
    )
    from lavra.workflows.train import train

    run = train(config, began)
    if as_json:
        print_json({"run": str(run.path), **run.result})
    else:
        print(run.path)
        log_next(run.path)
    return 0
