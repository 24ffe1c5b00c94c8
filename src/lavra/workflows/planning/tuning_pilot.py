"""The pilot of an adaptation: fine-tuning on subsets of the user's text, to which its learning curve is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lavra.config.planning import PlanRequest
from lavra.config.training import MachineConfig, ModelConfig, OptimizationConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.core.units import show_count, show_duration
from lavra.planning.budget import effective_tokens
from lavra.planning.forecast import Forecast, Outlook
from lavra.planning.scaling_law.curves import fit_rectified
from lavra.workflows.datasets.text import is_prepared, prepare_as_asked
from lavra.workflows.planning.model import starting_model
from lavra.workflows.planning.pilot import parse_share
from lavra.workflows.training.train import train

_LEAST_SUBSETS, _MOST_SUBSETS, _LEAST_STEPS = 4, 6, 2
"""A curve of four constants needs as many subsets, each half of the one before it; a subset needs some steps."""

_RUN_SECONDS = 6.0
"""Of one run beside its steps: opening the model, the last evaluation, writing it."""


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning on one subset gave.

    Attributes:
        tokens: of the subset, each learned from once.
        bits_per_byte: of held-out text, the same for all subsets.
        before: the same before the first step, on some of the held-out text; None if it was not measured.
    """

    tokens: float
    bits_per_byte: float
    before: float | None


def subset_sizes(tokens: float, epoch: float, step: int) -> list[int]:
    """Return the sizes of subsets, largest first, that together cost at most `tokens`; none is more than the text.

    Args:
        tokens: that the pilot may spend.
        epoch: tokens of the text.
        step: tokens of an optimiser step.

    Raises:
        InputError: if that is too little for a curve.
    """
    for count in range(_MOST_SUBSETS, _LEAST_SUBSETS - 1, -1):
        largest = min(tokens / (2.0 - 2.0 ** (1 - count)), epoch)
        sizes = [int(largest / 2**halvings / step) * step for halvings in range(count)]
        if sizes[-1] >= _LEAST_STEPS * step:
            return sizes
    need = _LEAST_STEPS * step * (2**_LEAST_SUBSETS - 1)
    raise InputError(
        f"{show_count(min(tokens, 2 * epoch))} tokens are too few for a pilot: {_LEAST_SUBSETS} subsets, the smallest "
        f"of {_LEAST_STEPS} steps of {step} tokens, need {show_count(need)}",
        "give a larger share (--pilot 20%), a longer budget, or smaller steps (--tokens-per-step 1024)",
    )


def tuned(request: PlanRequest, outlook: Outlook, trained: Callable[[TrainConfig], RunFolder] = train) -> Outlook:
    """Return the outlook with the loss to expect of fine-tuning, by the rectified scaling law fitted to subsets.

    Args:
        request: of the plan; its `base` is the model.
        outlook: of the planned run, without forecast.
        trained: does one run.

    Raises:
        InputError: without text, for other hardware than this, or where the share is too small.
    """
    assert request.pilot is not None
    assert request.base is not None
    text = outlook.text
    if text is None or not outlook.hardware.here:
        raise InputError("a pilot fine-tunes on your text, on this machine", "give DATA, without --hardware")
    step = outlook.flops.context * max(1, outlook.tokens_per_step // outlook.flops.context)
    epoch = text.tokens.value * (1.0 - request.text.validation_share)
    sizes = subset_sizes(outlook.tokens * parse_share(request.pilot), epoch, step)
    seconds = sum(sizes) / outlook.speed.tokens_per_second + _RUN_SECONDS * len(sizes)
    say(
        f"pilot: fine-tuning on {len(sizes)} subsets of {show_count(sizes[-1])} to {show_count(sizes[0])} tokens, "
        f"about {show_duration(seconds)} in total"
    )
    with scratch_folder() as folder:
        found = _tune(request, outlook, sizes, step, Path(folder), trained)
    return replace(
        outlook, forecast=curve_forecast(found, effective_tokens(outlook.tokens, epoch), text.bytes_per_token)
    )


def curve_forecast(found: Sequence[Tuned], tokens: float, bytes_per_token: float) -> Forecast:
    """Return the loss to expect after learning from so many tokens, by the curve through the subsets.

    Args:
        found: of at least four subsets.
        tokens: of new text; repeated text counts for what it is worth.
        bytes_per_token: of text.
    """
    curve = sorted((run.tokens, run.bits_per_byte) for run in found)
    law = fit_rectified([size for size, _ in curve], [bits for _, bits in curve])
    before = next((run.before for run in found if run.before is not None), None)
    origin = f"the rectified scaling law, fitted to fine-tuning on {len(curve)} subsets of this text"
    return Forecast(law.forecast(tokens), bytes_per_token, None, origin, before, tuple(curve))


def _tune(
    request: PlanRequest,
    outlook: Outlook,
    sizes: Sequence[int],
    step: int,
    folder: Path,
    trained: Callable[[TrainConfig], RunFolder],
) -> list[Tuned]:
    """Prepare the text once and fine-tune on each subset: the first tokens of one pass, in its random order."""
    assert request.base is not None
    data = request.data
    if not is_prepared(data):
        tokenizer = starting_model(request.base).tokenizer
        prepare_as_asked(data, folder / "text", request.text, vocabulary_size=None, tokenizer=tokenizer)
        data = (str(folder / "text"),)
    found: list[Tuned] = []
    for number, size in enumerate(sizes):
        config = TrainConfig(
            data=data,
            base=request.base,
            tokens=size,
            out=str(folder / f"run-{number}"),
            force=True,
            seed=request.seed,
            check=False,
            samples=0,
            keep_checkpoints=1,
            text=request.text,
            edits=request.edits,
            model=ModelConfig(context=outlook.flops.context),
            optimization=OptimizationConfig(tokens_per_step=step, name=request.optimizer),
            machine=MachineConfig(precision=request.precision),
        )
        run = trained(config)
        found.append(_tuned(run, size))
    return found


def _tuned(run: RunFolder, size: int) -> Tuned:
    assert run.result is not None
    figure = run.result["bits_per_byte"]
    begin = next((line for line in run.metrics.read() if line["step"] == 0 and "bits_per_byte" in line), None)
    return Tuned(
        float(size),
        float(figure["value"] if isinstance(figure, dict) else figure),
        None if begin is None else float(begin["bits_per_byte"]),
    )
