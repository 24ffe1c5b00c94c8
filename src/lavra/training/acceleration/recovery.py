"""Plainer ways to compute a step, for when a fast one gives numbers that are not finite.

A step whose loss or gradient is not finite is done again with the same rows: without what is compiled, then without the
library's kernels of attention, then in fp32. If that helps, the fast way was wrong, and it is given up. What is not
finite in fp32 either is the fault of the data or of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lavra.models.native.attention import WAYS, attending_plainly, distrust, trusts
from lavra.models.native.decoder import Decoder
from lavra.training.acceleration.compiling import EAGER, CompilableLearner


@dataclass(frozen=True)
class Recovery:
    """A plainer way.

    Attributes:
        fast: the fast way that it goes without, in words.
        without: makes a block in which a step is computed without it.
        give_up: goes without it from now on.
    """

    fast: str
    without: Callable[[], AbstractContextManager[None]]
    give_up: Callable[[], None]


def recoveries(trainer: CompilableLearner) -> list[Recovery]:
    """Return what a step can be computed without, in the order in which it is tried; each adds to those before."""
    found: list[Recovery] = []
    compilation = trainer.compilation
    if compilation is not None and compilation.flags != EAGER:
        found.append(Recovery("compiled code", compilation.eagerly, compilation.undo))
    ways = [way for way in WAYS if way != "plain" and trusts(way)]  # pyright: ignore[reportArgumentType]
    if isinstance(trainer.model, Decoder) and ways:

        def distrust_ways() -> None:
            distrust(*ways)
            trainer.proved = None

        found.append(Recovery("the library's kernels of attention", attending_plainly, distrust_ways))
    master_weights, model = trainer.master_weights, trainer.model
    if master_weights.separate and not master_weights.widened:

        def widen() -> None:
            master_weights.widen(model)  # pyright: ignore[reportArgumentType]
            trainer.proved = None

        kind = str(next(iter(master_weights.working.values())).dtype).removeprefix("torch.")
        found.append(Recovery(kind, lambda: master_weights.in_full_precision(model), widen))  # pyright: ignore[reportArgumentType]
    return found
