"""Whether training fits into memory, with which micro-batch, and which changes would make it fit."""

from __future__ import annotations

from dataclasses import replace

from lavra.config.transforms import AdapterConfig
from lavra.models.presets import PRESETS
from lavra.planning.forecast import MemoryForecast
from lavra.planning.machine.dry_run import DryRun
from lavra.planning.machine.flops import matrix_parameters
from lavra.planning.machine.memory import estimate_memory, largest_that_fits, memory_table


def memory_forecast(dry_run: DryRun, available: float, *, asked: int | None, most_rows: int) -> MemoryForecast:
    """Return the estimated memory of a training step for several sizes of the micro-batch.

    Args:
        dry_run: Dry run of the training step.
        available: Available memory in bytes.
        asked: Requested number of sequences of a micro-batch; None for the largest that fits.
        most_rows: Largest micro-batch that is tried if none is requested.

    Raises:
        InputError: if the model or a transform of it is wrong.
    """
    estimates = memory_table(dry_run, available, asked or most_rows)
    if asked is None:
        chosen = largest_that_fits(estimates, available)
    else:
        chosen = next((found for found in estimates if found.micro_batch_size == asked), None)
        if chosen is None:
            chosen = estimate_memory(dry_run, asked)
            estimates = sorted([*estimates, chosen], key=lambda estimate: estimate.micro_batch_size)
    fits = chosen is not None and chosen.fits(available)
    rows = chosen.micro_batch_size if chosen is not None else 1
    return MemoryForecast(
        available,
        tuple(estimates),
        None if chosen is None else rows,
        fits,
        estimate_memory(replace(dry_run, whole_logits=True), rows),
        () if fits else what_would_fit(dry_run, available, rows),
    )


def what_would_fit(dry_run: DryRun, available: float, rows: int) -> tuple[str, ...]:
    """Return up to three changes, each of which alone makes training fit, as flags in words; the mildest first.

    Args:
        dry_run: Dry run of the training step that does not fit.
        available: Available memory in bytes.
        rows: Number of sequences of a micro-batch.
    """
    found: list[str] = []
    if rows > 1:
        smaller = next(
            (few for few in (rows // 2, rows // 4, 1) if few and estimate_memory(dry_run, few).fits(available)), None
        )
        if smaller:
            found.append(f"--machine.micro-batch-size {smaller}")
    transforms = dry_run.transforms
    checkpointed = replace(dry_run, transforms=replace(transforms, gradient_checkpointing=True))
    adapted = replace(dry_run, transforms=replace(transforms, adapter=AdapterConfig(kind="lora")))
    changes = [
        ("--transforms.gradient-checkpointing", checkpointed),
        *(
            (f"--context {dry_run.context // part}", _shorter(dry_run, part))
            for part in (2, 4)
            if dry_run.context // part >= 64
        ),
        ("--transforms.adapter.kind lora (adapting a trained model)", adapted),
        (
            "--transforms.adapter.kind lora --transforms.gradient-checkpointing",
            replace(adapted, transforms=replace(adapted.transforms, gradient_checkpointing=True)),
        ),
    ]
    for words, changed in changes:
        if len(found) < 3 and estimate_memory(changed, rows).fits(available):
            found.append(words)
    return tuple(found) or _smaller_model(dry_run, available)


_BYTES_PER_PARAMETER = 12
"""Bytes for each parameter that training takes at least: fp32 weight, gradient, and one moment of the optimiser."""


def _smaller_model(dry_run: DryRun, available: float) -> tuple[str, ...]:
    """Return the largest preset with which one sequence fits, in words; an empty tuple if there is none."""
    sizes = {name: matrix_parameters(spec) for name, spec in PRESETS.items()}
    for name in sorted(PRESETS, key=lambda name: -sizes[name]):
        if _BYTES_PER_PARAMETER * sizes[name] > available:
            continue
        context = min(dry_run.context, PRESETS[name].context)
        if estimate_memory(replace(dry_run, model=PRESETS[name], context=context), 1).fits(available):
            return (f"--model {name}, the largest preset with which a sequence of {context} tokens fits",)
    return ()


def _shorter(dry_run: DryRun, part: int) -> DryRun:
    return replace(dry_run, context=dry_run.context // part)
