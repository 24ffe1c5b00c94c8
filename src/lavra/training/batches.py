"""Batches of a run: what step k trains on is a pure function of the seed and of k, so a resumed run repeats nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lavra.core.errors import InputError
from lavra.core.seeds import row_streams
from lavra.models.protocols import Batch
from lavra.objectives.base import MEASURED, Objective, group_of

_JUST_BEFORE_THE_END = math.nextafter(MEASURED, 0.0)
"""Largest progress with which rows are encoded that the model learns from."""


class Source(Protocol):
    """Protocol of a source of rows, each of which is a sequence of tokens (a window of text) or an example."""

    def rows(self, start: int, count: int) -> Sequence[Any]:
        """Return rows of the shuffled order, which goes on endlessly from one epoch to the next.

        Args:
            start: Number of the first row, counted from 0 at the start of the run.
            count: Number of rows.
        """
        ...


@dataclass(frozen=True)
class DistributedInfo:
    """Place of this process in distributed data-parallel training.

    Attributes:
        rank: Number of this process, counted from 0.
        world_size: Number of processes (the world size).
    """

    rank: int = 0
    world_size: int = 1


class Batches(Protocol):
    """Protocol of a source of micro-batches: all that training needs to know of its data.

    What a step trains on is a function of its number alone, so that a step can be done again and a run resumed.

    Attributes:
        micro_batch_size: Number of rows of a micro-batch. It is set to a smaller divisor of `share` where memory runs
            out, and `micro_batches` then cuts the same rows into smaller parts.
        steps: Number of steps of the run; it is set anew where the length of the run changes.
        seed: Random seed of the run, from which dropout draws, too.
    """

    micro_batch_size: int
    steps: int
    seed: int

    @property
    def share(self) -> int:
        """Number of rows of one optimiser step that fall to this process."""
        ...

    @property
    def distributed(self) -> DistributedInfo:
        """Place of this process among those that train together."""
        ...

    def micro_batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of this process for one step, on the CPU.

        Args:
            step: Number of the step, counted from 0.
        """
        ...

    def close(self) -> None:
        """Release what the source holds, such as threads; it is not used any more."""
        ...


class BatchSource:
    """Makes the micro-batches of any step, and prefetches those of the next step in a thread.

    Args:
        source: Source of the rows.
        objective: Training objective, which encodes rows as batches.
        global_batch_size: Number of rows of one optimiser step over all processes (the global batch size).
        micro_batch_size: Number of rows of one micro-batch. It must divide the rows of a step that fall to this
            process.
        steps: Number of steps of the run, for objectives whose masking changes with progress.
        seed: Random seed of the run.
        distributed: Place of this process; rank r takes the r-th of the equal parts of each step.
        pin: Whether batches are put into page-locked (pinned) memory, from which a GPU copies asynchronously.

    Raises:
        InputError: if the rows of a step cannot be divided evenly among the processes or into micro-batches.
    """

    def __init__(
        self,
        source: Source,
        objective: Objective,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        steps: int,
        seed: int,
        distributed: DistributedInfo = DistributedInfo(),
        pin: bool = False,
    ) -> None:
        if global_batch_size % distributed.world_size:
            raise InputError(
                f"a step of {global_batch_size} sequences cannot be divided evenly among "
                f"{distributed.world_size} processes",
                "choose --optimization.batch-tokens as a multiple of context x processes",
            )
        self.source, self.objective, self.seed, self.distributed, self.pin = source, objective, seed, distributed, pin
        self.global_batch_size, self.steps = global_batch_size, steps
        self.share = global_batch_size // distributed.world_size
        if self.share % micro_batch_size:
            raise InputError(
                f"micro-batches of {micro_batch_size} sequences do not divide the {self.share} sequences of a "
                f"step evenly",
                f"choose --machine.micro-batch-size as a divisor of {self.share}",
            )
        group = group_of(objective)
        if micro_batch_size % group:
            raise InputError(
                f"the objective mixes each {group} neighbouring rows, and a micro-batch has {micro_batch_size}",
                f"choose --machine.micro-batch-size, and the rows of a step, as multiples of {group}",
            )
        self.micro_batch_size = micro_batch_size
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[tuple[int, int], Future[list[Batch]]] | None = None

    def micro_batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of this process for one step, and start to prepare those of the next step.

        Args:
            step: Number of the step, counted from 0.
        """
        key = (step, self.micro_batch_size)
        ahead, self._ahead = self._ahead, None
        batches = ahead[1].result() if ahead and ahead[0] == key else self._make(step, self.micro_batch_size)
        following = (step + 1, self.micro_batch_size)
        self._ahead = (following, self._pool.submit(self._make, *following))
        return batches

    def _make(self, step: int, micro_batch_size: int) -> list[Batch]:
        first = step * self.global_batch_size + self.distributed.rank * self.share
        rows = self.source.rows(first, self.share)
        batches = []
        for start in range(0, self.share, micro_batch_size):
            # One random stream per row number: a row is encoded the same in every micro-batch size, and no two steps or
            # processes share a stream.
            streams = row_streams(self.seed, "encode", first=first + start)
            progress = min(step / self.steps, _JUST_BEFORE_THE_END)
            batch = self.objective.encode(rows[start : start + micro_batch_size], streams, progress)
            batches.append(_pinned(batch) if self.pin else batch)
        return batches

    def close(self) -> None:
        """Stop the thread that prepares batches."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
    def pin(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.pin_memory()

    batch.inputs, batch.targets = batch.inputs.pin_memory(), batch.targets.pin_memory()
    bounds = batch.bounds  # computed here, in the prefetching thread, so that no step waits for it
    batch.document_ids, batch.positions = pin(batch.document_ids), pin(batch.positions)
    batch.weights = pin(batch.weights)
    if bounds is not None and batch.document_ids is not None:
        batch._bounds = batch.document_ids, bounds.pin_memory()
    batch.model_inputs = {name: tensor.pin_memory() for name, tensor in batch.model_inputs.items()}
    return batch
