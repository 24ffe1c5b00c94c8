"""The permuted-label check of a run of several models: its own stages, on labels of which nothing can be learned.

Teachers, pseudo-labels, students, the choice between them and what is fitted to out-of-fold predictions are those of
the run, in its order and by the same functions; linear models stand for its networks, so that it costs seconds. They
have next to no penalty, because a model that learns its rows by heart carries a leaked label farthest.

The rows without a label are replaced by the labelled texts with their words in another order. A teacher that saw the
labels of a fold gives them back there, and its student finds them by the same words: the leak is as large as can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.checks.base import CheckResult
from lavra.checks.leaks import check_permuted_labels
from lavra.checks.suite import Report
from lavra.config.training import HeadConfig, LabelsConfig, ModelConfig, TextConfig, TrainConfig
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.disk.run_folder import RunFolder
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log, quiet
from lavra.core.seeds import numpy_stream
from lavra.data.examples.labelled import LabelColumns
from lavra.data.folds import ALWAYS_TRAINING
from lavra.evaluation.labels.predictions import Predictions
from lavra.tasks.label_predictions import weights_of
from lavra.tasks.labelled_text import LabelledTextTask, with_known
from lavra.tasks.linear_baseline import LINEAR, STRENGTH, is_available
from lavra.tasks.table import find_task
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.labels.fold_rows import FoldRows, file_of
from lavra.workflows.labels.out_of_fold import settled
from lavra.workflows.labels.pseudo_labels import judged
from lavra.workflows.labels.table_rows import RowsInMemory
from lavra.workflows.labels.trials import Trial, predicted, train_fold

FILE = "permuted_labels.json"
"""Name of the record of the check in the folder of the folds of a run."""

_MEASURED_ROWS = 400
"""Most rows of the fold that is measured, the last one, and most rows of all others together, which are trained on."""
_OTHER_ROWS = 600
_FEWEST = 30
"""Fewest measured rows with a label: of fewer, no shuffle is ever certainly better than chance."""

_HARDLY_PENALISED = 30.0
"""Inverse penalty of the linear models."""

_SHORTEST_BUDGET = 60.0
"""Seconds of a time budget below which it is not worth the seconds of the check."""


@dataclass(frozen=True)
class _Sample:
    """Some rows of a run.

    Attributes:
        task: The task.
        reader: What reads their columns.
        columns: The columns of each row.
        targets: What is known of each, (n, outputs).
        folds: 0 for those that are measured, (n,), and `ALWAYS_TRAINING` for the others.
        classes: Names of the outputs.
        before: For folds by time, the ids of the rows that are trained on; None for other folds.
    """

    task: LabelledTextTask
    reader: LabelColumns
    columns: Sequence[Mapping[str, Any]]
    targets: NDArray[np.float64]
    folds: NDArray[np.int64]
    classes: Sequence[str]
    before: frozenset[str] | None = None


def check_stages(config: TrainConfig, rows: FoldRows, run: RunFolder) -> dict[str, Any]:
    """Return as `permuted_labels` the outcome of the check before a run of several models; nothing without a check.

    Nothing is done where the outcome is in the folder of the run already.

    Args:
        config: The request of the run.
        rows: Its rows.
        run: Its folder.

    Raises:
        CheckFailed: If a stage reads labels of the rows on which it is measured.
    """
    path = rows.folder / FILE
    if not config.check or not has_stages_with_labels(config):
        return {}
    if not path.exists():
        if config.budget is not None and config.budget < _SHORTEST_BUDGET:
            log("the stages are not tried on shuffled labels, for lack of time")
            return {}
        found = stage_check(config, rows)
        write_json(path, {} if found is None else found.to_json())
        if found is not None:
            log(f"all stages on shuffled labels: {found.verdict}; {found.measured}")
    record: dict[str, Any] = read_json(path)
    if not record:
        return {}
    Report((CheckResult(**record),), (), 0.0).raise_if_failed(str(path))
    return {"permuted_labels": record}


def has_stages_with_labels(config: TrainConfig) -> bool:
    """Return whether a run has stages that read labels beside the training of a model: folds, or pseudo-labels.

    Args:
        config: The request of the run.
    """
    return config.folds is not None or config.labels.pseudo > 0


def stage_check(config: TrainConfig, rows: FoldRows) -> CheckResult | None:
    """Run all stages of a request that read labels on shuffled labels; None where there are too few rows.

    Args:
        config: The request of the run.
        rows: Its rows.
    """
    if not is_available():
        return None
    try:
        return _checked(config, rows)
    except InputError as error:  # so few rows may hold one class only; what is wrong with all of them is said later
        log(f"the stages cannot be tried on shuffled labels: {error.message}")
        return None


def _checked(config: TrainConfig, rows: FoldRows) -> CheckResult | None:
    """Return the outcome of the check; None where there are too few rows."""
    with quiet():
        sample = _sample(config, rows)
    known = ~np.isnan(sample.targets).any(axis=1)
    if int((known & (sample.folds != ALWAYS_TRAINING)).sum()) < _FEWEST:
        return None
    flat = 0.0 if sample.task.kind == "values" else 1.0 / sample.targets.shape[1]
    table = Predictions(
        [str(row["id"]) for row in sample.columns],
        sample.targets,
        np.full(sample.targets.shape, flat),
        sample.classes,
        sample.task.kind,
        folds=sample.folds,
        weights=weights_of(sample.columns),
    )

    def pipeline(_rows: Any, targets: NDArray[np.float64], _folds: Any) -> tuple[Any, Any]:
        with quiet(), scratch_folder() as folder:
            return _predicted(config, rows, _written(folder, rows, sample, targets), table)

    log("trying all stages on shuffled labels, with linear models")
    return check_permuted_labels(sample.columns, table, pipeline, seed=config.seed)


def _predicted(config: TrainConfig, rows: FoldRows, permuted: FoldRows, table: Predictions) -> tuple[Any, Any]:
    """Return what the stages of a run make of rows with shuffled labels, in the order of a table."""
    text = config.text
    asked = TrainConfig(
        task=permuted.task,
        text=TextConfig(column=text.column, label=text.label, template=text.template),
        model=ModelConfig(preset=LINEAR),
        head=HeadConfig(class_weights=config.head.class_weights),
        labels=LabelsConfig(pseudo=config.labels.pseudo),
        machine=replace(config.machine, device="cpu"),
        seed=config.seed,
        folds=config.folds,
        deliver="last",
        check=False,
        samples=0,
    )
    run = RunFolder(permuted.folder)
    trial = Trial(0, config.seed, permuted.folder / f"0-{config.seed}")
    train_fold(asked, permuted, trial, None, run)
    found = predicted([trial])
    if config.labels.pseudo:
        found = judged(asked, permuted, found, predicted([trial.student]))[1]
    final = settled(found, seed=config.seed)
    place = {name: number for number, name in enumerate(table.ids)}
    order = np.array([place[name] for name in found.ids])
    decided = final.shown.decisions() if final.decisions is None else final.decisions
    probabilities, decisions = table.probabilities.copy(), np.zeros((len(table), *decided.shape[1:]), decided.dtype)
    probabilities[order], decisions[order] = final.shown.probabilities, decided
    return probabilities, decisions


def _sample(config: TrainConfig, rows: FoldRows) -> _Sample:
    """Return some rows of the folds that are measured, and some of the others."""
    task = find_task(rows.task)
    assert isinstance(task, LabelledTextTask)
    reader = task.reader(describe_data(replace(config, data=rows.every(), task=rows.task)))
    random = numpy_stream(config.seed, "permuted stages")
    measured = rows.count - 1  # of folds by time, the last one learns from most rows
    inside = _drawn(_read(rows.validation(measured)), _MEASURED_ROWS, random)
    files = set(rows.validation(measured))
    others = _drawn(_read([file for file in rows.every() if file not in files]), _OTHER_ROWS, random)
    columns = [*inside, *others]
    folds = np.repeat([0, ALWAYS_TRAINING], [len(inside), len(others)])
    before = frozenset(str(row["id"]) for row in _read(rows.training(measured))) if rows.by_time else None
    facts = task.label_facts(reader.labels[0], RowsInMemory(columns, reader))
    facts = with_known({**facts, "columns": reader.to_json()}, rows.known)
    return _Sample(task, reader, columns, task.targets(facts, columns), folds, facts["classes"], before)


def _read(files: Sequence[str]) -> list[dict[str, Any]]:
    return [row for file in files for row in JsonLines(Path(file)).read()]


def _drawn(rows: list[dict[str, Any]], most: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return at most so many of the rows, in their order."""
    if len(rows) <= most:
        return rows
    return [rows[row] for row in np.sort(random.permutation(len(rows))[:most]).tolist()]


def _written(folder: Path, rows: FoldRows, sample: _Sample, targets: NDArray[np.float64]) -> FoldRows:
    """Write rows with other targets as those of a run, and return them."""
    names = [*sample.reader.labels, "label_probs"]
    # Rows with the same target have the same labels, so that those of any one of them will do.
    labels = {
        target.tobytes(): {name: row.get(name) for name in names}
        for row, target in zip(sample.columns, sample.targets, strict=True)
    }
    given = [{**row, **labels[target.tobytes()]} for row, target in zip(sample.columns, targets, strict=True)]
    for fold in sorted(set(sample.folds.tolist())):
        _write(folder / file_of(fold), [given[row] for row in np.flatnonzero(sample.folds == fold).tolist()])
    if sample.before is not None:
        _write(folder / "before-0.jsonl", [row for row in given if str(row["id"]) in sample.before])
    random = numpy_stream(0, "words in another order")
    without = [_reordered(row, rows.columns, names, random) for row in given]
    known = {**rows.known, STRENGTH: _HARDLY_PENALISED}
    found = replace(
        rows, folder=folder, count=1, known=known, rows=len(given), notes=(), unlabelled=len(without), copies=0
    )
    _write(found.without_label, without)
    return found


def _reordered(
    row: Mapping[str, Any], texts: Sequence[str], labels: Sequence[str], random: np.random.Generator
) -> dict[str, Any]:
    """Return a row without its labels, whose texts have their words in another order."""
    found = {name: value for name, value in row.items() if name not in labels and name != "parent"}
    for name in texts:
        found[name] = " ".join(random.permutation(str(row[name]).split()).tolist()) or row[name]
    return {**found, "id": f"again-{row['id']}"}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(one_line(row) + "\n" for row in rows))
