"""The loss on held-out text, the same windows every time; at the end, for any objective, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import Progress
from lavra.core.seeds import row_streams
from lavra.core.units import perplexity_of
from lavra.evaluation.intervals import Estimate, ratio_estimates
from lavra.models.contract import Model, logit_cap_of
from lavra.objectives.base import Objective
from lavra.training.batches import Source
from lavra.training.fault_injection import fault_point


@dataclass(frozen=True)
class Validation:
    """A fixed sample of held-out rows.

    Attributes:
        source: the held-out rows in their seeded order.
        rows: how many of them are measured.
        bytes_per_token: of the held-out text, which turns nats per token into bits per byte.
    """

    source: Source
    rows: int
    bytes_per_token: float

    def bits_per_byte(self, loss: float) -> float:
        """Return the bits per byte of original text that `loss` (nats per token) means."""
        return loss / math.log(2) / self.bytes_per_token

    def record(self, step: int, tokens: float, loss: float) -> dict[str, Any]:
        """Return the line of `metrics.jsonl` for a measured loss."""
        return {
            "step": step,
            "split": "validation",
            "tokens": int(tokens),
            "loss": loss,
            "perplexity": perplexity_of(loss),
            "bits_per_byte": self.bits_per_byte(loss),
        }

    def loss(self, model: Model, objective: Objective, micro_rows: int, device: torch.device) -> float:
        """Return the mean loss in nats per target over the rows; not a number where they have no target.

        When memory runs out, micro-batches are halved.
        """
        fault_point("validation")
        total, weight, start = 0.0, 0.0, 0
        while start < self.rows:
            count = min(micro_rows, self.rows - start)
            try:
                part = self._part(model, objective, start, count, device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or micro_rows == 1:
                    raise
                release_memory(error)
                micro_rows //= 2
                continue
            total, weight, start = total + part[0], weight + part[1], start + count
        return total / weight if weight else math.nan

    def _part(
        self, model: Model, objective: Objective, start: int, count: int, device: torch.device
    ) -> tuple[float, float]:
        rows = self.source.rows(start, count)
        batch = objective.encode(rows, row_streams(0, "validation", first=start), 1.0).to(device)
        loss = objective.loss(_Detached(model), batch, learning=False)  # pyright: ignore[reportArgumentType]
        return float(loss.sum), loss.weight


class _Detached:
    """A model whose features carry no gradient.

    They are computed with gradients on and then cut off, because turning gradients off makes a compiled model compile
    once more, which costs more than a whole validation.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.vocabulary, self.logit_cap = model.vocabulary, logit_cap_of(model)

    def features(self, batch: object) -> torch.Tensor:
        return self.model.features(batch).detach()  # pyright: ignore[reportArgumentType]

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = self.model.output_projection()
        return weight.detach(), None if bias is None else bias.detach()


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
            loss = objective.loss(model, batch, learning=False)
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
