"""Validation loss: on the same sequences every time during training, and with a confidence interval at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lavra.core.machine import is_out_of_memory, release_memory
from lavra.core.progress import Progress
from lavra.core.seeds import row_streams
from lavra.core.units import bits_per_byte_of, perplexity_of
from lavra.evaluation.intervals import Estimate, ratio_estimates
from lavra.models.protocols import Batch, Model, logit_cap_of
from lavra.objectives.base import ComparingObjective, Loss, Objective
from lavra.training.batches import Source
from lavra.training.comparing import put_together
from lavra.training.fault_injection import fault_point
from lavra.training.learner import Learner


def likelihood_metrics(
    bytes_per_target: float, words_per_target: float | None = None
) -> Callable[..., dict[str, float]]:
    """Return the function that gives the metrics of a likelihood: perplexity, and bits per byte and per word.

    Args:
        bytes_per_target: Bytes of text for each target.
        words_per_target: Words of text for each target; None leaves out the bits per word.

    Examples:
        >>> metrics = likelihood_metrics(4.0)
        >>> round(metrics(4 * math.log(2))["bits_per_byte"], 6)
        1.0
    """

    def metrics(loss: float, parts: Mapping[str, float] | None = None) -> dict[str, float]:
        found = {"perplexity": perplexity_of(loss), "bits_per_byte": bits_per_byte_of(loss, bytes_per_target)}
        if words_per_target is not None:
            found["bits_per_word"] = bits_per_byte_of(loss, words_per_target)
        return {**found, **(parts or {})}

    return metrics


class EvaluatedLearner(Learner, Protocol):
    """A learner that can be measured."""

    def eval_mode(self) -> AbstractContextManager[None]:
        """Switch dropout off, and put averaged weights in place, during a block."""
        ...


@dataclass(frozen=True)
class Validation:
    """A fixed sample of the validation data, which is measured from time to time during training.

    Attributes:
        source: Rows of the validation data, in their seeded order.
        rows: Number of rows that are measured, from the first.
        metrics: Function from the mean loss in nats and the means of the loss's parts to the metrics by name.
        headline: The metric that is shown while training goes on.

    Examples:
        >>> validation = Validation(source=None, rows=0, metrics=lambda loss, parts: {"bits": loss / math.log(2)})
        >>> validation.record(step=3, tokens=100, measured={"loss": math.log(2)})["bits"]
        1.0
    """

    source: Source
    rows: int
    metrics: Callable[[float, Mapping[str, float]], Mapping[str, float]]
    headline: str = "loss"

    def record(self, step: int, tokens: float, measured: Mapping[str, float]) -> dict[str, Any]:
        """Return the record of `metrics.jsonl` for what was measured.

        Args:
            step: Number of optimiser steps done.
            tokens: Number of tokens trained on so far.
            measured: Mean loss and parts, as `measure` returns them.
        """
        parts = {name: value for name, value in measured.items() if name != "loss"}
        loss = measured["loss"]
        return {"step": step, "split": "validation", "tokens": int(tokens), "loss": loss, **self.metrics(loss, parts)}

    def of_trainer(self, trainer: EvaluatedLearner) -> dict[str, float]:
        """Return what `measure` returns for a trainer, with its averaged weights where it keeps some.

        Args:
            trainer: The trainer, at any step.
        """
        with trainer.eval_mode():
            rows = trainer.batches.micro_batch_size
            return self.measure(trainer.model, trainer.objective, rows, trainer.device)

    def measure(
        self, model: Model, objective: Objective, micro_batch_size: int, device: torch.device
    ) -> dict[str, float]:
        """Return the means over the targets of the rows: `loss` in nats, and the parts of the loss.

        All are NaN if the rows contain no target.

        An objective that compares examples compares all rows with each other, whatever the micro-batch.

        Args:
            model: Model in evaluation mode.
            objective: Training objective; its masks are the same in every call.
            micro_batch_size: Number of rows of a micro-batch. It is halved whenever the memory does not suffice.
            device: Device of the model.
        """
        fault_point("validation")
        parts, start = [], 0
        while start < self.rows:
            count = min(micro_batch_size, self.rows - start)
            try:
                part = self._part(model, objective, start, count, device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or micro_batch_size == 1:
                    raise
                release_memory(error)
                micro_batch_size //= 2
                continue
            parts.append(part)
            start += count
        if isinstance(objective, ComparingObjective) and parts:
            together = put_together(parts)
            loss = objective.compare(together.embeddings, together.info, learning=False)
            parts = [_numbers(loss)]
        totals = {"loss": 0.0, "weight": 0.0}
        for part in parts:
            for name, value in part.items():
                totals[name] = totals.get(name, 0.0) + value
        weight = totals.pop("weight")
        return {name: total / weight if weight else math.nan for name, total in totals.items()}

    def _part(self, model: Model, objective: Objective, start: int, count: int, device: torch.device) -> Any:
        """Return the sums over some rows, or their embeddings and info for an objective that compares all rows."""
        rows = self.source.rows(start, count)
        batch = objective.encode(rows, row_streams(0, "validation", first=start), 1.0).to(device)
        detached: Any = _Detached(model)
        if isinstance(objective, ComparingObjective):
            return objective.embed(detached, batch).detach(), objective.info(batch)
        loss = objective.loss(detached, batch, learning=False)
        return _numbers(loss)


def _numbers(loss: Loss) -> dict[str, float]:
    """Return the sum of a loss, its weight and its parts as numbers, by name."""
    parts = {name: float(part.detach()) for name, part in loss.parts.items()}
    return {"loss": float(loss.sum.detach()), "weight": float(loss.weight), **parts}


class _Detached:
    """Wraps a model so that its features carry no gradient.

    They are computed with gradients enabled and then detached, because disabling gradients makes a compiled model
    compile once more, which takes longer than a whole validation.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.vocabulary, self.logit_cap = model.vocabulary, logit_cap_of(model)

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        return self.model.features(batch, embeddings).detach()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.embed(ids).detach()

    @property
    def task_head(self) -> Any:
        return getattr(self.model, "task_head", None)

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = self.model.output_projection()
        return weight.detach(), None if bias is None else bias.detach()


@dataclass(frozen=True)
class ValidationLoss:
    """Loss on the validation data, with 95 % confidence intervals by bootstrap over rows.

    Attributes:
        objective: Name of the objective, such as `mlm`.
        loss: Mean loss in nats per target.
        perplexity: Exponential of the loss.
        bits_per_byte: Loss in bits per byte of the text of the targets.
        rows: Number of rows that were measured.
        targets: Number of targets in these rows.
    """

    objective: str
    loss: Estimate
    perplexity: Estimate
    bits_per_byte: Estimate
    rows: int
    targets: int

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        measures = {name: getattr(self, name).to_json() for name in ("loss", "perplexity", "bits_per_byte")}
        return {"objective": self.objective, **measures, "rows": self.rows, "targets": self.targets}

    def __str__(self) -> str:
        lines = [
            f"measured on {self.rows:,} validation sequences with {self.targets:,} targets ({self.objective}); in "
            "brackets, 95 % confidence intervals by bootstrap over sequences",
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


def validation_loss(
    model: Model,
    objective: Objective,
    source: Source,
    rows: int,
    *,
    name: str,
    bytes_per_target: float,
    device: torch.device,
    seed: int = 0,
) -> ValidationLoss:
    """Return the loss of the objective on the first rows of a source, with confidence intervals.

    Each row is a batch of its own, because the bootstrap needs its loss.

    Args:
        model: Model in evaluation mode.
        objective: Training objective; its masks are the same in every call.
        source: Source of the validation rows.
        rows: Number of rows to measure.
        name: Name of the objective, which the result repeats.
        bytes_per_target: Mean number of bytes of text per target, for the bits per byte.
        device: Device of the model.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If the objective compares examples with each other: a row has no loss of its own then.
    """
    if isinstance(objective, ComparingObjective):
        raise ValueError("an objective that compares examples has no loss of single rows; measure what it is used for")
    sums, weights = [], []
    with torch.no_grad(), Progress("evaluating", rows, "rows") as progress:
        for number in range(rows):
            batch = objective.encode(source.rows(number, 1), row_streams(0, "held out", first=number), 1.0).to(device)
            loss = objective.loss(model, batch, learning=False)
            sums.append(float(loss.sum))
            weights.append(loss.weight)
            progress.advance()
    mean = ratio_estimates(sums, {"loss": weights}, seed=seed)["loss"]
    return ValidationLoss(
        name,
        mean,
        mean.through(perplexity_of),
        mean.through(lambda loss: bits_per_byte_of(loss, bytes_per_target)),
        rows,
        int(sum(weights)),
    )
