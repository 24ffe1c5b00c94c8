"""Masked language modelling: hidden words of a text are predicted from both sides."""

from __future__ import annotations

from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.objectives.mlm import MaskedLM, mask_token_of
from lavra.tasks.base import Task
from lavra.tasks.datasets import Dataset
from lavra.training.plan import Plan


class MaskedLanguageModelling(Task):
    """Prediction of hidden words on documents, by an encoder."""

    name = "mlm"
    objectives = ("mlm",)
    kinds = ("encoder",)
    rows = "text"
    causal = False
    bos = True

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> MaskedLM:
        """Return the masked objective."""
        return MaskedLM(
            plan.context,
            mask_token_of(dataset.tokenizer),
            Words.of(dataset.tokenizer),
            whole_words=plan.whole_words,
            rate=plan.mask_rate,
            final_rate=plan.final_mask_rate,
            mask_share=1.0 if plan.pure_mask else 0.8,
            random_share=0.0 if plan.pure_mask else 0.1,
            isolate=plan.isolate,
            label_smoothing=plan.label_smoothing,
        )

    def predicted(self, mask_rates: tuple[float, float]) -> float:
        """The mean of the rates: the head is computed for the hidden tokens alone."""
        return sum(mask_rates) / 2

    def must_learn(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Nothing in particular: which tokens are hidden is drawn."""
        return ()
