"""The loss of any objective on held-out rows, with an interval: for what is no plain likelihood of documents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lavra.core.perplexity import perplexity_of
from lavra.core.progress import Progress
from lavra.core.seeds import row_streams
from lavra.evaluation.intervals import Estimate, ratio_estimates
from lavra.models.contract import Model
from lavra.objectives.base import Objective
from lavra.training.batches import Source


@dataclass(frozen=True)
class HeldOutLoss:
    """What was measured; intervals are of 95 %, by bootstrap over rows.

    Attributes:
        objective: in a word.
        loss: nats per target.
        perplexity: its exponential.
        bits_per_byte: of the text that the targets spell.
        rows: that were measured.
        targets: in them.
    """

    objective: str
    loss: Estimate
    perplexity: Estimate
    bits_per_byte: Estimate
    rows: int
    targets: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        measures = {name: getattr(self, name).to_json() for name in ("loss", "perplexity", "bits_per_byte")}
        return {"objective": self.objective, **measures, "rows": self.rows, "targets": self.targets}

    def __str__(self) -> str:
        lines = [
            f"measured on {self.rows:,} held-out rows with {self.targets:,} targets ({self.objective}); in brackets, "
            "95 % intervals by bootstrap over rows",
            "",
        ]
        for title, estimate in (
            ("loss (nats per target)", self.loss),
            ("perplexity per target", self.perplexity),
            ("bits per byte", self.bits_per_byte),
        ):
            interval = "" if estimate.low is None else f"  [{estimate.low:.4g}, {estimate.high:.4g}]"
            lines.append(f"  {title:<24}{estimate.value:.4g}{interval}")
        return "\n".join(lines)


def held_out_loss(
    model: Model,
    objective: Objective,
    source: Source,
    rows: int,
    *,
    name: str,
    bytes_per_target: float,
    device: torch.device,
    seed: int = 0,
) -> HeldOutLoss:
    """Measure the objective's loss on the first `rows` rows of a source, each by itself.

    Args:
        model: in evaluation mode.
        objective: what is asked; its masks are the same in every call.
        source: of held-out rows.
        rows: how many are measured.
        name: of the objective.
        bytes_per_target: of the text that the targets spell.
        device: of the model.
        seed: of the bootstrap.
    """
    sums, weights = [], []
    with torch.no_grad(), Progress("evaluating", rows, "rows") as progress:
        for number in range(rows):
            batch = objective.encode(source.rows(number, 1), row_streams(0, "held out", first=number), 1.0).to(device)
            loss = objective.loss(model, batch)
            sums.append(float(loss.sum))
            weights.append(loss.weight)
            progress.advance()
    mean = ratio_estimates(sums, {"loss": weights}, seed=seed)["loss"]
    return HeldOutLoss(
        name,
        mean,
        mean.through(perplexity_of),
        mean.through(lambda loss: loss / math.log(2) / bytes_per_target),
        rows,
        int(sum(weights)),
    )
