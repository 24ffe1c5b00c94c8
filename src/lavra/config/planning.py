"""The request for a plan: the training run to plan, and what it would run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from lavra.config.flags import Common, shown
from lavra.config.training import TrainConfig


@dataclass(frozen=True)
class PlanRequest(TrainConfig):
    """The training run to plan, with every option of `lavra train`. Without DATA, give --model, and --tokens or
    --budget.

    Examples:
        >>> from lavra.config.planning import PlanRequest
        >>> from lavra.config.training import ModelConfig
        >>> request = PlanRequest(model=ModelConfig("gpt2-124m"), tokens=2_500_000_000, hardware="a100-40gb")
        >>> request.budget is None, request.machine.precision
        (True, 'auto')
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="[DATA…]")] = ()
    """Files, folders, globs, hf:NAME[:SPLIT], installed-docs:, or a folder made by `lavra prepare`."""
    out: str | None = None
    """The run folder, as for `lavra train`; a plan writes nothing."""
    force: bool = False
    """As for `lavra train`; a plan replaces nothing."""
    hardware: Annotated[str, Common] = "this"
    """What to train on: this machine, measured; or an accelerator by name: colab-t4, rtx-4090, a100-40gb, h100, …"""
    efficiency: float | None = None
    """Share of the hardware's peak FLOP/s that training reaches; by default from timed steps, past runs, or an
    assumption."""
    price_per_hour: Annotated[float | None, Common] = None
    """Price of an hour of the hardware, in any currency."""
    watts: float | None = None
    """Power in watts that the machine draws while it trains; an accelerator's board power by default."""
    pilot: Annotated[str | None, Common, shown(metavar="SHARE")] = None
    """Share of the budget, such as 5%, to spend now on small runs on this text, to which the forecast is fitted;
    with --from, on fine-tuning with subsets of the text."""
    calibrate: Annotated[str | None, shown(metavar="FOLDER")] = None
    """A folder with past runs: fit the plan's constants to them, and keep these for all later plans and runs."""
