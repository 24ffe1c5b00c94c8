"""Filling in the middle: a language model that also writes what is missing between two texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.infilling import infilling
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.objectives.base import padded_width
from lavra.objectives.denoise.fim import ROOM, FillInTheMiddle, fim_for
from lavra.objectives.denoise.marks import with_marks
from lavra.objectives.denoise.rows import ROW_STEP
from lavra.objectives.room import Room, expected_longest, largest_text
from lavra.tasks.base import Measured, ModelKind, Trained
from lavra.tasks.datasets import DataDescription, Dataset, TextDataset
from lavra.tasks.language_modelling import LanguageModelling
from lavra.training.plan import Plan

if TYPE_CHECKING:
    from lavra.config.training import ObjectiveConfig

_DOCUMENTS = 400
"""Most documents whose middles are filled in at the end of a run, and fewest."""
_LEAST_DOCUMENTS = 16


class Infilling(LanguageModelling):
    """Next-token prediction on documents, some of which have their middle at the end."""

    name = "infilling"
    objectives = ("fim",)

    def recognises(self, data: DataDescription) -> bool:
        """Return False: it is learned only where the request names it."""
        return False

    def room(
        self, asked: ObjectiveConfig, objective: str, kind: ModelKind, context: int, limit: int | None, *, base: Any
    ) -> Room:
        """Return the room for the tokens before the sections, and for those of words that are cut."""
        if not asked.fim_rate:
            return Room(context, context)
        text = largest_text(lambda length: length + ROOM, context, limit)
        longer = padded_width(text + ROOM, None, ROW_STEP)
        growth = expected_longest([(1.0 - asked.fim_rate, text), (asked.fim_rate, longer)]) / text
        return Room(text, text + ROOM, growth, lengths=(growth, 0.0))

    def forecast_caveat(self, objective: str) -> str:
        """Return that the law is that of another objective."""
        return (
            "the forecast is for texts that are read from left to right, by a law of causal runs: none with fim is "
            "among those that it was fitted to"
        )

    def complete_tokenizer(
        self, tokenizer: Tokenizer, asked: ObjectiveConfig, objective: str, kind: ModelKind
    ) -> Tokenizer:
        """Return the tokenizer with the tokens before prefix, suffix and middle."""
        return with_marks(tokenizer, objective, (), decoder=True)

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> FillInTheMiddle:
        """Return the objective, which takes the middle of some texts."""
        return fim_for(
            dataset.tokenizer,
            plan.context,
            rate=plan.denoising.fim_rate,
            spm_share=plan.denoising.spm_share,
            isolate=plan.isolate,
            label_smoothing=plan.label_smoothing,
        )

    def evaluate(self, trained: Trained) -> Measured:
        """Measure the likelihood of documents from left to right, and how well middles are filled in."""
        return with_infilling(super().evaluate(trained), trained)


def with_infilling(measured: Measured, trained: Trained) -> Measured:
    """Return the figures of a trained model with those of middles that it filled in.

    Args:
        measured: The figures so far.
        trained: The model and its data, which are text.
    """
    data = trained.dataset
    assert isinstance(data, TextDataset)
    found = infilling(
        trained.model,
        data.tokenizer,
        data.prepared.validation.texts(),
        context=trained.plan.context,
        documents=min(_DOCUMENTS, max(_LEAST_DOCUMENTS, trained.plan.evaluation_tokens // (4 * trained.plan.context))),
        seed=trained.plan.seed,
    )
    if found is None:
        return measured
    return replace(
        measured,
        figures={**measured.figures, "infilling": found.to_json()},
        table=f"{measured.table}\n{found.table()}".strip(),
    )
