"""A compiled step proves itself before it is used: loss and gradients against the eager step, both against fp32.

A C++ compiler, a kernel of a library or a driver can make wrong code on any machine. What a compiled step gives on the
run's own first micro-batch may be at most twice as far from fp32 as what the eager step gives. If it is farther, it is
compiled again with safer flags, and in the end not at all. The verdict is kept for this machine, so that it costs its
seconds once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from lavra.core.machine import is_out_of_memory, release_memory
from lavra.models.native.agreement import Reference
from lavra.models.native.attention import attending_plainly
from lavra.models.native.loss_factor import scaled_loss
from lavra.models.protocols import Batch, eval_mode
from lavra.objectives.base import ComparingObjective, group_of
from lavra.training.acceleration.compiling import (
    EAGER,
    SAFER,
    USUAL,
    CompilableLearner,
    Compilation,
    is_compiler_failure,
    repays_compiling,
)
from lavra.training.acceleration.temporary_weights import lively, widened
from lavra.training.acceleration.verdicts import Fault, Verdict, key_of, known_verdict, remember_verdict
from lavra.training.batches import DistributedInfo
from lavra.training.distributed import max_over_ranks

_SLICES = 4
"""Parts in which the exact gradient is computed: in fp32 a whole micro-batch may not fit where one in bf16 does."""


def prove_compilation(trainer: CompilableLearner) -> None:
    """Prove a trainer's compiled step on its next micro-batch, and compile it otherwise, or not at all, if it is wrong.

    Every rank comes to the same decision. Weights and gradients are left as they were; dropout is off for the proof.
    After a way that is wrong, the next one is tried where it repays its seconds before the trainer's deadline. A
    trainer without a deadline tries all of them. What was found out is kept for later runs.

    Args:
        trainer: with a `compilation`, before a step.
    """
    compilation, distributed = trainer.compilation, trainer.batches.distributed
    assert compilation is not None
    batch = trainer.batches.micro_batches(trainer.step)[0].to(trainer.device)
    every = [compilation.flags, *(way for way in _ways(trainer.device) if way != compilation.flags)]
    key = key_of(trainer, batch)
    known = _agreed(known_verdict(key), every, distributed)
    if known.proved is not None:
        compilation.set_flags(known.proved)
        if known.proved != USUAL:
            trainer.report(f"compiled step: {in_words(known.proved)}, as an earlier run proved on this machine")
        return
    ways = _in_order(every, known, chosen=compilation.flags != USUAL)
    attempts = take_first_right_way(trainer, batch, ways, lambda seconds: _repays(trainer, seconds), known.seconds)
    verdict = replace(known, faults={**known.faults, **attempts.faults}, seconds=attempts.seconds or known.seconds)
    if compilation.flags != EAGER:
        verdict = replace(verdict, proved=compilation.flags)
    trainer.report(_told(verdict, attempts, ways))
    remember_verdict(key, verdict)


def _ways(device: torch.device) -> list[str]:
    return [USUAL, *(SAFER if device.type == "cpu" else ()), EAGER]


def _agreed(verdict: Verdict, ways: Sequence[str], distributed: DistributedInfo) -> Verdict:
    """Return what is known on all ranks: a way is proved if it is so on each, and wrong if it is so on one."""

    def anywhere(ways_of_this_rank: set[str]) -> set[str]:
        return {way for way in ways if max_over_ranks(way in ways_of_this_rank, distributed)}

    unproved = anywhere({way for way in ways if way != verdict.proved})
    faults = {way: verdict.faults.get(way, _ELSEWHERE) for way in anywhere(set(verdict.faults))}
    return Verdict(
        next((way for way in ways if way not in unproved), None),
        faults,
        max_over_ranks(verdict.seconds, distributed),
        frozenset(anywhere(set(verdict.suspects))),
    )


def _in_order(ways: Sequence[str], known: Verdict, *, chosen: bool) -> list[str]:
    """Return the ways to try: none that is known to be wrong, and those that were wrong for another step late.

    Args:
        ways: all ways, with the present one first and `EAGER` last.
        known: what earlier runs found out.
        chosen: whether the present way was chosen by an earlier proof of this run, and stays the first.
    """
    possible = [way for way in ways if way not in known.faults]
    return sorted(possible, key=lambda way: (way == EAGER, way in known.suspects and not (chosen and way == ways[0])))


def _repays(trainer: CompilableLearner, seconds: float) -> bool:
    """Return whether compiling in some seconds is worth it in the time that is left, on every rank."""
    deadline = trainer.deadline
    lost = deadline is not None and not repays_compiling(trainer.device, deadline.seconds_left, seconds)
    return not max_over_ranks(lost, trainer.batches.distributed)


@dataclass
class Attempts:
    """The ways that were tried to compile a step.

    Attributes:
        faults: What is wrong with the ways before the one that was taken, by way, in the order of the attempts.
        left_out: The way that was not tried because it would not have repaid its seconds; None for none.
        seconds: Most seconds that one attempt took; 0 without an attempt.
        total: Seconds of all attempts, with the plain steps that they were compared with.
    """

    faults: dict[str, Fault] = field(default_factory=dict)
    left_out: str | None = None
    seconds: float = 0.0
    total: float = 0.0


def take_first_right_way(
    trainer: CompilableLearner,
    batch: Batch,
    ways: Sequence[str] = (),
    repays: Callable[[float], bool] = lambda seconds: True,
    expected: float = 0.0,
) -> Attempts:
    """Compile a trainer's step in the first way that is right on every rank.

    Args:
        trainer: with a `compilation`.
        batch: on the trainer's device.
        ways: flags to try, in this order, `EAGER` last; empty: the usual ones, the safer ones, nothing compiled.
        repays: whether an attempt of that many seconds is worth it; the same on every rank.
        expected: seconds that an attempt took in an earlier run; 0 where the first attempt is worth it in any case.

    Returns:
        What was tried.
    """
    compilation = trainer.compilation
    assert compilation is not None
    clock = time.monotonic if trainer.deadline is None else trainer.deadline.clock
    attempts, begun = Attempts(), clock()
    ways = ways or _ways(trainer.device)
    if len(ways) == 1:
        compilation.set_flags(ways[0])
        return attempts
    with eval_mode(trainer.model), lively(trainer):
        reference: Reference | None = None
        for number, way in enumerate(ways):
            seconds = attempts.seconds or expected
            if way != EAGER and seconds and not repays(seconds):
                attempts.left_out = way
                compilation.set_flags(EAGER)
                break
            if number == 0:
                reference = _reference(trainer, compilation, batch)
            start = clock()
            compilation.set_flags(way)
            fault = None if way == EAGER else _fault(trainer, batch, reference)
            if way != EAGER:
                attempts.seconds = max_over_ranks(max(attempts.seconds, clock() - start), trainer.batches.distributed)
            if not max_over_ranks(fault is not None, trainer.batches.distributed):
                break
            attempts.faults[way] = fault or _ELSEWHERE
    attempts.total = clock() - begun
    return attempts


def _told(verdict: Verdict, attempts: Attempts, ways: Sequence[str]) -> str:
    """Return the line that says what was tried, found and taken."""
    seconds = f"({attempts.total:.1f} s)"
    if not verdict.faults and attempts.left_out is None and verdict.proved == USUAL:
        return f"compiled step: proved equal to the plain one within the rounding of its numbers {seconds}"
    parts = [f"{name_of(way)}, {fault.told}" for way, fault in attempts.faults.items()]
    earlier = [name_of(way) for way in verdict.faults if way not in attempts.faults]
    if earlier:
        parts.insert(0, f"{' and '.join(earlier)}, an earlier run found it wrong")
    parts.append(in_words(EAGER if verdict.proved is None else verdict.proved))
    if attempts.left_out is not None:
        took = attempts.seconds or verdict.seconds
        parts[-1] += (
            f", because compiling once more (some {took:.0f} s) does not pay in the time that is left; a longer run "
            f"begins {name_of(attempts.left_out)}"
        )
    return f"compiled step: {'; '.join(parts)} {seconds}"


def name_of(way: str) -> str:
    """Return a way of compiling as a phrase."""
    return f"with {way}" if way else "with the usual flags"


def in_words(way: str) -> str:
    """Return what the step is computed by, from the flags of a compilation."""
    if way == EAGER:
        return "the plain step goes on, slower by a fifth or so"
    return f"compiled with {way}, which is right" if way else "compiled as usual, which is right"


_ELSEWHERE = Fault("it is wrong in another process")


def _reference(trainer: CompilableLearner, compilation: Compilation, batch: Batch) -> Reference | None:
    """Return what the eager step gives, and the eager step in fp32 with the plainest attention.

    None where one of several processes has no memory for it: it cannot begin again by itself while the others wait.
    """
    rows = batch.inputs.shape[0]
    # A loss that compares the examples of a batch is not the sum of those of its parts.
    group = group_of(trainer.objective)
    size = rows if isinstance(trainer.objective, ComparingObjective) else max(1, rows // _SLICES // group) * group
    parts = [batch.take(slice(start, start + size)) for start in range(0, rows, size)]
    try:
        with compilation.eagerly():
            plain = _gradients(trainer, [batch])
            with widened(trainer.model), attending_plainly():  # pyright: ignore[reportArgumentType]
                exact = _gradients(trainer, parts)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or trainer.batches.distributed.world_size == 1:
            raise
        release_memory(error)
        return None
    return Reference(exact, plain, next(iter(trainer.master_weights.working.values())).dtype)


def _fault(trainer: CompilableLearner, batch: Batch, reference: Reference | None) -> Fault | None:
    """Return what is wrong with the step as it is compiled now; None for nothing."""
    if reference is None:
        return Fault("there is no memory to prove it", wrong_code=False)
    try:
        told = reference.disagreement(_gradients(trainer, [batch]))
        return None if told is None else Fault(told)
    except Exception as error:
        lacking = is_out_of_memory(error)
        if (not is_compiler_failure(error) and not lacking) or (
            lacking and trainer.batches.distributed.world_size == 1
        ):
            raise
        told = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        release_memory(error)
        return Fault(f"the compiler failed ({told})", wrong_code=False)


def _gradients(trainer: CompilableLearner, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Return the mean loss of the batches and its gradient at every trained weight, in the weights' present type."""
    scale = trainer.scale.value / max(1.0, sum(batch.weight for batch in batches))
    weights = trainer.master_weights.working
    total = torch.zeros((), device=trainer.device)
    for weight in weights.values():
        weight.grad = None
    for batch in batches:
        loss = trainer.objective.loss(trainer.model, batch)
        with scaled_loss(scale):
            (loss.sum * scale).backward()
        total += loss.sum.detach().float() * scale
    found = {f"the gradient of {name}": weight.grad for name, weight in weights.items() if weight.grad is not None}
    for weight in weights.values():
        weight.grad = None
    return {"the loss": total, **found}
