"""The options of a plan, once: the defaults, the command line, the TOML file, the Python API and the help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.quantities import Count, Duration
from lavra.config.training import TextConfig
from lavra.config.transforms import EditConfig


@dataclass(frozen=True)
class PlanRequest:
    """What to plan for. Without DATA, give --model, and --tokens or --budget.

    Examples:
        >>> PlanRequest(model="opt-125m", tokens=330_000_000, hardware="a100-40gb").precision
        'auto'
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[DATA]")] = ()
    """The text: files, folders, globs, hf:NAME[:SPLIT], installed-docs:, or a folder that `lavra prepare` made."""
    model: str = "auto"
    """The model: a preset (opt-125m, lavra-9m, …), a Hugging Face folder (its config.json is enough), or a shape
    DEPTHxWIDTH or DEPTHxWIDTHxVOCABULARY; auto chooses the best one for budget and text."""
    base: str | None = None
    """The pretrained model to adapt (also --from MODEL): a run, a Hugging Face folder or a hub name. By default a new
    model is trained from scratch."""
    budget: Duration | None = None
    """Time for training. 10m when no length is given."""
    tokens: Count | None = None
    """Length of the run in tokens, instead of a time."""
    epochs: float | None = None
    """Length of the run in passes over the text, instead of a time."""
    steps: int | None = None
    """Length of the run in optimiser steps, instead of a time."""
    hardware: str = "this"
    """The hardware to train on: this machine, which is measured, or an accelerator by name: colab-t4, rtx-4090,
    a100-40gb, h100, …"""
    efficiency: float | None = None
    """Share of the hardware's peak FLOP/s that training reaches (MFU), between 0 and 1; by default from timed steps,
    from past runs, or from an assumption."""
    context: int | None = None
    """Tokens of a sequence; the context length of the model by default."""
    tokens_per_step: Count | None = None
    """Tokens of one update (the global batch); by default chosen by the length of the run."""
    micro_rows: int | None = None
    """Sequences of a micro-batch; by default the largest number that fits into memory."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the weights in the forward and backward pass; auto takes the best that the hardware has."""
    optimizer: Literal["muon", "adamw"] | None = None
    """The optimiser, whose state takes memory: muon for the matrices of the blocks (the default from scratch), or adamw
    for everything (the default with --from)."""
    price_per_hour: float | None = None
    """Price of an hour of the hardware, in any currency."""
    watts: float | None = None
    """Power in watts that the machine draws while it trains; the board power of an accelerator by default."""
    pilot: str | None = None
    """Share of the budget, such as 5%, to spend now on small runs on this text, to which the forecast is fitted; with
    --from, on fine-tuning with subsets of the text."""
    calibrate: str | None = None
    """A folder with past runs, to which the constants of the plan are fitted again, for all later plans."""
    seed: int = 0
    """Seed of the sample of the text and of the bootstrap."""
    text: TextConfig = field(default_factory=TextConfig)
    edits: EditConfig = field(default_factory=EditConfig)
