"""Check of speed: batches are ready in time, the speed is that of the plan, and blocks compile without graph breaks."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.sandbox import only_measuring, restored, train_on
from lavra.training.devices import synchronize

_STEPS = 2  # batches that are timed
_WAIT = 0.1
"""Share of the time that may be spent waiting for data, and share of the planned speed that must be reached; short rows
are slower than those of the run, so the second is low."""
_SLOW = 0.3


def check_speed(check_context: CheckContext) -> list[CheckResult]:
    """Measure the time spent waiting for data, the speed relative to the plan, and the graphs of a compiled block.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `speed`, whose verdict is `ok` or `warn`.
    """
    data_seconds, step_seconds = _times(check_context)
    wait = max(0.0, data_seconds - step_seconds) / max(data_seconds, step_seconds)
    speed = check_context.encoded.weight / step_seconds
    measured = f"{wait:.0%} of the time waiting for data; {speed:,.0f} tokens/s"
    expected = f"less than {_WAIT:.0%} waiting"
    remedies = [] if wait <= _WAIT else ["making batches takes longer than training on them: prepare the data first"]
    if check_context.tokens_per_second:
        share = speed / check_context.tokens_per_second
        measured += f" on short sequences, {share:.0%} of the {check_context.tokens_per_second:,.0f} that are planned"
        expected += f", at least {_SLOW:.0%} of the planned speed"
        if share < _SLOW:
            remedies.append("check whether other programs keep the machine busy, and the number of threads")
    graphs = _graphs(check_context)
    if graphs is not None:
        breaks, compilations = graphs
        measured += f"; a block compiles into {compilations} graph{'s' * (compilations != 1)} with {breaks} breaks"
        expected += ", one graph for each block without breaks"
        if breaks or compilations > 1:
            remedies.append("values read by the processor, or changing shapes, break graphs: TORCH_LOGS=graph_breaks")
    verdict = "warn" if remedies else "ok"
    return [CheckResult("speed", verdict, measured, expected, "; ".join(remedies))]


def _times(check_context: CheckContext) -> tuple[float, float]:
    """Return the seconds to make a batch and to compute its gradient, without the optimiser step.

    In a real run, the optimiser step is spread over many more tokens than the few of this batch.
    """
    begin = time.perf_counter()
    for number in range(_STEPS):
        check_context.encode(check_context.source.rows(number * check_context.rows, check_context.rows))
    data_seconds = (time.perf_counter() - begin) / _STEPS
    trainer = check_context.trainer
    with restored(trainer):
        train_on(trainer, check_context.objective, [[check_context.encoded]])
        trainer.updates = only_measuring()
        trainer.run_step()
        synchronize(trainer.device)
        begin = time.perf_counter()
        trainer.run_step()
        synchronize(trainer.device)
    return data_seconds, time.perf_counter() - begin


def _graphs(check_context: CheckContext) -> tuple[int, int] | None:
    """Return the numbers of graph breaks and of graphs of one block that runs twice; None for a model without blocks.

    The block is only traced (by TorchDynamo), which takes about a second, and not compiled.
    """
    blocks = getattr(check_context.model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        return None
    seen: dict[str, Any] = {}
    handle = blocks[0].register_forward_pre_hook(
        lambda _, given, named: seen.update(given=given, named=named), with_kwargs=True
    )
    with torch.no_grad():
        check_context.model.features(check_context.encoded)
    handle.remove()
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    compiled = torch.compile(blocks[0].forward, backend="eager", dynamic=False)
    with torch.compiler.set_stance("default"), torch.no_grad():
        for _ in range(2):
            compiled(*seen["given"], **seen["named"])
    breaks = sum(dynamo.utils.counters["graph_break"].values())
    compilations = dynamo.utils.counters["stats"]["unique_graphs"]
    dynamo.reset()
    return breaks, compilations
