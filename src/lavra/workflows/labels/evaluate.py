"""Measuring a model with a head for labels: on the validation data of its run, or on rows that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavra.core.disk.run_folder import RunFolder
from lavra.core.errors import CorruptFile, InputError
from lavra.core.progress import log
from lavra.data.examples.rows import ExampleRow, read_examples
from lavra.data.leaks import Leaks, leaks_between
from lavra.data.readers.rows import BadRows, OnBadRow
from lavra.evaluation.labels.predictions_file import read_predictions
from lavra.tasks.base import Measured
from lavra.workflows.labels.labeller import Labeller, columns_of, learned_from
from lavra.workflows.labels.out_of_fold import BESIDE_MODELS, OUT_OF_FOLD, beside_file, out_of_fold


@dataclass(frozen=True)
class TaskEvaluation:
    """The result of the evaluation of a model with the head of a task.

    Attributes:
        model: The location of the model that was measured.
        task: The name of the task.
        measured: The figures of the task, with their table.
        reading: What was read and left out of the rows that were given; None for the validation data of the run.
        stopped_by: The signal that ended it early; it never is.
    """

    model: str
    task: str
    measured: Measured
    reading: dict[str, Any] | None = None
    stopped_by: None = None

    @property
    def table(self) -> str:
        """The figures as a table of plain text."""
        return self.measured.table

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        reading = {} if self.reading is None else {"reading": self.reading}
        return {"model": self.model, "task": self.task, **self.measured.figures, **reading}


def evaluate_labels(
    labeller: Labeller,
    data: Sequence[str],
    seed: int = 0,
    *,
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
) -> TaskEvaluation:
    """Measure a model that labels texts as its run did, on all of the validation data of that run or on given rows.

    Given rows that the model learned, or nearly such, are counted and said.

    Args:
        labeller: The model.
        data: Files of rows with the columns of the training data; the validation data of the run if empty.
        seed: Seed of the bootstrap intervals.
        on_bad_row: What to do with rows that cannot be used; "strict" also refuses rows that the model learned.
        encoding: Encoding of the files; None recognises it.

    Raises:
        InputError: If the rows cannot be used, or no rows are given for a model without its run.
    """
    place, task = labeller.place, labeller.task.name
    bad_rows = BadRows(policy=on_bad_row)
    if data:
        rows = list(read_examples(data, bad_rows, columns=labeller.reader, encoding=encoding))
        if bad_rows.summary():
            log(bad_rows.summary())
        return TaskEvaluation(place, task, _with_leaks(labeller, rows, bad_rows, seed), bad_rows.report())
    if labeller.run is None:
        raise InputError(f"{place} keeps no rows of its own", "say what to measure on: --data FILES")
    if (known := _out_of_fold(labeller.run, place, task, seed)) is not None:
        return known
    if learned_from(labeller.run).trained_on_all:
        raise InputError(f"{place} learned all of its rows", "say what to measure on: --data FILES")
    return TaskEvaluation(place, task, labeller.measure(None, bad_rows, seed))


def _with_leaks(labeller: Labeller, rows: Sequence[ExampleRow], bad_rows: BadRows, seed: int) -> Measured:
    """Return the figures on given rows, with how many of these the model learned, where its data are still there."""
    leaks = _leaks(labeller, rows)
    if leaks is not None and leaks.found and bad_rows.policy == "strict":
        raise InputError(leaks.sentence(), "remove them from the test rows, or accept them by leaving --strict out")
    measured = labeller.measure(rows, bad_rows, seed)
    if leaks is None:
        return measured
    return Measured({**measured.figures, "leaks": leaks.to_json()}, f"{measured.table}\n{leaks.sentence()}")


def _leaks(labeller: Labeller, rows: Sequence[ExampleRow]) -> Leaks | None:
    if labeller.run is None:
        return None
    try:
        learned = learned_from(labeller.run)
    except (InputError, CorruptFile) as error:
        log(f"whether these rows were learned is not known, because the data of the run are missing: {error.message}")
        return None
    trained, given = ([_text_of(row) for row in side] for side in (learned.labelled(), columns_of(rows)))
    return leaks_between(list(dict.fromkeys(trained)), given)


def _text_of(row: Mapping[str, Any]) -> str:
    """Return what is compared of a row; its texts in one order, because a reader may keep a question before its
    context."""
    return "\n".join(sorted(row["texts"])) if "texts" in row else " ".join(row.get("tokens", ()))


def _out_of_fold(run: RunFolder, place: str, task: str, seed: int) -> TaskEvaluation | None:
    """Return the out-of-fold quality of a cross-validated run, whose model learned all rows; None for other runs."""
    if not (run.path / OUT_OF_FOLD).exists():
        return None
    files = {name: run.path / beside_file(name) for name in BESIDE_MODELS}
    beside = {name: read_predictions(file) for name, file in files.items() if file.exists()}
    found = out_of_fold(read_predictions(run.path / OUT_OF_FOLD), beside, seed=seed)
    return TaskEvaluation(place, task, found.measured)
