"""The request for a plan: one dataclass is the Python argument, the command line, the recipe file and the help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.quantities import Count, Duration
from lavra.config.training import TextConfig
from lavra.config.transforms import TransformConfig


@dataclass(frozen=True)
class PlanRequest:
    """What to plan for. Without DATA, give --model, and --tokens or --budget.

    Examples:
        >>> from lavra.config.planning import PlanRequest
        >>> request = PlanRequest(model="gpt2-124m", tokens=2_500_000_000, hardware="a100-40gb")
        >>> request.budget is None, request.precision
        (True, 'auto')
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[DATA]")] = ()
    """Files, folders, globs, hf:NAME[:SPLIT], installed-docs:, or a folder made by `lavra prepare`."""
    model: str = "auto"
    """A preset (opt-125m, lavra-9m, …), a Hugging Face folder (its config.json is enough), a shape DEPTHxWIDTH or
    DEPTHxWIDTHxVOCABULARY, or auto: the best for budget and text."""
    base: str | None = None
    """The model to fine-tune (also --from MODEL): a run, a Hugging Face folder or a hub name. By default a model is
    trained from scratch."""
    budget: Duration | None = None
    """Length of the training as a time; 10m when no length is given."""
    tokens: Count | None = None
    """Length of the training in tokens, instead of a time."""
    epochs: float | None = None
    """Length of the training in passes over the text, instead of a time."""
    steps: int | None = None
    """Length of the training in optimiser steps, instead of a time."""
    hardware: str = "this"
    """What to train on: this machine, measured; or an accelerator by name: colab-t4, rtx-4090, a100-40gb, h100, …"""
    efficiency: float | None = None
    """Share of the hardware's peak FLOP/s that training reaches; by default from timed steps, past runs, or an
    assumption."""
    context: int | None = None
    """Tokens of a sequence; the model's context length by default."""
    batch_tokens: Count | None = None
    """Tokens of one optimiser step; chosen from the length of the run by default."""
    micro_batch_size: int | None = None
    """Sequences of a micro-batch; the largest that fits into memory by default."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the working weights; the best that the hardware has by default."""
    optimizer: Literal["muon", "adamw"] | None = None
    """Optimiser whose state takes memory: Muon for the blocks' matrices (default from scratch), or AdamW for all
    (default in fine-tuning)."""
    price_per_hour: float | None = None
    """Price of an hour of the hardware, in any currency."""
    watts: float | None = None
    """Power in watts that the machine draws while it trains; an accelerator's board power by default."""
    pilot: str | None = None
    """Share of the budget, such as 5%, to spend now on small runs on this text, to which the forecast is fitted;
    with --from, on fine-tuning with subsets of the text."""
    calibrate: str | None = None
    """A folder with past runs: fit the plan's constants to them, and keep these for all later plans."""
    seed: int = 0
    """Seed of the sample of the text and of the bootstrap."""
    text: TextConfig = field(default_factory=TextConfig)
    transforms: TransformConfig = field(default_factory=TransformConfig)
