"""Denoising: hidden parts of texts are predicted from the rest, by a decoder or an encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lavra.core.errors import InputError
from lavra.core.units import perplexity_of
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec
from lavra.objectives.denoise.marks import SENTINELS, with_marks
from lavra.objectives.denoise.objective import (
    Denoise,
    MaskedAndCausal,
    computed,
    denoise_for,
    growth,
    longest_sequence,
    mask_token,
)
from lavra.objectives.room import Room, largest_text
from lavra.tasks.base import Measured, ModelKind, Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.infilling import with_infilling
from lavra.tasks.language_modelling import LanguageModelling
from lavra.tasks.samples import written_samples
from lavra.training.plan import Plan

if TYPE_CHECKING:
    from lavra.config.training import ObjectiveConfig

_AROUND = 3
"""Most ids that an encoder reads around a text: one before it, a mode token, and one after it."""

_MIXED = "mlm+causal"


class Denoising(Task):
    """Prediction of hidden parts of documents."""

    name = "denoising"
    objectives = ("span-corruption", "ul2", "ul2r", "prefix-lm", _MIXED)
    kinds = ("decoder", "encoder-decoder")
    rows = "text"
    headline = "loss"
    counts_ngrams = True

    def recognises(self, data: DataDescription) -> bool:
        """Return False: it is learned only where the request names it."""
        return False

    def room(
        self, asked: ObjectiveConfig, objective: str, kind: ModelKind, context: int, limit: int | None, *, base: Any
    ) -> Room:
        """Return the room for sentinels, for the hidden spans after the text, and for mode tokens."""
        if objective == "ul2r" and (base is None or kind != "decoder"):
            raise InputError(
                "ul2r goes on from a causal model that is there",
                "name a decoder by --from, or use --objective ul2 for a new model",
            )
        ours = base is None or isinstance(base, Decoder | DecoderSpec)
        bidirectional = kind == "decoder" and is_bidirectional(asked, objective, ours=ours)
        if objective == _MIXED:
            _refuse_other_models(objective, kind, bidirectional)
            rate = sum(self.mask_rates(asked, adapting=base is not None)) / 2
            targets = 1.0 - asked.masked_share * (1.0 - rate)
            return Room(context, context, bidirectional=True, targets=targets)
        if objective == "prefix-lm" and kind == "decoder" and not ours:
            _refuse_other_models(objective, kind, bidirectional)
        mixture = asked.mixture(objective)
        around = 0 if kind == "decoder" else _AROUND
        text = largest_text(
            lambda length: longest_sequence(mixture, length, limit=SENTINELS, around=around), context, limit
        )
        longest = longest_sequence(mixture, text, limit=SENTINELS, around=around)
        found = computed(mixture, text, limit=SENTINELS, around=around)
        return Room(
            text,
            longest,
            growth(mixture, text, limit=SENTINELS, around=around),
            bidirectional,
            lengths=(found.decoder / text, found.encoder / text),
            targets=found.targets / text,
        )

    def complete_tokenizer(
        self, tokenizer: Tokenizer, asked: ObjectiveConfig, objective: str, kind: ModelKind
    ) -> Tokenizer:
        """Return the tokenizer with sentinels and mode tokens, or a mask token."""
        mixture = () if objective == _MIXED else asked.mixture(objective)
        return with_marks(tokenizer, objective, mixture, decoder=kind == "decoder")

    def objective(self, plan: Plan, model: Decoder | HFModel, dataset: Dataset) -> Denoise | MaskedAndCausal:
        """Return the denoising objective of the plan."""
        asked, tokenizer = plan.denoising, dataset.tokenizer
        if plan.objective == _MIXED:
            return MaskedAndCausal(
                plan.context,
                mask_token(tokenizer),
                tokenizer.end_of_document,
                asked.masked_share,
                plan.mask_rate,
                plan.isolate,
                plan.label_smoothing,
            )
        writes = getattr(model, "kind", "decoder") == "encoder-decoder"
        shift: Any = getattr(model, "decoder_inputs", None) if writes else None
        return denoise_for(
            tokenizer,
            asked.mixture(plan.objective),
            plan.context,
            shift=shift,
            bidirectional=isinstance(model, Decoder) and model.spec.prefix_attention,
            isolate=plan.isolate,
            label_smoothing=plan.label_smoothing,
        )

    def no_forecast(self, objective: str) -> str:
        """Return why the loss cannot be forecast."""
        return (
            f"the scaling law is that of predicting every next token, and hidden parts are harder to predict: what "
            f"{objective} reaches is not known beforehand"
        )

    def share_of_pretraining(self, objective: str) -> float | None:
        """Return the share that UL2R takes: U-PaLM took 0.16 % (arXiv 2210.11399), and a small model needs more."""
        return 0.01 if objective == "ul2r" else None

    def must_learn(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Nothing in particular: where a text is masked or begins in a window, no document need end."""
        return ()

    def metrics(
        self,
        loss: float,
        parts: Mapping[str, float],
        *,
        bytes_per_target: float,
        words_per_target: float | None = None,
    ) -> dict[str, float]:
        """Return the perplexity of what is hidden; bits per byte of a text cannot be made of it."""
        return {"perplexity": perplexity_of(loss), **parts}

    def evaluate(self, trained: Trained) -> Measured:
        """Measure the loss of hidden parts; of a decoder that also learned sequences, the likelihood of documents, too.

        That likelihood is measured from left to right, after the token with which the model's texts begin.
        """
        plan = trained.plan
        own = super().evaluate(trained)
        values = own.figures["evaluation"]
        denoising = {name: values[name] for name in ("loss", "perplexity", "targets", "rows") if name in values}
        if not _left_to_right(trained):
            figures = {name: own.figures[name] for name in ("loss", "perplexity")}
            measured = Measured({**figures, "denoising": denoising}, _table(plan.objective, denoising))
        else:
            likely = LanguageModelling().evaluate(trained)
            measured = Measured(
                {**likely.figures, "denoising": denoising},
                f"read from left to right:\n{likely.table}\n{_table(plan.objective, denoising)}",
            )
        return with_infilling(measured, trained)

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return new documents of a model that learned to write from left to right; none of another."""
        return written_samples(trained, count, greedy=False) if _left_to_right(trained) else []


def is_bidirectional(asked: ObjectiveConfig, objective: str, *, ours: bool) -> bool:
    """Return whether a decoder sees what it is given in both directions.

    Args:
        asked: The request, as far as it is about the objective.
        objective: The name of the objective.
        ours: Whether the decoder is one of lavra's own, which alone has such a mask.

    Raises:
        InputError: If a bidirectional prefix is asked for of a model of `transformers`.
    """
    if asked.prefix_attention == "auto":
        return ours and objective != "ul2r"
    if asked.prefix_attention == "bidirectional" and not ours:
        raise InputError(
            "a decoder of transformers attends causally, also within a prefix",
            "use --objective.prefix-attention causal, or a decoder of lavra's own",
        )
    return asked.prefix_attention == "bidirectional"


def _refuse_other_models(objective: str, kind: ModelKind, bidirectional: bool) -> None:
    """Raise an error where an objective needs a decoder that sees a part of a text in both directions."""
    if kind != "decoder" or not bidirectional:
        raise InputError(
            f"{objective} needs a decoder that sees a part of the text in both directions",
            "use a decoder of lavra's own without --objective.prefix-attention causal, or --objective fim or causal",
        )


def _left_to_right(trained: Trained) -> bool:
    """Return whether a decoder also learned to continue texts, so that the likelihood of a text means something."""
    objective = trained.plan.objective
    if getattr(trained.model, "kind", "decoder") != "decoder" or objective == "span-corruption":
        return False
    return objective == _MIXED or any(one.mean is None for one in trained.plan.denoising.mixture(objective))


def _table(objective: str, values: Mapping[str, Any]) -> str:
    loss, perplexity = values["loss"]["value"], values["perplexity"]["value"]
    return f"{objective}: {loss:.4f} nats for each hidden token, perplexity {perplexity:.4g}"
