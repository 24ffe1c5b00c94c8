"""The Python API: the verbs of the command line, with durations and counts as people write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.config.training import TextConfig, TrainConfig
from lavra.core.configuration import from_table, to_json
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.run_folder import RunFolder, list_runs
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.units import parse_count, parse_duration, parse_size
from lavra.workflows.classify import classify
from lavra.workflows.datasets.preparation import prepare_text
from lavra.workflows.evaluate import evaluate
from lavra.workflows.generation.explain import explain
from lavra.workflows.generation.generate import generate
from lavra.workflows.generation.score import score
from lavra.workflows.run import Run

if TYPE_CHECKING:
    from lavra.checks.suite import Report
    from lavra.planning.forecast import Outlook
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


Data = Any
"""What the verbs learn from: a location or several (`str`, `Path`), or rows in memory: a DataFrame, or mappings such as
`{"text": "…"}`."""


def train(data: Data, *, config: TrainConfig | None = None, **fields: Any) -> Run:
    """Train a language model and return its run.

    Args:
        data: a location or several: files, folders, globs, `installed-docs:`, a prepared folder; or rows in memory: a
            DataFrame, or mappings with the columns of a file: `[{"text": text} for text in texts]`.
        config: where the other values come from; the defaults if it is not given.
        fields: values of `TrainConfig` by name; nested ones as dictionaries: `budget="20m", model={"depth": 4}`.

    Raises:
        InputError: if a field is unknown or wrong, or the text is.
    """
    from lavra.workflows.training.train import train as run_training

    with _located(data) as locations:
        return Run(run_training(_request(locations, config, fields, "lavra.train")).path)


def check(data: Data, *, config: TrainConfig | None = None, **fields: Any) -> Report:
    """Prove a training set-up right: `train`'s arguments, or a run folder, in; what was measured and expected out.

    Raises:
        InputError: if a field is unknown or wrong, or the text is.
    """
    from lavra.workflows.check import check as run_battery

    with _located(data) as locations:
        return run_battery(_request(locations, config, fields, "lavra.check"))


def plan(data: Data = (), **fields: Any) -> Outlook:
    """Say what a training would take and bring: `lavra.plan("mytext/", budget="1h", hardware="colab-t4")`.

    Args:
        data: as for `train`; nothing where `model` and `tokens` are given.
        fields: values of `PlanRequest` by name.

    Raises:
        InputError: if a field is unknown or wrong, or the text is.
    """
    from lavra.config.planning import PlanRequest
    from lavra.workflows.planning.plan import plan as look_ahead

    with _located(data) as locations:
        asked = _plain(fields) | {"data": locations}
        return look_ahead(from_table(PlanRequest, _merged(to_json(PlanRequest()), asked), "lavra.plan"))


def prepare(data: Data, out: str | Path, *, force: bool = False, **text: Any) -> dict[str, Any]:
    """Tokenise a corpus once; returns the report. Further fields are those of `TextConfig`."""
    asked = from_table(TextConfig, _merged(to_json(TextConfig()), _plain(text)), "lavra.prepare")
    with _located(data) as locations:
        return prepare_text(locations, out, asked, force=force)


def resume(folder: str | Path, *, micro_rows: int | None = None) -> Run:
    """Go on with a run from its last whole checkpoint to its end: see `lavra.workflows.training.resume.resume`."""
    from lavra.workflows.training.resume import resume as go_on

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


@contextmanager
def _located(data: Data) -> Iterator[list[str]]:
    """Yield the locations of the data; rows in memory are written to a file, which is gone when the block ends.

    Raises:
        InputError: if the data are neither locations nor rows with columns.
    """
    if isinstance(data, str | Path):
        yield [str(data)]
        return
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a DataFrame
        data = data.to_dict("records")
    given = list(data)
    if all(isinstance(one, str | Path) for one in given):
        yield [str(location) for location in given]
        return
    if not all(isinstance(one, Mapping) for one in given):
        raise InputError(
            f"the data are neither locations nor rows: they hold a {type(given[0]).__name__}",
            'give paths, a DataFrame, or rows such as {"text": "…"}',
        )
    with scratch_folder() as folder:
        path = folder / "memory.jsonl"
        path.write_text("".join(one_line(dict(row)) + "\n" for row in given), encoding="utf8")
        yield [str(path)]


def _request(locations: list[str], config: TrainConfig | None, fields: dict[str, Any], place: str) -> TrainConfig:
    asked = _plain(fields) | {"data": locations}
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
