"""What a person can ask of a plan; the defaults, the command line, the TOML file and the help in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.quantities import Count, Duration
from lavra.config.training import TextConfig
from lavra.config.transforms import EditConfig


@dataclass(frozen=True)
class PlanRequest:
    """What to plan for. Without DATA, give --model, and --tokens or --budget."""

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[DATA]")] = ()
    """Files, folders, globs, hf:NAME[:SPLIT], installed-docs:, or a folder made by `lavra prepare`."""
    model: str = "auto"
    """A preset (opt-125m, lavra-9m, …), a Hugging Face folder (its config.json is enough), a shape DEPTHxWIDTH or
    DEPTHxWIDTHxVOCABULARY, or auto: the best for budget and text."""
    base: str | None = None
    """The model to adapt (also --from MODEL): a run, a Hugging Face folder or a hub name; by default, none: training
    begins from nothing."""
    budget: Duration | None = None
    """Time of training. 10m when no length is given."""
    tokens: Count | None = None
    """Length in tokens, instead of a time."""
    epochs: float | None = None
    """Length in passes over the text, instead of a time."""
    steps: int | None = None
    """Length in optimiser steps, instead of a time."""
    hardware: str = "this"
    """What to train on: this machine, measured; or an accelerator by name: colab-t4, rtx-4090, a100-40gb, h100, …"""
    efficiency: float | None = None
    """Share of the hardware's peak that training reaches; by default from a probe, past runs, or an assumption."""
    context: int | None = None
    """Tokens of a window; the model's by default."""
    tokens_per_step: Count | None = None
    """Tokens of one optimiser step; by the length of the run by default."""
    micro_rows: int | None = None
    """Windows of a micro-batch; the largest that fits by default."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the working weights; the best that the hardware has by default."""
    optimizer: Literal["muon", "adamw"] | None = None
    """Whose state is kept: Muon's for the blocks' matrices (from nothing), or AdamW's for all (adapting)."""
    price_per_hour: float | None = None
    """Price of an hour of the hardware, in any currency."""
    watts: float | None = None
    """What the machine draws while it trains; an accelerator's board power by default."""
    pilot: str | None = None
    """Share of the budget, such as 5%, to spend now on small runs on this text, to which the forecast is fitted;
    with --from, on fine-tuning with subsets of the text."""
    calibrate: str | None = None
    """A folder with past runs: refit the plan's constants from them, and keep them for all plans to come."""
    seed: int = 0
    """Of the sample of the text and of the bootstrap."""
    text: TextConfig = field(default_factory=TextConfig)
    edits: EditConfig = field(default_factory=EditConfig)
