"""The Python API: the verbs of the command line as functions, with durations and counts as people write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.config.training import TextConfig, TrainConfig
from lavra.config.tuning import TuneConfig
from lavra.core.configuration import from_table, to_json
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.run_folder import RunFolder, list_runs
from lavra.core.disk.scratch import scratch_folder
from lavra.core.disk.sweep_folder import SweepFolder, is_sweep
from lavra.core.errors import InputError
from lavra.core.units import parse_duration
from lavra.workflows.classify import classify
from lavra.workflows.datasets.preparation import prepare_text
from lavra.workflows.embeddings.embed import embed
from lavra.workflows.evaluate import evaluate
from lavra.workflows.generation.explain import explain
from lavra.workflows.generation.generate import generate
from lavra.workflows.generation.infill import infill
from lavra.workflows.generation.score import score
from lavra.workflows.run import Run

if TYPE_CHECKING:
    from lavra.checks.suite import Report
    from lavra.planning.forecast import PlanReport
    from lavra.reports.run_comparison import RunComparison
    from lavra.workflows.labels.label_plan import LabelPlan

__all__ = [
    "check",
    "classify",
    "compare",
    "embed",
    "evaluate",
    "explain",
    "generate",
    "infill",
    "plan",
    "prepare",
    "resume",
    "runs",
    "score",
    "train",
    "tune",
]

Data = Any
"""The data that the verbs take: one or several locations (`str` or `Path`), or rows in memory, which are a DataFrame or
mappings such as `{"text": "…"}`."""


def train(data: Data, *, config: TrainConfig | None = None, **fields: Any) -> Run:
    """Train a language model and return its run.

    Args:
        data: The text: one or several files, folders, globs, `installed-docs:` or a prepared folder; or rows in memory,
            a DataFrame or mappings with the columns of a file: `[{"text": text} for text in texts]`.
        config: The values of the fields that are not given by name; the defaults of `TrainConfig` if None.
        fields: Fields of `TrainConfig` by name. Nested ones are dictionaries, and durations, sizes and counts may be
            strings with a unit: `budget="20m", model={"depth": 4}`.

    Returns:
        The finished run, with its folder, figures and model.

    Raises:
        InputError: If a field is unknown or has a wrong value, or the text cannot be used.
        CheckFailed: If a check finds the set-up wrong before the first step.
        Diverged: If the loss stays not finite, by the policy for anomalies.
        Interrupted: After a signal to stop; a checkpoint is written, and `lavra.resume` continues.

    Examples:
        >>> import lavra
        >>> run = lavra.train("mytext/", budget="20m")                    # doctest: +SKIP
        >>> texts = ["Era uma vez um rei.", "Era uma vez uma raposa."] * 2000
        >>> run = lavra.train(                                            # doctest: +SKIP
        ...     [{"text": text} for text in texts], steps=20, model={"depth": 2, "width": 64}, out="runs/tales"
        ... )
        >>> run.result["bits_per_byte"]                                   # doctest: +SKIP
    """
    from lavra.workflows.train import train as run_training

    with _located(data) as locations:
        return Run(run_training(_request(locations, config, fields, "lavra.train")).path)


def tune(data: Data, *, config: TuneConfig | None = None, **fields: Any) -> Run:
    """Train a model with several values of some options, and return the run of the best ones.

    The sweep around it, with its page and the recipe `best.toml`, is the folder that `out` names.

    Args:
        data: The data as for `train`.
        config: The values of the fields that are not given by name; the defaults of `TuneConfig` if None.
        fields: Fields of `lavra.config.tuning.TuneConfig` by name, as for `train`; `sweep` is a list of texts such as
            `"optimization.muon-lr=0.005,0.015,0.045"`.

    Returns:
        The run of the best point, of its first seed.

    Raises:
        InputError: If a field is unknown or has a wrong value, or the data cannot be used.
        LavraError: If none of the points could be trained.
        Interrupted: After a signal to stop; `lavra.resume` continues with the sweep.

    Examples:
        >>> import lavra
        >>> best = lavra.tune("mytext/", budget="2h", sweep=["model.depth=2,4,8"])   # doctest: +SKIP
        >>> best.plan["model"]["depth"]                                              # doctest: +SKIP
    """
    from lavra.workflows.tuning.sweep import best_run
    from lavra.workflows.tuning.sweep import tune as run_sweep

    with _located(data) as locations:
        asked = _plain(fields) | {"data": locations}
        request = from_table(TuneConfig, _merged(to_json(config or TuneConfig()), asked), "lavra.tune")
        return Run(best_run(run_sweep(request)))


def check(data: Data, *, config: TrainConfig | None = None, time_limit: float | None = None, **fields: Any) -> Report:
    """Check a training set-up before time is spent on it: leaks, gradients, labels, saving, resuming, precision.

    Args:
        data: The data as for `train`, or the folder of one run, whose own request, data and weights are then checked.
        config: The values of the fields that are not given by name; the defaults of `TrainConfig` if None.
        time_limit: Seconds for the checks, of which those that do not fit are left out and counted. None is a minute on
            a GPU, and no limit on a processor.
        fields: Fields of `TrainConfig` by name, as for `train`.

    Returns:
        The report: for each check its verdict, what was measured and what was expected. `report.failed` lists the
        checks that failed, and `report["causal_leak"]` is one check by name.

    Raises:
        InputError: If a field is unknown or has a wrong value, or the text cannot be used.

    Examples:
        >>> import lavra
        >>> report = lavra.check("mytext/", model={"depth": 4})           # doctest: +SKIP
        >>> report.failed                                                 # doctest: +SKIP
        []
    """
    from lavra.workflows.check import check as run_suite

    with _located(data) as locations:
        return run_suite(_request(locations, config, fields, "lavra.check"), time_limit)


def plan(data: Data = (), **fields: Any) -> PlanReport | LabelPlan:
    """Forecast what a training run takes in memory, time and money, and which loss it reaches.

    Args:
        data: The data as for `train`; it may be left out where a model and `tokens` are given.
        fields: Fields of `lavra.config.planning.PlanRequest` by name, as for `train`.

    Returns:
        The forecast. Its `steps`, `tokens`, `memory`, `cost` and `forecast` are what `lavra plan` prints, and
        `to_json()` returns plain values. Of rows with labels it is a `LabelPlan`.

    Raises:
        InputError: If a field is unknown or has a wrong value, or the text cannot be used.

    Examples:
        >>> import lavra
        >>> found = lavra.plan(model={"preset": "lavra-1m"}, tokens="330M", hardware="a100-40gb")
        >>> found.model.name, found.hardware.precision
        ('lavra-1m', 'bf16')
        >>> lavra.plan("mytext/", budget="1h").cost.seconds               # doctest: +SKIP
    """
    from lavra.config.planning import PlanRequest
    from lavra.workflows.planning.plan import plan as look_ahead

    with _located(data) as locations:
        asked = _plain(fields) | {"data": locations}
        return look_ahead(from_table(PlanRequest, _merged(to_json(PlanRequest()), asked), "lavra.plan"))


def prepare(data: Data, out: str | Path, *, force: bool = False, **text: Any) -> dict[str, Any]:
    """Read, split and tokenise a corpus once, to train on it many times.

    Args:
        data: The data as for `train`, except a prepared folder.
        out: The folder to write: the tokens of the training and of the validation documents, and the tokenizer.
        force: Whether an existing folder is replaced.
        text: Fields of `lavra.config.training.TextConfig` by name, such as `vocabulary=8192`.

    Returns:
        The report of what was read, left out and changed, as plain values; it is also in `report.json` in the folder.

    Raises:
        InputError: If a field is unknown or has a wrong value, the text cannot be used, or the folder exists.

    Examples:
        >>> import lavra, tempfile
        >>> rows = [{"text": f"A text with the number {number}."} for number in range(200)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = lavra.prepare(rows, f"{folder}/prepared", vocabulary=300)
        >>> report["rows"]
        200
    """
    asked = from_table(TextConfig, _merged(to_json(TextConfig()), _plain(text)), "lavra.prepare")
    with _located(data) as locations:
        return prepare_text(locations, out, asked, force=force)


def resume(
    folder: str | Path,
    *,
    micro_batch_size: int | None = None,
    steps: int | None = None,
    budget: float | str | None = None,
) -> Run:
    """Continue an interrupted run from its last whole checkpoint, or a sweep; or train a finished run for longer.

    Args:
        folder: The folder of the run or of the sweep.
        micro_batch_size: Sequences of a micro-batch, where memory is less than before; None keeps the number of the
            run. The tokens of an update and the order of the data stay the same.
        steps: Number of further steps of a finished run, whose learning rates are those of a run of the new length.
        budget: Further time of a finished run, in seconds or with a unit, instead of steps.

    Returns:
        The finished run, or that of the best point of a sweep. With the same device, threads and micro-batch its
        weights have the same bits as those of a run that was never interrupted.

    Raises:
        InputError: If the folder is not a run, another process trains it, or its text is gone.
        CorruptFile: If there are checkpoints and none of them is whole.

    Examples:
        >>> import lavra
        >>> run = lavra.resume("runs/tales")                              # doctest: +SKIP
    """
    from lavra.workflows.train import resume as go_on
    from lavra.workflows.tuning.sweep import best_run

    more = parse_duration(budget) if isinstance(budget, str) else budget
    run = go_on(folder, micro_batch_size=micro_batch_size, steps=steps, budget=more)
    return Run(best_run(SweepFolder(run)) if is_sweep(run) else run.path)


def runs(root: str | Path = "runs") -> list[Run]:
    """Return the runs in a folder.

    Args:
        root: The folder that holds the runs, directly or up to two levels below.

    Returns:
        The runs, the oldest first.

    Raises:
        InputError: If there is no such folder.

    Examples:
        >>> import lavra, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lavra.runs(folder)
        []
    """
    return [Run(run.path) for run in list_runs(root)]


def compare(*runs: Run | Path | str) -> RunComparison:
    """Compare runs: the settings that differ, the figures, and whether the difference is more than chance.

    Args:
        runs: Two or more runs, as `Run` or by their folders. The first is the baseline of the paired tests of bits per
            byte over validation documents.

    Returns:
        The comparison: `figures`, `asked`, `decided` and `verdicts`; `to_json()` returns plain values.

    Raises:
        InputError: If there are fewer than two runs, one is given twice, or a folder is not a run.

    Examples:
        >>> import lavra
        >>> comparison = lavra.compare("runs/first", "runs/second")       # doctest: +SKIP
        >>> comparison.verdicts                                           # doctest: +SKIP
    """
    from lavra.reports.run_comparison import compare_runs

    return compare_runs([RunFolder.open(run.path if isinstance(run, Run) else run) for run in runs])


@contextmanager
def _located(data: Data) -> Iterator[list[str]]:
    """Yield the locations of the data; rows in memory are written to a file, which is removed when the block ends.

    Raises:
        InputError: If the data are neither locations nor rows with columns.
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
    """Turn paths into strings, at any depth."""
    return {
        name: _plain(value) if isinstance(value, dict) else str(value) if isinstance(value, Path) else value
        for name, value in fields.items()
    }


def _merged(base: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    merged = {name: value for name, value in base.items() if value is not None}
    for name, value in fields.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
