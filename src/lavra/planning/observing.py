"""What a finished run says to the scaling law: its final loss, and its validations before the learning rate fell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lavra.core.configuration import from_table
from lavra.core.run_folder import RunFolder
from lavra.models.spec import DecoderSpec
from lavra.planning.flops import matrix_parameters
from lavra.planning.law import Observation
from lavra.planning.repetition import worth

_EARLY = 0.25
"""Share of a run before which the learning rate has not been constant for long enough to say anything."""

_WEIGHT_ALONG = 0.3
"""What a point along a run counts: it says less of where runs end than their ends do."""


def observations_of(run: RunFolder, final: float | None = None) -> list[Observation]:
    """Return what a finished training of a decoder from nothing says; nothing for any other run.

    Args:
        run: the finished run.
        final: bits per byte at its end, where they were measured once more; by default its own.
    """
    plan, result = run.plan, run.result
    if not plan or not result or not plan.get("model") or plan.get("base"):
        return []
    lines = [line for line in run.metrics.read() if line.get("split") == "validation" and line["step"] > 0]
    if not lines or not lines[-1]["bits_per_byte"]:
        return []
    spec = from_table(DecoderSpec, plan["model"], str(run.path / "plan.json"))
    if final is None:
        own = result["bits_per_byte"]
        final = float(own["value"] if isinstance(own, dict) else own)
    return list(_points(plan, final, lines, matrix_parameters(spec), str(run.path)))


def _points(
    plan: dict[str, Any], final: float, lines: list[dict[str, Any]], parameters: int, name: str
) -> Iterator[Observation]:
    last = lines[-1]
    per_token = last["loss"] / math.log(2) / last["bits_per_byte"]
    epoch = plan["tokens"] / plan["epochs"] * per_token

    def read(tokens: float) -> float:
        return worth(tokens * per_token / epoch) * epoch

    start = plan.get("start_bits_per_byte") or math.inf
    yield Observation(parameters, read(last["tokens"]), final, True, name, start=start)
    schedule = plan["schedule"]
    if schedule["shape"] != "wsd":
        return
    for line in lines[:-1]:
        share = line["step"] / plan["steps"]
        if _EARLY <= share <= 1.0 - schedule["cooldown"]:
            # Validations during the run are of some windows; the ratio to the last one carries over.
            bits = line["bits_per_byte"] * final / last["bits_per_byte"]
            yield Observation(parameters, read(line["tokens"]), bits, False, name, _WEIGHT_ALONG, start)
