"""The table of predictions: what each row is, and what a model that never learned it said of it.

Everything else in this room is a function of such a table, whatever the model was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError

Kind = Literal["classes", "labels", "values", "ordinal"]
"""What the columns of a table are.

`classes` exclude each other. `labels` may hold together. `values` are numbers. `ordinal` are classes in an order, from
the lowest to the highest.
"""

NO_FOLD = -1
"""Fold of a row that belongs to none, such as one of test data."""

_ROUNDING = 1e-3  # how far the probabilities of a row may add up to something else than 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """A table with one row for each text and seed.

    Attributes:
        ids: Id of each row, (n,) strings. A row may occur once for each seed.
        targets: What is known of each row, (n, K) float64: the probability of each class or label, or the values. A row
            of which nothing is known is NaN throughout.
        probabilities: What the model says, (n, K) float64, in the same units.
        classes: Names of the classes, labels or values, K of them, all different.
        kind: What the columns are.
        folds: Fold in which each row was predicted, (n,); `NO_FOLD` where there is none. None stands for that
            throughout.
        seeds: Seed of the model, (n,); None stands for 0 throughout.
        weights: Weight of each row in every metric, (n,), 0 or more; None stands for 1 throughout.

    Raises:
        InputError: If the shapes do not agree, a number is none, probabilities are none, or a row occurs twice.

    Examples:
        >>> table = Predictions(["a", "b"], [[1, 0], [0, 1]], [[0.8, 0.2], [0.6, 0.4]], ["no", "yes"])
        >>> table.truth().tolist(), table.decisions().tolist()
        ([0, 1], [0, 0])
    """

    ids: Sequence[str]
    targets: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    classes: Sequence[str]
    kind: Kind = "classes"
    folds: NDArray[np.int64] = field(default=None)  # pyright: ignore[reportAssignmentType]
    seeds: NDArray[np.int64] = field(default=None)  # pyright: ignore[reportAssignmentType]
    weights: NDArray[np.float64] = field(default=None)  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        count, given = len(self.ids), vars(self)
        whole = {
            "ids": tuple(map(str, self.ids)),
            "classes": tuple(map(str, self.classes)),
            "targets": np.asarray(self.targets, dtype=np.float64),
            "probabilities": np.asarray(self.probabilities, dtype=np.float64),
            "folds": np.full(count, NO_FOLD) if given["folds"] is None else np.asarray(self.folds, dtype=np.int64),
            "seeds": np.zeros(count, np.int64) if given["seeds"] is None else np.asarray(self.seeds, dtype=np.int64),
            "weights": np.ones(count) if given["weights"] is None else np.asarray(self.weights, dtype=np.float64),
        }
        for name, value in whole.items():
            object.__setattr__(self, name, value)
        self._check_shapes()
        self._check_numbers()

    def _check_shapes(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"predictions cannot be {self.kind!r}", f"choose one of {', '.join(get_args(Kind))}")
        count, shape = len(self.ids), (len(self.ids), len(self.classes))
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise InputError(f"the names {self.classes} of the predictions are not all different", "rename them")
        if self.kind in ("classes", "ordinal") and len(self.classes) < 2:
            raise InputError(f"{self.classes[0]!r} is the only class", "give rows of at least two classes")
        sizes = {name: np.shape(getattr(self, name)) for name in ("targets", "probabilities")}
        sizes |= {name: (*np.shape(getattr(self, name)), len(self.classes)) for name in ("folds", "seeds", "weights")}
        for name, size in sizes.items():
            if size != shape:
                raise InputError(
                    f"the {name} of a table with {count} rows and {len(self.classes)} columns have the shape {size}",
                    "give one row for each id",
                )
        if len(set(zip(self.ids, self.seeds.tolist(), strict=True))) < count:
            seen: set[tuple[str, int]] = set()
            for pair in zip(self.ids, self.seeds.tolist(), strict=True):
                if pair in seen:
                    raise InputError(
                        f"row {pair[0]!r} is predicted twice with seed {pair[1]}", "give rows ids of their own"
                    )
                seen.add(pair)

    def _check_numbers(self) -> None:
        part = np.isnan(self.targets)
        self._refuse(part.any(axis=1) & ~part.all(axis=1), "has targets of which some are unknown")
        self._refuse(np.isinf(self.targets).any(axis=1), "has targets that are infinite")
        self._refuse(~np.isfinite(self.probabilities).all(axis=1), "has predictions that are not finite numbers")
        self._refuse(~((self.weights >= 0) & (self.weights < np.inf)), "has a weight that is not 0 or more")
        if self.kind == "values":
            return
        for name, numbers in (("targets", self.targets[self.known]), ("predictions", self.probabilities)):
            rows = np.flatnonzero(self.known) if name == "targets" else np.arange(len(self))
            wrong = ((numbers < 0) | (numbers > 1)).any(axis=1)
            if self.kind != "labels":
                wrong |= np.abs(numbers.sum(axis=1) - 1) > _ROUNDING
            all_wrong = np.zeros(len(self), dtype=bool)
            all_wrong[rows[wrong]] = True
            self._refuse(all_wrong, f"has {name} that are no probabilities")

    def _refuse(self, rows: ArrayLike, what: str) -> None:
        wrong = np.asarray(rows)
        if wrong.any():
            first = int(np.argmax(wrong))
            more = f", and {int(wrong.sum()) - 1} more rows" if wrong.sum() > 1 else ""
            raise InputError(
                f"row {self.ids[first]!r} of the predictions {what}: {self.targets[first].tolist()[:5]} and "
                f"{self.probabilities[first].tolist()[:5]}, weight {self.weights[first]:g}{more}",
                "a row of which nothing is known is NaN throughout; a model that gives such numbers is at fault",
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the target of each row is known, (n,)."""
        return np.asarray(~np.isnan(self.targets).any(axis=1))

    def truth(self) -> NDArray[Any]:
        """Return what is right, from the known rows alone.

        Returns:
            For `classes` and `ordinal` the number of the likeliest class of the target, (n,). For `labels` whether the
            target is at least one half, (n, K). For `values` the targets, (n, K).

        Raises:
            InputError: If the target of a row is unknown.
        """
        if not self.known.all():
            raise InputError(f"{int((~self.known).sum())} rows have no label", "leave them out")
        return _decided(self.targets, self.kind)

    def decisions(self) -> NDArray[Any]:
        """Return what the model says, in the form of `truth`.

        The class of `classes` is the likeliest, of two equal ones the first. The class of `ordinal` is the median of
        the probabilities, which has the smallest expected distance. A label is given from one half on.
        """
        return _decided(self.probabilities, self.kind)

    @cached_property
    def units(self) -> tuple[NDArray[np.int64], int]:
        """Number of the id of each row, (n,), and the number of ids: the rows of one id are drawn together."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.ids))}
        return np.array([numbers[one] for one in self.ids], dtype=np.int64), len(numbers)

    def select(self, rows: ArrayLike) -> Predictions:
        """Return the table of some rows, given by their indices or by a mask."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        return replace(
            self,
            ids=[self.ids[row] for row in chosen.tolist()],
            **{name: getattr(self, name)[chosen] for name in BY_ROW},
        )

    def with_shuffled(self, targets: NDArray[np.float64]) -> Predictions:
        """Return the table with its own targets in another order, (n, K); they are not checked again."""
        shuffled = object.__new__(Predictions)
        vars(shuffled).update(vars(self) | {"targets": targets})
        return shuffled

    def with_probabilities(self, probabilities: ArrayLike) -> Predictions:
        """Return the table with other predictions for the same rows, (n, K)."""
        return replace(self, probabilities=np.asarray(probabilities, dtype=np.float64))


BY_ROW = ("targets", "probabilities", "folds", "seeds", "weights")
"""Names of the arrays of a table that have one row for each of its rows."""


def _decided(numbers: NDArray[np.float64], kind: Kind) -> NDArray[Any]:
    if kind == "values":
        return numbers
    if kind == "labels":
        return numbers >= 0.5
    if kind == "classes":
        return numbers.argmax(axis=1)
    # The rounding of a sum of many probabilities must not make one class of two with one half each.
    return (np.cumsum(numbers, axis=1) >= 0.5 - 1e-12).argmax(axis=1)


def one_hot(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """Return the targets of class numbers, (n, classes); a negative number stands for an unknown class.

    Args:
        labels: Class numbers, (n,).
        classes: Number of classes.

    Examples:
        >>> one_hot([1, -1], 2).tolist()
        [[0.0, 1.0], [nan, nan]]
    """
    numbers = np.asarray(labels, dtype=np.int64)
    targets = np.zeros((len(numbers), classes))
    known = numbers >= 0
    targets[np.flatnonzero(known), numbers[known]] = 1.0
    targets[~known] = np.nan
    return targets
