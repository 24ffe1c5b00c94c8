"""The Python API: the verbs of the command line, with durations and counts as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.configuration import from_table, to_json
from lavra.core.run_folder import RunFolder, list_runs
from lavra.core.units import parse_count, parse_duration, parse_size
from lavra.recipes.classify import classify
from lavra.recipes.config import TextConfig, TrainConfig
from lavra.recipes.evaluate import evaluate
from lavra.recipes.explain import explain
from lavra.recipes.generate import generate
from lavra.recipes.prepare import prepare_text
from lavra.recipes.run import Run
from lavra.recipes.score import score

if TYPE_CHECKING:
    from lavra.checks.report import Report
    from lavra.planning.outlook import Outlook
    from lavra.reports.run_comparison import RunComparison

__all__ = [
    "check",
    "classify",
    "compare",
    "evaluate",
    "explain",
    "generate",
    "plan",
    "prepare",
    "resume",
    "runs",
    "score",
    "train",
]

_PARSERS = {
    "budget": parse_duration,
    "tokens": parse_count,
    "tokens_per_step": parse_count,
    "validation_limit": parse_size,
}


def train(data: str | Path | Sequence[str | Path], *, config: TrainConfig | None = None, **fields: Any) -> Run:
    """Train a language model and return its run.

    Args:
        data: a location or several: files, folders, globs, `installed-docs:`, a prepared folder.
        config: where the other values come from; the defaults if it is not given.
        fields: values of `TrainConfig` by name; nested ones as dictionaries: `budget="20m", model={"depth": 4}`.

    Raises:
        InputError: if a field is unknown or wrong, or the text is.
    """
    from lavra.recipes.train import train as run_training

    return Run(run_training(_request(data, config, fields, "lavra.train")).path)


def check(data: str | Path | Sequence[str | Path], *, config: TrainConfig | None = None, **fields: Any) -> Report:
    """Prove a training set-up right: `train`'s arguments, or a run folder, in; what was measured and expected out.

    Raises:
        InputError: if a field is unknown or wrong, or the text is.
    """
    from lavra.recipes.check import check as run_battery

    return run_battery(_request(data, config, fields, "lavra.check"))


def plan(data: str | Path | Sequence[str | Path] = (), **fields: Any) -> Outlook:
    """Say what a training would take and bring: `lavra.plan("mytext/", budget="1h", hardware="colab-t4")`.

    Args:
        data: as for `train`; nothing where `model` and `tokens` are given.
        fields: values of `PlanRequest` by name.

    Raises:
        InputError: if a field is unknown or wrong, or the text is.
    """
    from lavra.recipes.plan import plan as look_ahead
    from lavra.recipes.plan_request import PlanRequest

    locations = [data] if isinstance(data, str | Path) else list(data)
    asked = _plain(fields) | {"data": [str(location) for location in locations]}
    return look_ahead(from_table(PlanRequest, _merged(to_json(PlanRequest()), asked), "lavra.plan"))


def prepare(
    data: str | Path | Sequence[str | Path], out: str | Path, *, force: bool = False, **text: Any
) -> dict[str, Any]:
    """Tokenise a corpus once; returns the report. Further fields are those of `TextConfig`."""
    locations = [data] if isinstance(data, str | Path) else list(data)
    asked = from_table(TextConfig, _merged(to_json(TextConfig()), _plain(text)), "lavra.prepare")
    return prepare_text([str(location) for location in locations], out, asked, force=force)


def resume(folder: str | Path, *, micro_rows: int | None = None) -> Run:
    """Go on with a run from its last whole checkpoint to its end: see `lavra.recipes.resume.resume`."""
    from lavra.recipes.resume import resume as go_on

    return Run(go_on(folder, micro_rows=micro_rows).path)


def runs(root: str | Path = "runs") -> list[Run]:
    """Return the runs in a folder, the oldest first."""
    return [Run(run.path) for run in list_runs(root)]


def compare(*runs: Run | Path | str) -> RunComparison:
    """Set runs side by side; the first is the baseline of the paired tests of bits per byte.

    Raises:
        InputError: if there are fewer than two, one is given twice, or a folder is no run.
    """
    from lavra.reports.run_comparison import compare_runs

    return compare_runs([RunFolder.open(run.path if isinstance(run, Run) else run) for run in runs])


def _request(
    data: str | Path | Sequence[str | Path], config: TrainConfig | None, fields: dict[str, Any], place: str
) -> TrainConfig:
    locations = [data] if isinstance(data, str | Path) else list(data)
    asked = _plain(fields) | {"data": [str(location) for location in locations]}
    return from_table(TrainConfig, _merged(to_json(config or TrainConfig()), asked), place)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn `20m` and `330M` into numbers, and paths into strings, at any depth."""
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            plain[name] = _plain(value)
        elif isinstance(value, str) and name in _PARSERS:
            plain[name] = _PARSERS[name](value)
        else:
            plain[name] = str(value) if isinstance(value, Path) else value
    return plain


def _merged(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    merged = {name: value for name, value in base.items() if value is not None}
    for name, value in fields.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
