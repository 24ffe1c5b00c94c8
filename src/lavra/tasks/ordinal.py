"""Ordinal classification: which of some ranks a text has, such as a number of stars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from lavra.core.errors import InputError
from lavra.models.heads import OrdinalHead
from lavra.objectives.ordinal import Ordinal, rank_probabilities
from lavra.tasks.classification import ClassificationTask
from lavra.tasks.datasets import DataDescription
from lavra.tasks.labelled_dataset import LabelledDataset


class OrdinalTask(ClassificationTask):
    """Which of some ranks a text has, learned by the thresholds between them (CORAL, Cao et al. 2020, 1901.07884).

    It is taken only by its name, because classes that are numbers may have no order.
    """

    name, objectives = "ordinal", ("ordinal",)
    kind, losses = "ordinal", Ordinal

    def recognises(self, data: DataDescription) -> bool:
        """Return False: rows look like those of classification."""
        return False

    def label_facts(self, column: str, dataset: LabelledDataset) -> dict[str, Any]:
        """Return the ranks from the lowest to the highest, their frequencies, and their weights where balanced.

        Raises:
            InputError: If the labels are no numbers, whose order is known, or no classes.
        """
        found = super().label_facts(column, dataset)
        for name in found["classes"]:
            if not _is_number(name):
                raise InputError(
                    f"the label {name!r} in the column {column!r} has no place among ranks",
                    "write ranks as numbers, such as 1 to 5, or use --task classification",
                )
        return found

    def head(self, facts: dict[str, Any], width: int) -> torch.nn.Module:
        """Return the head of a text, whose outputs are the thresholds between the ranks."""
        options = facts["head"]
        return OrdinalHead(width, self.size(facts), pooling=options["pooling"], dropout=options["dropout"])

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return the loss of guessing at every threshold."""
        return (self.size(facts) - 1) * math.log(2)

    def probabilities(self, facts: Mapping[str, Any], outputs: torch.Tensor) -> torch.Tensor:
        """Return the probability of each rank, (…, ranks)."""
        return rank_probabilities(outputs)


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False
