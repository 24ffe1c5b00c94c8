"""The end of a sweep: its best point measured, its recipe and its result written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lavra.config.tuning import TuneConfig
from lavra.core.configuration import to_toml
from lavra.core.disk.files import write_atomically
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.sweep_folder import SweepFolder
from lavra.core.progress import log, quiet
from lavra.core.units import counted
from lavra.reports.formatting import shown as shown_figure
from lavra.reports.formatting import title
from lavra.reports.sweeps.record import PointRecord, SweepRecord
from lavra.reports.sweeps.summary import state_of
from lavra.workflows.tuning.design import Design
from lavra.workflows.tuning.held_out import measure_held_out
from lavra.workflows.tuning.space import shown

_HEAD = """# The recipe of the best point of a sweep: lavra train --recipe FILE
"""


def write_outcome(
    config: TuneConfig,
    design: Design,
    sweep: SweepFolder,
    record: SweepRecord,
    *,
    spent: Callable[[], float],
    budget: float | None,
    left_out: int,
) -> None:
    """Measure the best point on other data than those that chose it, and write its recipe and the result.

    Args:
        config: The request.
        design: What was decided before the first trial, and the points.
        sweep: The folder.
        record: What became of the trials.
        spent: The function that returns the seconds that the sweep has taken.
        budget: Seconds that it could take; None for any.
        left_out: Number of points that were not trained, or not as far as planned.
    """
    best = record.best
    assert best is not None
    assert best.last is not None
    seed = design.seeds[0]
    run = RunFolder.open(sweep.trial(best.number, seed, len(design.seeds)))
    with quiet():
        held_out = measure_held_out(run, design.evaluated)
    recipe = design.recipe(best.number, config)
    write_atomically(sweep.recipe, _HEAD + to_toml(recipe))
    measured = record.measure in held_out
    reported = held_out[record.measure] if measured else best.last.measure
    result = {
        "task": run.result.get("task"),
        "parameters": run.result.get("parameters"),
        "data": list(design.data),
        "seconds": round(spent(), 3),
        "budget_seconds": budget,
        record.measure: reported,
        "sweep": {
            "method": design.method,
            "measure": record.measure,
            "points": len(design.points),
            "failed": sum(1 for point in record.points if point.failed),
            "left_out": left_out,
            "best": {
                "point": best.number,
                "values": dict(best.values),
                "run": str(run.path),
                "chosen_by": dict(best.last.measure),
                "measured_on_other_data": held_out if measured else None,
            },
            "recipe": str(sweep.recipe),
            "trials": [_trial(record, point) for point in record.order()],
        },
    }
    sweep.run.write_result(result)
    where = "on validation data that chose nothing" if measured else "on the validation data that chose it"
    log(
        f"best: {shown(design.fields, best.values)}; {title(record.measure)} "
        f"{shown_figure(record.measure, reported)} {where}"
    )
    if left_out:
        log(f"{counted(left_out, 'point')} not trained, or not as far as planned: the budget was over")


def _trial(record: SweepRecord, point: PointRecord) -> dict[str, Any]:
    """Return what became of a point, as JSON values."""
    last = point.last
    reached = {} if last is None else {record.measure: dict(last.measure), "step": last.step, "steps": last.steps}
    return {"point": point.number, "values": dict(point.values), **reached, "state": state_of(record, point)}
