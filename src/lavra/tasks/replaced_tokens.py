"""Replaced-token detection: an encoder says which tokens of a text a small generator put there (ELECTRA)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lavra.core.progress import Progress
from lavra.core.seeds import row_streams
from lavra.core.units import perplexity_of
from lavra.evaluation.intervals import Estimate, ratio_estimates
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.replaced_tokens import attach_generator
from lavra.objectives.mlm import MaskedLM, mask_token_of
from lavra.objectives.replaced_tokens import PARTS, ReplacedTokens
from lavra.objectives.room import Room
from lavra.tasks.base import Measured, ModelKind, Trained, rows_in_time
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.mlm import MaskedLanguageModelling
from lavra.training.plan import Plan

if TYPE_CHECKING:
    from lavra.config.training import ObjectiveConfig, SetupConfig

_MASK_RATE = 0.15
"""Share of the words that are hidden from the generator (Clark et al. 2020, section 3.1)."""

_MASK_SHARE = 0.85
"""Share of the hidden words that the mask token replaces, as in the authors' code; the others stay as they are."""


class ReplacedTokenDetection(MaskedLanguageModelling):
    """Detection of replaced tokens on documents, by an encoder, beside a generator that learns to replace them."""

    name = "electra"
    objectives = ("electra",)
    keeps_head = False
    comparable_losses = False  # the better the generator, the harder the question
    headline = "detection_f1"

    def recognises(self, data: DataDescription) -> bool:
        """Return False: it is learned only where the request names it."""
        return False

    def mask_rates(self, asked: ObjectiveConfig, *, adapting: bool) -> tuple[float, float]:
        """Return the share of the words that are hidden at the beginning and at the end of a run."""
        first = _MASK_RATE if asked.mask_rate is None else asked.mask_rate
        return first, first if asked.final_mask_rate is None else asked.final_mask_rate

    def room(
        self, asked: ObjectiveConfig, objective: str, kind: ModelKind, context: int, limit: int | None, *, base: Any
    ) -> Room:
        """Return a row as it is, which a generator reads, too."""
        return Room(context, context, generator=asked.generator_share)

    def asked(self, config: SetupConfig, data: DataDescription) -> dict[str, Any]:
        """Return the width of the generator as a share of the model's, and the weight of the detector's loss."""
        asked = config.objective
        return {"generator_share": asked.generator_share, "detection_weight": asked.detection_weight}

    def attach_head(self, model: Decoder | HFModel, facts: dict[str, Any]) -> None:
        """Give an encoder a generator, and the layer that says which tokens were replaced."""
        attach_generator(model, facts["generator_share"])

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> ReplacedTokens:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the objective of generator and detector."""
        masked: MaskedLM = super().objective(plan, model, dataset)
        share = 1.0 if plan.pure_mask else _MASK_SHARE
        return ReplacedTokens(
            MaskedLM(
                plan.context,
                mask_token_of(dataset.tokenizer),
                masked.words,
                whole_words=plan.whole_words,
                rate=plan.mask_rate,
                final_rate=plan.final_mask_rate,
                mask_share=share,
                random_share=0.0,
                isolate=plan.isolate,
            ),
            plan.context,
            plan.facts["detection_weight"],
            plan.isolate,
            plan.label_smoothing,
        )

    def first_loss(self, facts: dict[str, Any]) -> float | None:
        """Return the loss of a detector that knows nothing; the objective adds that of the generator to it."""
        return facts["detection_weight"] * math.log(2)

    def no_forecast(self, objective: str) -> str:
        """Return why the loss cannot be forecast."""
        return "the loss of a detector rises when its generator gets better, so that no curve can be extrapolated"

    def metrics(
        self,
        loss: float,
        parts: Mapping[str, float],
        *,
        bytes_per_target: float,
        words_per_target: float | None = None,
    ) -> dict[str, float]:
        """Return the losses of generator and detector, and how well replaced tokens are found.

        Of a training step the sum of both losses alone is known.
        """
        if not parts:
            return {}
        found = {name: parts[name] for name in PARTS}
        return {
            "generator_loss": _ratio(found["generator_nats"], found["hidden"]),
            "detection_loss": found["detection_nats"],
            "replaced": found["replaced"],
            "detection_precision": _ratio(found["found"], found["claimed"]),
            "detection_recall": _ratio(found["found"], found["replaced"]),
            "detection_f1": _ratio(2 * found["found"], found["claimed"] + found["replaced"]),
        }

    def evaluate(self, trained: Trained) -> Measured:
        """Measure how well replaced tokens are found, and how well the generator fills in, with intervals."""
        found = trained.dataset.validation_set(trained.plan)

        def measure(rows: int) -> Detection:
            return detection(trained, rows)

        measured = measure(rows_in_time(trained, found.rows, measure))
        figures = {name: estimate.to_json() for name, estimate in measured.estimates.items()}
        evaluation = {**figures, "rows": measured.rows, "targets": measured.targets, "validation_rows": found.rows}
        return Measured({**figures, "evaluation": {"objective": self.name, **evaluation}}, str(measured))


@dataclass(frozen=True)
class Detection:
    """How well replaced tokens are found on validation rows, with 95 % confidence intervals by bootstrap over rows.

    Attributes:
        estimates: The figures by name.
        rows: Number of rows that were measured.
        targets: Number of tokens of these rows.
    """

    estimates: Mapping[str, Estimate]
    rows: int
    targets: int

    def __str__(self) -> str:
        lines = [
            f"measured on {self.rows:,} validation sequences with {self.targets:,} tokens (electra); in brackets, 95 % "
            "confidence intervals by bootstrap over sequences",
            "",
        ]
        for name, estimate in self.estimates.items():
            interval = "" if estimate.low is None else f"  [{estimate.low:.4g}, {estimate.high:.4g}]"
            lines.append(f"  {name.replace('_', ' '):<24}{estimate.value:.4g}{interval}")
        return "\n".join(lines)


def detection(trained: Trained, rows: int) -> Detection:
    """Return how well a model finds the tokens that its generator replaces, on the first validation rows.

    Each row is a batch of its own, because the bootstrap needs its sums.

    Args:
        trained: The model with its head, in evaluation mode, and its data.
        rows: Number of rows.
    """
    source = trained.dataset.validation_set(trained.plan).source
    sums: dict[str, list[float]] = {name: [] for name in ("loss", "weight", *PARTS)}
    with torch.no_grad(), Progress("evaluating", rows, "rows") as progress:
        for number in range(rows):
            streams = row_streams(0, "held out", first=number)
            batch = trained.objective.encode(source.rows(number, 1), streams, 1.0).to(trained.device)
            loss: Any = trained.objective.loss(trained.model, batch, learning=False)
            for name, value in {"loss": loss.sum, "weight": loss.weight, **loss.parts}.items():
                sums[name].append(float(value))
            progress.advance()

    def estimate(above: str, *below: str, factor: float = 1.0) -> Estimate:
        numerator = [factor * value for value in sums[above]]
        denominator = [sum(values) for values in zip(*(sums[name] for name in below), strict=True)]
        return ratio_estimates(numerator, {"": denominator}, seed=trained.plan.seed)[""]

    generator = estimate("generator_nats", "hidden")
    estimates = {
        "detection_f1": estimate("found", "claimed", "replaced", factor=2.0),
        "detection_precision": estimate("found", "claimed"),
        "detection_recall": estimate("found", "replaced"),
        "detection_loss": estimate("detection_nats", "weight"),
        "replaced": estimate("replaced", "weight"),
        "generator_loss": generator,
        "generator_perplexity": generator.through(perplexity_of),
        "loss": estimate("loss", "weight"),
    }
    return Detection(estimates, rows, int(sum(sums["weight"])))


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
