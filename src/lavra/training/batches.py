"""From the order to batches: what step k trains on is a pure function of the seed and of k."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.models.contract import Batch
from lavra.objectives.base import Objective


class Source(Protocol):
    """Where the rows of a run come from."""

    def rows(self, start: int, count: int) -> Sequence[Any]:
        """Return `count` rows from number `start` of the run's endless order; rows are windows or examples."""
        ...


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train together.

    Attributes:
        rank: from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1


class BatchSource:
    """Makes the micro-batches of any step, and prepares the next step's while this one computes.

    Args:
        source: rows by number.
        objective: turns rows into batches.
        rows_per_step: rows of one optimiser step, over all ranks.
        micro_rows: rows of one micro-batch; divides this rank's share.
        steps: the length of the run, for objectives whose masking changes with progress.
        seed: the run's.
        ranks: this process's place; rank r takes the r-th equal part of each step.
        pin: put batches into page-locked memory, from which a GPU copies without waiting.
    """

    def __init__(
        self,
        source: Source,
        objective: Objective,
        *,
        rows_per_step: int,
        micro_rows: int,
        steps: int,
        seed: int,
        ranks: Ranks = Ranks(),
        pin: bool = False,
    ) -> None:
        if rows_per_step % ranks.world:
            raise InputError(
                f"a step of {rows_per_step} rows cannot be shared by {ranks.world} processes",
                "choose --optimization.tokens-per-step as a multiple of context x processes",
            )
        self.source, self.objective, self.seed, self.ranks, self.pin = source, objective, seed, ranks, pin
        self.rows_per_step, self.steps = rows_per_step, steps
        self.share = rows_per_step // ranks.world
        if self.share % micro_rows:
            raise InputError(
                f"a micro-batch of {micro_rows} rows does not divide the {self.share} rows of a step",
                "choose --machine.micro-rows as a divisor",
            )
        self.micro_rows = micro_rows
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[tuple[int, int], Future[list[Batch]]] | None = None

    def micro_batches(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of `step` (from 0), and start on the next step's."""
        key = (step, self.micro_rows)
        ahead, self._ahead = self._ahead, None
        batches = ahead[1].result() if ahead and ahead[0] == key else self._make(step, self.micro_rows)
        following = (step + 1, self.micro_rows)
        self._ahead = (following, self._pool.submit(self._make, *following))
        return batches

    def _make(self, step: int, micro_rows: int) -> list[Batch]:
        first = step * self.rows_per_step + self.ranks.rank * self.share
        rows = self.source.rows(first, self.share)
        batches = []
        for start in range(0, self.share, micro_rows):
            # Named by row: a row is the same whatever the micro-batch, and steps and ranks never share a stream.
            streams = row_streams(self.seed, "encode", first=first + start)
            batch = self.objective.encode(rows[start : start + micro_rows], streams, min(1.0, step / self.steps))
            batches.append(_pinned(batch) if self.pin else batch)
        return batches

    def close(self) -> None:
        """Stop the thread that prepares batches."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
    def pin(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.pin_memory()

    batch.inputs, batch.targets = batch.inputs.pin_memory(), batch.targets.pin_memory()
    bounds = batch.bounds  # made here, where nothing waits for it
    batch.segments, batch.positions = pin(batch.segments), pin(batch.positions)
    if bounds is not None and batch.segments is not None:
        batch._bounds = batch.segments, bounds.pin_memory()
    batch.extra = {name: tensor.pin_memory() for name, tensor in batch.extra.items()}
    return batch
