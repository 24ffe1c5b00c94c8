"""SimCSE: a text is recognised by another view of itself, which differs by dropout alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lavra.objectives.contrastive import Contrastive
from lavra.objectives.embedding.rows import PairRow

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.models.protocols import Batch


@dataclass(frozen=True)
class SimCSE(Contrastive):
    """Contrastive learning from bare texts (Gao, Yao and Chen 2021, arXiv 2104.08821).

    Each text is read twice, and dropout makes two views of it; a view is to recognise the other one among those of the
    other texts of the step. Without dropout the two are the same, and the texts only move apart.
    """

    symmetric: bool = False

    def encode(self, rows: Sequence[PairRow], streams: Streams, progress: float) -> Batch:
        """Return a batch in which every first text stands twice; what else a row has is left out."""
        views = [replace(row, positive=row.anchor, negatives=()) for row in rows]
        return super().encode(views, streams, progress)
