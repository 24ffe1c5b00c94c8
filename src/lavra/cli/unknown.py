"""Flags that a command does not have: each is answered with the flag that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from lavra.core.errors import InputError

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "--lr": ("--optimization.learning-rate", "--learning-rate"),
    "--learning-rate": ("--optimization.learning-rate",),
    "--weight-decay": ("--optimization.weight-decay",),
    "--warmup-steps": ("--optimization.warmup-steps",),
    "--batch-size": (
        "--optimization.batch-tokens (tokens of a step) or --machine.micro-batch-size (sequences at once)",
        "--batch-tokens (tokens of a step) or --micro-batch-size (sequences at once)",
    ),
    "--wandb": ("--track wandb",),
    "--tensorboard": ("--track tensorboard",),
    "--vocab-size": ("--text.vocabulary",),
    "--max-steps": ("--steps",),
    "--num-epochs": ("--epochs",),
    "--num-train-epochs": ("--epochs",),
    "--output-dir": ("--out",),
    "--output": ("--out",),
    "--block-size": ("--context",),
    "--max-length": ("--context", "--max-new-tokens"),
    "--n-layer": ("--model.depth",),
    "--n-embd": ("--model.width",),
    "--fp16": ("--precision fp16",),
    "--bf16": ("--precision bf16",),
    "--lora": ("--adapter lora",),
    "--num-return-sequences": ("--samples",),
    "--num-beams": ("--beams",),
    "--do-sample": ("--temperature, --top-k and --top-p, which sample unless --greedy is given",),
}
"""Flags of other programs, and what to recommend for each: the first whose first flag the command has."""

_FLAG = re.compile(r"--?[A-Za-z]")


def check_flags(words: Sequence[str], known: Iterable[str], prog: str) -> None:
    """Check that a command has every flag of a command line.

    Args:
        words: The words after the name of the command; what comes after `--` is no flag.
        known: The flags of the command.
        prog: The command as a person types it, such as "lavra train".

    Raises:
        InputError: For the first flag that the command does not have. The remedy names the flag of lavra for one of
            another program, else the nearest one.
    """
    flags = list(known)
    for word in words:
        if word == "--":
            return
        flag = word.partition("=")[0].replace("_", "-")
        if _FLAG.match(flag) and flag not in flags:
            raise InputError(f"`{prog}` has no {word.partition('=')[0]}", _remedy(flag, flags, prog))


def _remedy(flag: str, flags: list[str], prog: str) -> str:
    for meant in ELSEWHERE.get(flag, ()):
        if re.split(r"[ ,]", meant)[0] in flags:
            return f"use {meant}"
    name = flag.strip("-")
    same = [one for one in flags if one.rpartition(".")[2].strip("-") == name]
    near = same or get_close_matches(flag, flags, 2, cutoff=0.75) or _by_last_part(name, flags)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"`{prog} --help-all` lists the options"


def _by_last_part(name: str, flags: list[str]) -> list[str]:
    """Return the flags whose last part, after the dot, is near a name that was given without the first part."""
    parts = {one.rpartition(".")[2].strip("-"): one for one in reversed(flags)}
    return [parts[near] for near in get_close_matches(name.rpartition(".")[2], parts, 2, cutoff=0.75)]
