"""Check: batches are ready before they are needed, the speed is what the plan expects, and blocks compile whole."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from lavra.checks.base import CheckResult, Subject
from lavra.checks.sandbox import only_measuring, restored, train_on
from lavra.training.devices import synchronize

_STEPS = 2
_WAIT, _SLOW = 0.1, 0.3


def check_speed(subject: Subject) -> list[CheckResult]:
    """Measure the share of time spent waiting for data, the speed against the plan, and the compiler's graphs."""
    data_seconds, step_seconds = _times(subject)
    wait = max(0.0, data_seconds - step_seconds) / max(data_seconds, step_seconds)
    speed = subject.encoded.weight / step_seconds
    measured = f"{wait:.0%} of the time waiting for data; {speed:,.0f} tokens/s"
    expected = f"less than {_WAIT:.0%} waiting"
    remedies = [] if wait <= _WAIT else ["making batches takes longer than learning from them: prepare more beforehand"]
    if subject.tokens_per_second:
        share = speed / subject.tokens_per_second
        measured += f" on short rows, {share:.0%} of the plan's {subject.tokens_per_second:,.0f}"
        expected += f", at least {_SLOW:.0%} of the plan's speed"
        if share < _SLOW:
            remedies.append("see whether something else keeps the machine busy, and the number of threads")
    graphs = _graphs(subject)
    if graphs is not None:
        breaks, compilations = graphs
        measured += f"; a block compiles into {compilations} graph{'s' * (compilations != 1)} with {breaks} breaks"
        expected += ", one graph for each block without breaks"
        if breaks or compilations > 1:
            remedies.append("values read on the host, or changing shapes, break the graph: see TORCH_LOGS=graph_breaks")
    verdict = "warn" if remedies else "ok"
    return [CheckResult("speed", verdict, measured, expected, "; ".join(remedies))]


def _times(subject: Subject) -> tuple[float, float]:
    """Return the seconds to make a batch and to compute its gradient; the optimiser's, over many rows, are left out."""
    begin = time.perf_counter()
    for number in range(_STEPS):
        subject.encode(subject.source.rows(number * subject.rows, subject.rows))
    data_seconds = (time.perf_counter() - begin) / _STEPS
    trainer = subject.trainer
    with restored(trainer):
        train_on(trainer, subject.objective, [[subject.encoded]])
        trainer.updates = only_measuring()
        trainer.run_step()
        synchronize(trainer.device)
        begin = time.perf_counter()
        trainer.run_step()
        synchronize(trainer.device)
    return data_seconds, time.perf_counter() - begin


def _graphs(subject: Subject) -> tuple[int, int] | None:
    """Return the graph breaks and the compilations of one block seen twice; None for a model without blocks.

    Only the tracing is done, which takes a second, not the compilation.
    """
    blocks = getattr(subject.model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        return None
    seen: dict[str, Any] = {}
    handle = blocks[0].register_forward_pre_hook(
        lambda _, given, named: seen.update(given=given, named=named), with_kwargs=True
    )
    with torch.no_grad():
        subject.model.features(subject.encoded)
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
