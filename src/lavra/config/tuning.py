"""The options of a sweep: those of a training run, and which of them take several values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.config.flags import Common, shown
from lavra.config.quantities import Duration
from lavra.config.training import TrainConfig

Method = Literal["halving", "grid", "random", "sobol", "tpe"]
"""How the points of a space are chosen, and which of them are trained to the end."""


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """A sweep: training runs that differ in some options.

    Examples:
        >>> from lavra.config.tuning import TuneConfig
        >>> TuneConfig(data=("mytext/",), sweep=("optimization.muon-lr=0.005,0.015,0.045",)).method
        'halving'
    """

    sweep: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], Common, shown(metavar="FIELD=VALUES")] = ()
    """An option of train and its values, repeated for each: model.depth=2,4,8 names values, model.width=128..512 is
    a range, and optimization.muon-lr=log:1e-3..1e-1 one by factors. By default the learning rate and the batch, around
    those of the plan."""
    method: Annotated[Method, Common] = "halving"
    """halving: all points for a part of the run, then the best third goes on; grid: all points; random and sobol: some;
    tpe: each by those before it (needs the extra tune)."""
    trials: Annotated[int | None, Common, shown(metavar="N")] = None
    """Number of points; by default 9, and all of a space of up to 27."""
    measure: Annotated[str | None, shown(metavar="NAME")] = None
    """The figure that chooses, such as macro_f1; the task's first one by default."""
    promote: Literal["measure", "forecast"] = "measure"
    """What decides which points go on: the measure so far, or the forecast of its value at the end, for text."""
    parallel: int | None = None
    """Number of trials at the same time; by default one on each GPU, and one on a processor. Processor threads are
    divided among them."""
    budget: Annotated[Duration | None, Common] = None
    """Time of the whole sweep, from which the length of a run follows. 1h when no length is given."""
    steps: Annotated[int | None, Common] = None
    """Length of a run in optimiser steps, instead of what the budget allows."""
    epochs: float | None = None
    """Length of a run in passes over the text, instead of what the budget allows."""
    out: Annotated[str | None, Common, shown(metavar="SWEEP")] = None
    """The folder of the sweep; a new one under runs/ by default."""
    force: Annotated[bool, Common] = False
    """Replace an existing folder."""
    task: Annotated[str, shown(metavar="TASK")] = "auto"
    """What is learned, as for train; by default what fits the columns and the model."""
    seeds: int = 1
    """Number of seeds with which each point is trained; points are compared by their means."""
    folds: Annotated[int | None, tyro.conf.Suppress] = None
    """A sweep has no folds."""
    fold_by: Annotated[str | None, tyro.conf.Suppress] = None
    """A sweep has no folds."""
    early_stopping: Annotated[int | None, tyro.conf.Suppress] = None
    """A run of a sweep has the length of the others."""

    @property
    def training(self) -> TrainConfig:
        """The training run that every trial is, but for its values, its length and its folder."""
        names = {field.name for field in TrainConfig.__dataclass_fields__.values()}
        values = {name: getattr(self, name) for name in names}
        return TrainConfig(**{**values, "budget": None, "out": None, "force": False, "seeds": 1, "folds": None})
