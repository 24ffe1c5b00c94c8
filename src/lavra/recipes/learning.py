"""The objective of a plan."""

from __future__ import annotations

from lavra.data.words import Words
from lavra.models.decoder import Decoder
from lavra.models.wrapped.wrapped import Wrapped
from lavra.objectives.answers import Answers
from lavra.objectives.base import Objective
from lavra.objectives.causal import Causal
from lavra.objectives.masked import Masked, mask_token_of
from lavra.objectives.seq2seq import Seq2Seq
from lavra.planning.plan import Plan
from lavra.recipes.material import Material


def objective_of(plan: Plan, model: Decoder | Wrapped, data: Material) -> Objective:
    """Return what a plan's model learns from its data."""
    if plan.objective == "answers":
        return Answers(plan.context, plan.label_smoothing)
    if plan.objective == "seq2seq":
        assert isinstance(model, Wrapped)
        return Seq2Seq(plan.context, plan.source_context, model.decoder_inputs, plan.label_smoothing)
    if plan.objective == "masked":
        return Masked(
            plan.context,
            mask_token_of(data.tokenizer),
            Words.of(data.tokenizer),
            whole_words=plan.whole_words,
            rate=plan.mask_rate,
            final_rate=plan.final_mask_rate,
            mask_share=1.0 if plan.pure_mask else 0.8,
            random_share=0.0 if plan.pure_mask else 0.1,
            isolate=plan.isolate,
            label_smoothing=plan.label_smoothing,
        )
    return Causal(plan.context, plan.isolate, plan.label_smoothing)
