"""Comparison of two runs that predicted labels, on the rows that both predicted: the same text under the same id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lavra.evaluation.intervals import FEWEST_DOCUMENTS, Estimate
from lavra.evaluation.labels.comparison import PairedComparison, compare
from lavra.evaluation.labels.joining import mean_over_seeds
from lavra.evaluation.labels.metrics import METRICS
from lavra.evaluation.labels.predictions import Predictions
from lavra.reports.labels.record import LabelRecord


@dataclass(frozen=True)
class LabelComparison:
    """One run against another on the labels of the rows that both predicted.

    Attributes:
        paired: The difference in the metric, its interval and the paired test.
        only_first: Number of rows that the first run alone predicted.
        only_second: Number of rows that the other run alone predicted.
        other_labels: Number of rows of both whose labels differ, which are left out.
    """

    paired: PairedComparison
    only_first: int
    only_second: int
    other_labels: int

    @property
    def enough(self) -> bool:
        """Whether there are enough rows to tell a difference from chance."""
        return self.paired.rows >= FEWEST_DOCUMENTS

    @property
    def difference(self) -> Estimate:
        """The metric of the other run minus that of the first."""
        return self.paired.difference

    @property
    def p_randomisation(self) -> float:
        """P-value of the paired randomisation test over rows."""
        return self.paired.p_randomisation

    @property
    def note(self) -> str:
        """What the two runs do not share, in words; an empty string where they predicted the same rows."""
        parts = [f"{self.only_first:,} rows of the baseline alone"] * bool(self.only_first)
        parts += [f"{self.only_second:,} of the other run alone"] * bool(self.only_second)
        parts += [f"{self.other_labels:,} whose labels differ"] * bool(self.other_labels)
        return f"compared on the {self.paired.rows:,} rows that both share, without {', '.join(parts)}" if parts else ""

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        names = ("only_first", "only_second", "other_labels")
        return {**self.paired.to_json(), **{name: getattr(self, name) for name in names}}


def headline_metric(record: LabelRecord) -> str:
    """Return the metric in which runs are compared: the first one of what they predict."""
    return METRICS[record.table.kind][0]


def compare_labels(first: LabelRecord, second: LabelRecord) -> LabelComparison | str:
    """Compare two runs on the rows that both predicted.

    Rows are the same if id and text are. Where a run's rows have no ids of their own but numbers, or its table is
    numbered, the text alone decides, and equal texts in their order. Where texts are not known, the id decides.

    Args:
        first: What the baseline predicted.
        second: What the other run predicted.

    Returns:
        The comparison, or why there is none.
    """
    one, other = (_averaged(record) for record in (first, second))
    if one.table.kind != other.table.kind:
        return f"one predicts {one.table.kind} and the other {other.table.kind}"
    if set(one.table.classes) != set(other.table.classes):
        differing = sorted(set(one.table.classes) ^ set(other.table.classes))
        return f"they know different labels: only one of them has {', '.join(map(repr, differing[:4]))}"
    by = _matching(one, other)
    if isinstance(by, str):
        return by
    keys = [list(_keys(record, *by)) for record in (one, other)]
    places = {key: number for number, key in enumerate(keys[1])}
    mine = [number for number, key in enumerate(keys[0]) if key in places]
    if not mine:
        return "no row was predicted by both"
    theirs = [places[keys[0][number]] for number in mine]
    left, right = one.table.select(mine), _in_order(other.table.select(theirs), one.table.classes)
    same = ((left.targets == right.targets) | (np.isnan(left.targets) & np.isnan(right.targets))).all(axis=1)
    left, right = left.select(same), right.select(same)
    if not left.known.any():
        return "no row that both predicted has a label, or the same label"
    ids = [str(number) for number in range(len(left))]
    # Weights are part of how a run learned; rows are compared with those of the baseline.
    paired = compare(replace(left, ids=ids), replace(right, ids=ids, weights=left.weights), METRICS[left.kind][0])
    return LabelComparison(
        paired,
        only_first=len(one.table) - len(mine),
        only_second=len(other.table) - len(mine),
        other_labels=int((~same).sum()),
    )


def _averaged(record: LabelRecord) -> LabelRecord:
    """Return a record with one row for each id, where it has several seeds."""
    if len(set(record.table.ids)) == len(record.table):
        return record
    first = {name: number for number, name in reversed(list(enumerate(record.table.ids)))}
    table = mean_over_seeds(record.table)
    texts = None if record.texts is None else tuple(record.texts[first[name]] for name in table.ids)
    return replace(record, table=table, texts=texts)


def _numbered(record: LabelRecord) -> bool:
    return list(record.table.ids) == [str(number) for number in range(len(record.table))]


def _matching(one: LabelRecord, other: LabelRecord) -> tuple[bool, bool] | str:
    """Return whether ids and whether texts decide which rows are the same, or why nothing can."""
    texts = one.texts is not None and other.texts is not None
    ids = not (_numbered(one) or _numbered(other))
    if not texts and not ids:
        return "their rows have no ids, and their texts are not known, so that rows cannot be matched"
    return ids, texts


def _keys(record: LabelRecord, ids: bool, texts: bool) -> Iterator[Hashable]:
    """Yield what identifies each row; of equal ones, also which of them it is."""
    seen: Counter[Hashable] = Counter()
    for row, name in enumerate(record.table.ids):
        key = (name if ids else "", record.texts[row] if texts and record.texts is not None else "")
        yield *key, seen[key]
        seen[key] += 1


def _in_order(table: Predictions, classes: Sequence[str]) -> Predictions:
    """Return a table with its columns in the order of `classes`, which are the same ones."""
    order = [list(table.classes).index(name) for name in classes]
    return replace(table, classes=classes, targets=table.targets[:, order], probabilities=table.probabilities[:, order])
