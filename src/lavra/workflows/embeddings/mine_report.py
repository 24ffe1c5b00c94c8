"""What the mining of rows to train on did: what was written, what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lavra.core.units import counted


@dataclass
class MineReport:
    """What `mine` did.

    Attributes:
        out: The file of rows.
        cache: The folder with everything that was computed.
        queries: Number of pairs of a query and its passage.
        rows: Number of rows that were written.
        negatives: Number of negatives in them.
        without: Number of queries that got no negative.
        queries_left_out: Number of queries that are left out, by the reason.
        left_out: Number of texts that were found and are no negatives, by the reason.
        margins: Mean and standard deviation of the margins, and the share that is below zero; None without a teacher.
    """

    out: str
    cache: str
    queries: int = 0
    rows: int = 0
    negatives: int = 0
    without: int = 0
    queries_left_out: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    margins: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "queries_left_out": dict(self.queries_left_out), "left_out": dict(self.left_out)}

    def count_margins(self, margins: Sequence[float]) -> None:
        """Keep mean, spread and share below zero of margins."""
        values = np.array(margins)
        below = float((values < 0).mean())
        self.margins = {"mean": float(values.mean()), "deviation": float(values.std()), "share_below_zero": below}


def summary(report: MineReport) -> str:
    """Return what was done, as lines of plain text.

    Args:
        report: What `mine` returned.
    """
    queries = counted(report.queries, "query", "queries")
    lines = [
        f"{report.out}: {counted(report.rows, 'row')}; {counted(report.negatives, 'negative')} for {queries}, "
        f"{report.without:,} of which got none"
    ]
    lines += [f"left out {count:,} {why}" for why, count in report.queries_left_out.most_common() if count]
    lines += [f"left out {counted(count, 'text')}: {why}" for why, count in report.left_out.most_common() if count]
    if report.margins is not None:
        margins = report.margins
        lines.append(
            f"margins {margins['mean']:.2f} ± {margins['deviation']:.2f}, of which "
            f"{margins['share_below_zero']:.1%} are below zero"
        )
    return "\n".join(lines)
