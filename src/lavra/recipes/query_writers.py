"""Opening what writes queries, and what scores them, by where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavra.core.errors import InputError
from lavra.core.progress import say
from lavra.recipes.expand_config import ExpandConfig
from lavra.recipes.models import hugging_face_folder, open_model
from lavra.search.prompts import BARE, QueryPrompt, prompt_of
from lavra.search.scorers import LikelihoodScorer, QueryScorer, open_scorer
from lavra.search.translator import TranslatorWriter, can_translate
from lavra.search.writers import ModelWriter, QueryWriter, Sampling, reads_with_encoder
from lavra.training.devices import choose_device


@dataclass(frozen=True)
class OpenWriter:
    """A writer of queries ready to be used.

    Attributes:
        writer: it.
        prompt: how it is asked.
        engine: what computes.
        model: what `lavra.recipes.models.open_model` opened; None with ctranslate2.
    """

    writer: QueryWriter
    prompt: QueryPrompt
    engine: str
    model: Any = None


def open_writer(config: ExpandConfig) -> OpenWriter:
    """Open the generator of a request.

    Raises:
        InputError: if there is no such model, or the engine cannot run it.
    """
    device = choose_device(config.device)
    sampling = Sampling(config.top_k, config.temperature)
    folder = hugging_face_folder(config.model)
    fits = folder is not None and can_translate(folder)
    if config.engine == "ctranslate2" and not fits:
        raise InputError(
            f"{config.model} is no encoder-decoder that ctranslate2 can run",
            "leave --engine out, or say --engine torch",
        )
    if (
        fits
        and folder is not None
        and (config.engine == "ctranslate2" or (config.engine == "auto" and device.type == "cpu"))
    ):
        prompt = prompt_of(config.model, BARE)
        say("engine: ctranslate2, int8")
        return OpenWriter(TranslatorWriter(folder, prompt, sampling, device.type), prompt, "ctranslate2")
    opened = open_model(config.model, config.device, config.precision)
    prompt = prompt_of(config.model, BARE if reads_with_encoder(opened.model) else QueryPrompt())
    return OpenWriter(ModelWriter(opened.model, opened.tokenizer, prompt, sampling), prompt, "torch", opened)


def open_query_scorer(config: ExpandConfig, opened: OpenWriter) -> QueryScorer | None:
    """Open what scores queries: nothing, the generator itself, or a model of sentence-transformers.

    Raises:
        InputError: if there is no such model, or the generator cannot score.
    """
    if not config.score_with:
        return None
    if config.score_with != "model":
        return open_scorer(config.score_with, choose_device(config.device))
    if opened.model is None:
        raise InputError("ctranslate2 does not score queries here", "add --engine torch, or score with a cross-encoder")
    return LikelihoodScorer(opened.model.model, opened.model.tokenizer, opened.prompt)
