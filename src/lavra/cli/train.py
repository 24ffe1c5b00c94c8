"""`lavra train`: train a language model on text in the time given."""

from __future__ import annotations

from lavra.cli.options import log_next, parse, print_json
from lavra.config.training import TrainConfig
from lavra.core.errors import InputError

_SHORT = {
    "--model": "--model.preset",
    "--from": "--base",
    "--objective": "--objective.name",
    "--adapter": "--transforms.adapter.kind",
    "--rank": "--transforms.adapter.rank",
    "--freeze": "--transforms.freeze",
    "--text-column": "--text.column",
    "--on-bad-row": "--text.on-bad-row",
    "--strict": "--text.on-bad-row=strict",
    "--encoding": "--text.encoding",
    "--validation": "--text.validation",
    "--context": "--model.context",
    "--precision": "--machine.precision",
    "--device": "--machine.device",
    "--compile": "--machine.compile",
}
"""Flags with a short form, because they are common, and what each stands for."""

_ELSEWHERE = {
    "--lr": "--optimization.learning-rate",
    "--learning-rate": "--optimization.learning-rate",
    "--weight-decay": "--optimization.weight-decay",
    "--warmup-steps": "--optimization.warmup-steps",
    "--batch-size": "--optimization.batch-tokens (tokens of a step) or --machine.micro-batch-size (sequences at once)",
    "--wandb": "--track wandb",
    "--tensorboard": "--track tensorboard",
    "--tokenizer": "--text.tokenizer",
    "--vocab-size": "--text.vocabulary",
    "--max-steps": "--steps",
    "--num-epochs": "--epochs",
    "--num-train-epochs": "--epochs",
    "--output-dir": "--out",
    "--block-size": "--context",
    "--max-length": "--context",
    "--n-layer": "--model.depth",
    "--n-embd": "--model.width",
    "--fp16": "--precision fp16",
    "--bf16": "--precision bf16",
    "--lora": "--adapter lora",
}
"""Flags of other programs, and the flag of lavra to recommend for each."""


def main(arguments: list[str]) -> int:
    """Run `lavra train …`."""
    config, as_json = parse(
        TrainConfig,
        [lengthened(word) for word in arguments],
        prog="lavra train",
        description="Train the best language model that this machine can make of your text in the time you give.\n"
        "Short forms: " + ", ".join(f"{short} for {long}" for short, long in _SHORT.items()) + ".",
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
    from lavra.workflows.training.train import train

    run = train(config)
    if as_json:
        print_json({"run": str(run.path), **run.result})
    else:
        print(run.path)
        log_next(run.path)
    return 0


def lengthened(word: str) -> str:
    """Return a word of the command line with its short flag written out.

    Args:
        word: A flag, a flag with a value (`--from=gpt2`), or any other word.

    Returns:
        The word with the long flag, or as it was.

    Raises:
        InputError: For a flag of another program; the remedy names lavra's flag.
    """
    flag, equals, value = word.partition("=")
    if flag in _ELSEWHERE:
        raise InputError(f"there is no {flag} here", f"use {_ELSEWHERE[flag]}")
    return _SHORT.get(flag, flag) + equals + value
