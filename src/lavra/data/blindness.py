"""Who may label a row: only a model that is blind to the fold in which the row is validated.

A model that was trained on a fold knows the labels of its rows. If its labels reach a model that is validated on that
fold, by whatever way, the measured score is too good. The indirect way is the one that is overlooked: a teacher that
was trained on fold 1 labels new rows, on these a student is trained, and the student is validated on fold 1.

Every label that a model gives passes through `refuse_unblind`, and every model that learns from such labels through
`student`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from lavra.core.errors import InputError

Fold = Hashable
"""Name of a fold, usually a number; a test set is a fold too, such as "test"."""

_NAMED = 3  # rows that a message names


@dataclass(frozen=True)
class Learner:
    """A model, and whose labels it saw.

    Attributes:
        name: Name of the model, for messages.
        folds: Folds whose labels it was trained on, or chosen, stopped, calibrated or ranked by.
        teachers: Models whose labels it was trained on.

    Examples:
        >>> teacher = Learner("teacher", frozenset({1, 3}))
        >>> Learner("student", frozenset({2}), (teacher,)).way_to(3)
        ('student', 'teacher')
    """

    name: str
    folds: frozenset[Fold]
    teachers: tuple[Learner, ...] = ()

    def way_to(self, fold: Fold) -> tuple[str, ...] | None:
        """Return the names from this model to one that saw a fold itself, or None if none did."""
        if fold in self.folds:
            return (self.name,)
        for teacher in self.teachers:
            way = teacher.way_to(fold)
            if way is not None:
                return (self.name, *way)
        return None

    def seen(self) -> frozenset[Fold]:
        """Return all folds that the model saw, itself or by way of its teachers."""
        return self.folds.union(*(teacher.seen() for teacher in self.teachers))


def refuse_unblind(
    model: Learner, rows: Iterable[str], folds: Mapping[str, Fold | None], parents: Mapping[str, str] | None = None
) -> None:
    """Refuse the labels that a model would give to rows of which it saw the fold; return if it saw none of them.

    Args:
        model: The model that labels.
        rows: Ids of the rows to be labelled.
        folds: Fold in which each row is validated, by its id; None, or no entry, for a row that is validated in none.
        parents: Id of the row from which a row was made (augmented, translated, written by a model). It counts as the
            row itself, and so on upwards.

    Raises:
        InputError: If the model saw the fold of a row or of its parent, or the parents form a circle.

    Examples:
        >>> refuse_unblind(Learner("teacher", frozenset({2, 3})), ["a"], {"a": 1})
    """
    refused: list[tuple[str, Fold, tuple[str, ...]]] = []
    for row in rows:
        for one in _line(row, parents or {}):
            fold = folds.get(one)
            way = None if fold is None else model.way_to(fold)
            if way is not None:
                refused.append((row if one == row else f"{row} (made from {one})", fold, way))
                break
    if refused:
        named = ", ".join(f"{row!r} of fold {fold}" for row, fold, _ in refused[:_NAMED])
        more = f" and {len(refused) - _NAMED} more rows" if len(refused) > _NAMED else ""
        raise InputError(
            f"{model.name} may not label {named}{more}: {_told(refused[0][2], refused[0][1])}",
            "label them with a model of which neither the training nor its teachers saw that fold, or leave them out",
        )


def student(name: str, validated: Fold | None, trained: Iterable[Fold], teachers: Iterable[Learner] = ()) -> Learner:
    """Return the record of a model that learns from folds and from labels of teachers, if it may be validated.

    The rule holds for every row that a teacher labelled, also for rows that are validated in no fold.

    Args:
        name: Name of the model.
        validated: Fold on which it is validated; None for a final model, which is validated on none.
        trained: Folds on whose labels it is trained.
        teachers: Models whose labels it is trained on.

    Raises:
        InputError: If it, or a teacher at any distance, saw the fold on which it is validated.

    Examples:
        >>> student("student", 1, {2, 3}, [Learner("teacher", frozenset({2, 3}))]).seen() == {2, 3}
        True
    """
    learner = Learner(name, frozenset(trained), tuple(teachers))
    way = None if validated is None else learner.way_to(validated)
    if way is not None:
        raise InputError(
            f"{name} cannot be validated on fold {validated}: {_told(way, validated)}",
            f"use teachers that never saw fold {validated}, for rows without label too"
            if len(way) > 1
            else f"train it without fold {validated}",
        )
    return learner


def _told(way: tuple[str, ...], fold: Fold) -> str:
    """Return in words how a model came to know a fold."""
    source = way[-1]
    learned = "".join(f"{one} learns from labels of {other}, " for one, other in pairwise(way))
    return f"{learned}{'and ' if len(way) > 1 else ''}{source} saw the labels of fold {fold}"


def _line(row: str, parents: Mapping[str, str]) -> list[str]:
    """Return a row, its parent, the parent's parent and so on."""
    line = [row]
    while line[-1] in parents:
        above = parents[line[-1]]
        if above in line:
            raise InputError(f"row {row!r} is made from itself, by way of {above!r}", "mend the column of parents")
        line.append(above)
    return line
