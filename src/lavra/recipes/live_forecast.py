"""The forecast of a run, renewed at each validation from the run's own curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavra.core.progress import say
from lavra.core.run_folder import RunFolder
from lavra.planning.curve import CurvePoint, forecast_from_curve
from lavra.planning.flops import matrix_parameters
from lavra.planning.law import Law
from lavra.planning.plan import Plan
from lavra.recipes.expectation import read_bytes, run_law, start_of
from lavra.recipes.material import Material
from lavra.training.observers import Request

_NEWS = 0.01
"""A forecast is said again when it has moved by more than this share."""


class LiveForecast:
    """An observer that writes the forecast of the final validation into `events.log`, and says it when it moves.

    Args:
        run: the record, in which earlier validations are found after a resume too.
        plan: of the run.
        data: what it learns from.
        law: of the run.
    """

    def __init__(self, run: RunFolder, plan: Plan, data: Material, law: Law) -> None:
        self.run, self.plan, self.data, self.law = run, plan, data, law
        self._said: float | None = None

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Forecast anew after a validation."""
        if event != "validation":
            return None
        steps = self.run.plan["steps"]  # a timed run may fix it anew
        if info["step"] >= steps:
            return None
        assert self.plan.model is not None
        found = forecast_from_curve(
            [self._point(info)],
            law=self.law,
            parameters=matrix_parameters(self.plan.model),
            steps=steps,
            text_bytes=read_bytes(self.plan, self.data, self.plan.epochs * steps / self.plan.steps),
            schedule=self.plan.schedule,
            start=start_of(self.plan),
        )
        if found is None:
            return None
        line = f"forecast: {found.value:.3f} bits per byte at the end [{found.low:.3f}, {found.high:.3f}], by the curve"
        self.run.log(f"step {info['step']}: {line}")
        if self._said is None or abs(found.value / self._said - 1.0) > _NEWS:
            say(line)
            self._said = found.value
        return None

    def _point(self, info: Mapping[str, Any]) -> CurvePoint:
        epochs = info["tokens"] / self.data.epoch_tokens(self.plan)
        return CurvePoint(info["step"], read_bytes(self.plan, self.data, epochs), info["bits_per_byte"])


def live_forecasts(run: RunFolder | None, plan: Plan, data: Material) -> list[LiveForecast]:
    """Return the observer of a run, or none where there is no law for it or nobody to write for."""
    law = None if run is None else run_law(plan, data)
    return [] if run is None or law is None else [LiveForecast(run, plan, data, law)]
