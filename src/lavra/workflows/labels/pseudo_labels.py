"""Pseudo-labels: a teacher says how likely each label is for rows without one, and a student learns from all rows.

A student that is validated on a fold may only learn from a teacher that never saw the labels of that fold, also for
rows that are validated nowhere (`data.blindness`): otherwise the labels of the fold reach it by way of the teacher.
So every fold has a teacher of its own, which is the model that the fold has without pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavra.config.training import TrainConfig
from lavra.core.disk.files import write_atomically
from lavra.core.disk.json_lines import JsonLines, one_line
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.blindness import Learner, refuse_unblind, student
from lavra.data.examples.labelled import PSEUDO
from lavra.data.examples.rows import read_examples
from lavra.data.readers.rows import BadRows
from lavra.evaluation.labels.comparison import PairedComparison, compare
from lavra.evaluation.labels.metrics import METRICS
from lavra.evaluation.labels.predictions import Predictions
from lavra.generation.classifying import Classification
from lavra.workflows.classify import labeller_at
from lavra.workflows.labels.choice import difference
from lavra.workflows.labels.fold_rows import FoldRows


@dataclass(frozen=True)
class Teacher:
    """A model that labels rows.

    Attributes:
        run: The folder of its run.
        learner: Whose labels it saw.
    """

    run: Path
    learner: Learner


def teacher_of(rows: FoldRows, fold: int | None, run: Path) -> Teacher:
    """Return the teacher of a fold, which is the model that was trained without that fold.

    Args:
        rows: The rows of the run.
        fold: Number of the fold; None for the teacher of a final model, which is trained on all rows.
        run: The folder of its run.
    """
    if fold is None:
        return Teacher(run, Learner("the teacher of all rows", frozenset(range(rows.count))))
    return Teacher(run, Learner(f"the teacher of fold {fold}", rows.seen_by(fold)))


def with_pseudo_labels(asked: TrainConfig, config: TrainConfig, rows: FoldRows, teacher: Teacher, fold: int | None):
    """Return the request of a student: that of its teacher, with the rows that the teacher labelled added.

    The rows are written beside those of the folds, once.

    Args:
        asked: The request of the teacher, of which everything else is kept.
        config: The request of the whole run, with the weight of the rows.
        rows: The rows of the run.
        teacher: The teacher.
        fold: Fold on which the student is validated; None for a final model.

    Raises:
        InputError: If the teacher, or a teacher of it, saw the fold.
    """
    learner = student(
        "the final student" if fold is None else f"the student of fold {fold}",
        fold,
        frozenset(range(rows.count)) if fold is None else rows.seen_by(fold),
        [teacher.learner],
    )
    path = rows.folder / f"pseudo-{teacher.run.name}.jsonl"
    if not path.exists():
        _write(path, config, rows, teacher, fold)
    log(f"{learner.name} learns from {counted(len(JsonLines(path).read()), 'pseudo-label')} too")
    return replace(asked, data=(*asked.data, str(path)), check=False)


def _write(path: Path, config: TrainConfig, rows: FoldRows, teacher: Teacher, fold: int | None) -> None:
    """Write the rows without a label with what the teacher says of them."""
    given = JsonLines(rows.without_label).read()
    validated = {} if fold is None else dict.fromkeys(rows.ids(fold), fold)
    parents = {row["id"]: str(row["parent"]) for row in given if row.get("parent") is not None}
    given = [row for row in given if parents.get(row["id"]) not in validated]
    refuse_unblind(teacher.learner, [row["id"] for row in given], validated, parents)
    weight = config.labels.pseudo
    lines = [
        {**row, **said, "weight": weight * float(row.get("weight") or 1.0), "source": PSEUDO}
        for row, said in zip(given, _said(given, rows.without_label, teacher, config), strict=True)
    ]
    write_atomically(path, "".join(one_line(line) + "\n" for line in lines))


def _said(given: list[dict[str, Any]], file: Path, teacher: Teacher, config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Yield what the teacher says of each row, as columns: the probability of each label, or a number."""
    labeller = labeller_at(str(teacher.run), config.machine.device)
    wanted, bad_rows = {row["id"] for row in given}, BadRows()
    read = [row for row in read_examples([str(file)], bad_rows, columns=labeller.reader) if row.labels["id"] in wanted]
    found: dict[int, Classification] = dict(labeller.predict(read, bad_rows))
    if len(found) != len(given):
        raise InputError(
            f"{len(given) - len(found)} rows without a label cannot be read", bad_rows.remedy() or "mend their texts"
        )
    column = labeller.facts["columns"]["labels"][0]
    for number in range(len(given)):
        one = found[number]
        if labeller.task.name == "regression":
            yield {column: float(next(iter(one.probabilities.values())))}
        else:
            yield {"label_probs": dict(one.probabilities)}


@dataclass(frozen=True)
class Verdict:
    """Whether pseudo-labels are kept.

    Attributes:
        compared: The students (second) against their teachers (first).
        rows: Number of rows without a label.
        weight: Weight of these rows.
    """

    compared: PairedComparison
    rows: int
    weight: float

    @property
    def kept(self) -> bool:
        """Whether the students are not worse."""
        return self.compared.gain >= 0

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values, with the number of rows without a label and whether they are kept."""
        return {"unlabelled": self.rows, "weight": self.weight, "kept": self.kept, **self.compared.to_json()}

    def sentence(self) -> str:
        """Return the figures with and without pseudo-labels in words."""
        what = "kept, as they are not worse" if self.kept else "left out, as they are worse"
        return f"{difference(self.compared, 'with pseudo-labels', 'without them')}. They are {what}"


def judged(
    config: TrainConfig, rows: FoldRows, without: Predictions, with_them: Predictions
) -> tuple[Verdict, Predictions, Mapping[str, Predictions]]:
    """Return whether pseudo-labels are kept, the predictions of the models that are, and the others by their name.

    Args:
        config: The request of the whole run.
        rows: Its rows.
        without: What the teachers predict.
        with_them: What the students predict for the same rows.
    """
    verdict = Verdict(
        compare(without, with_them, METRICS[without.kind][0], seed=config.seed), rows.unlabelled, config.labels.pseudo
    )
    log(verdict.sentence())
    if verdict.kept:
        return verdict, with_them, {"teacher": without}
    return verdict, without, {"student": with_them}
