"""The pilot of fine-tuning: short runs on subsets of the text, to which a learning curve is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lavra.config.planning import PlanRequest
from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import show_count, show_duration
from lavra.planning.budget import effective_tokens
from lavra.planning.forecast import Forecast, PlanReport
from lavra.planning.scaling_law.curves import fit_rectified
from lavra.workflows.datasets.text import is_prepared, prepare_as_asked
from lavra.workflows.planning.model import starting_model
from lavra.workflows.planning.pilot import parse_share
from lavra.workflows.training.train import train

_LEAST_SUBSETS = 4
"""Fewest and most subsets, each half of the one before it, and fewest steps on the smallest. A curve of four constants
needs at least four subsets."""
_MOST_SUBSETS = 6
_LEAST_STEPS = 2

_RUN_SECONDS = 6.0
"""Seconds of a run beside its steps: opening the model, the final evaluation, writing the model."""


@dataclass(frozen=True)
class Tuned:
    """The result of fine-tuning on one subset.

    Attributes:
        tokens: Tokens of the subset, each trained on once.
        bits_per_byte: Bits per byte of the validation text, which is the same for all subsets.
        before: Bits per byte of a part of the validation text before the first step; None if it was not measured.
    """

    tokens: float
    bits_per_byte: float
    before: float | None


def subset_sizes(tokens: float, epoch: float, step: int) -> list[int]:
    """Return the sizes of the subsets, largest first; together they have at most `tokens` tokens.

    Args:
        tokens: Tokens that the pilot may train on.
        epoch: Tokens of the text, which no subset exceeds.
        step: Tokens of one update; every subset is a multiple.

    Returns:
        Four to six sizes in tokens, each about half of the one before it.

    Raises:
        InputError: If there are too few tokens for four subsets.
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
        "give a larger share (--pilot 20%), a longer budget, or smaller steps (--optimization.batch-tokens 1024)",
    )


def tuned(
    request: PlanRequest, plan_report: PlanReport, trained: Callable[[TrainConfig], RunFolder] = train
) -> PlanReport:
    """Return the forecast of a plan with the loss of fine-tuning, by the rectified scaling law (arXiv 2402.02314).

    Args:
        request: The request of the plan, whose `base` is the pretrained model.
        plan_report: The forecast without a loss.
        trained: The function that trains one run.

    Returns:
        The forecast, with the loss by the law that was fitted to runs on subsets of the text.

    Raises:
        InputError: If there is no text, the hardware is not this machine, or the share of the budget is too small.
    """
    assert request.pilot is not None
    assert request.base is not None
    text = plan_report.text
    if text is None or not plan_report.hardware.here:
        raise InputError("a pilot fine-tunes on your text, on this machine", "give DATA, without --hardware")
    step = plan_report.flops.context * max(1, plan_report.batch_tokens // plan_report.flops.context)
    epoch = text.tokens.value * (1.0 - request.text.validation_share)
    sizes = subset_sizes(plan_report.tokens * parse_share(request.pilot), epoch, step)
    seconds = sum(sizes) / plan_report.speed.tokens_per_second + _RUN_SECONDS * len(sizes)
    log(
        f"pilot: fine-tuning on {len(sizes)} subsets of {show_count(sizes[-1])} to {show_count(sizes[0])} tokens, "
        f"about {show_duration(seconds)} in total"
    )
    with scratch_folder() as folder:
        found = _tune(request, plan_report, sizes, step, Path(folder), trained)
    return replace(
        plan_report, forecast=curve_forecast(found, effective_tokens(plan_report.tokens, epoch), text.bytes_per_token)
    )


def curve_forecast(found: Sequence[Tuned], tokens: float, bytes_per_token: float) -> Forecast:
    """Forecast the loss of fine-tuning by the learning curve through the subsets.

    Args:
        found: The results on at least four subsets.
        tokens: Effective tokens of the planned run, in which repeated text counts for less than new text.
        bytes_per_token: Bytes of text for each token.

    Returns:
        The forecast.
    """
    curve = sorted((run.tokens, run.bits_per_byte) for run in found)
    law = fit_rectified([size for size, _ in curve], [bits for _, bits in curve])
    before = next((run.before for run in found if run.before is not None), None)
    origin = f"the rectified scaling law, fitted to fine-tuning on {len(curve)} subsets of this text"
    return Forecast(law.forecast(tokens), bytes_per_token, None, origin, before, tuple(curve))


def _tune(
    request: PlanRequest,
    plan_report: PlanReport,
    sizes: Sequence[int],
    step: int,
    folder: Path,
    trained: Callable[[TrainConfig], RunFolder],
) -> list[Tuned]:
    """Prepare the text once and fine-tune on each subset, which is the first part of one epoch in its random order."""
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
            transforms=request.transforms,
            model=ModelConfig(context=plan_report.flops.context),
            optimization=replace(request.optimization, batch_tokens=step),
            machine=replace(request.machine, micro_batch_size=None),
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
