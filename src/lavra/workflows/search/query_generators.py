"""Opening query generators, and the models that score queries, by their location."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lavra.config.search import ExpandConfig
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.generation.engines.converting import Convertible, why_not_convertible
from lavra.generation.engines.ctranslate import CTranslate2Engine
from lavra.search.expansion.prompts import BARE, QueryPrompt, prompt_of
from lavra.search.expansion.query_generator import ModelQueryGenerator, QueryGenerator, Sampling, reads_with_encoder
from lavra.search.expansion.scorers import CrossEncoderScorer, EmbeddingScorer, LikelihoodScorer, QueryScorer
from lavra.search.experiment.sentence_models import kind_of
from lavra.training.devices import choose_device
from lavra.workflows.embeddings.open_encoder import open_encoder
from lavra.workflows.models.open import OpenModel, open_language_model


@dataclass(frozen=True)
class OpenQueryGenerator:
    """A query generator that is ready to be used.

    Attributes:
        writer: The query generator.
        prompt: The prompt with which it was trained.
        engine: The library that computes: "torch" or "ctranslate2".
        model: The model in torch, for scoring.
    """

    writer: QueryGenerator
    prompt: QueryPrompt
    engine: str
    model: Any


def open_query_generator(config: ExpandConfig) -> OpenQueryGenerator:
    """Open the query generator of a request.

    Args:
        config: The request.

    Raises:
        InputError: If there is no such model, or the engine does not support it.
    """
    device = choose_device(config.device)
    opened = open_language_model(config.model, config.device, "fp32")
    reads = reads_with_encoder(opened.model)
    prompt = prompt_of(config.model, BARE if reads else QueryPrompt())
    engine = _ctranslate2(config, opened, device, reads)
    if engine is None:
        opened = open_language_model(config.model, config.device, config.precision)
    sampling = Sampling(config.top_k, config.temperature)
    writer = ModelQueryGenerator(opened.model, opened.tokenizer, prompt, sampling, engine)
    return OpenQueryGenerator(writer, prompt, "ctranslate2" if engine else "torch", opened.model)


def _ctranslate2(
    config: ExpandConfig, opened: OpenModel, device: torch.device, reads: bool
) -> CTranslate2Engine | None:
    """Return the CTranslate2 engine where it is asked for, or where `auto` takes it: an encoder-decoder on a CPU."""
    asked = config.engine == "ctranslate2"
    if not asked and not (config.engine == "auto" and reads and device.type == "cpu"):
        return None
    source = Convertible(opened.model, opened.tokenizer, opened.family)
    reason = why_not_convertible(source)
    if reason is None:
        engine = CTranslate2Engine(source, "int8", device.type)
        log(f"engine: {engine.description}")
        return engine
    if asked:
        raise InputError(
            f"ctranslate2 cannot run {config.model}: {reason}", "leave --engine out, or say --engine torch"
        )
    return None


def open_query_scorer(config: ExpandConfig, opened: OpenQueryGenerator) -> QueryScorer | None:
    """Open the scorer of a request: the generator itself, or a model of sentence-transformers.

    Args:
        config: The request.
        opened: The open generator.

    Returns:
        The scorer; None where the request asks for no scores.

    Raises:
        InputError: If there is no such model.
    """
    if not config.score_with:
        return None
    if config.score_with != "model":
        return open_scorer(config.score_with, config.device)
    return LikelihoodScorer(opened.model, opened.writer.tokenizer, opened.prompt)


def open_scorer(location: str, device: str = "auto") -> QueryScorer:
    """Open a model that scores queries: a cross-encoder of sentence-transformers, or any encoder of texts.

    Args:
        location: The location of the model.
        device: Device that computes: auto, cpu, cuda or mps.

    Raises:
        InputError: If there is no such model.
    """
    if kind_of(Path(location)) == "cross-encoder":
        return CrossEncoderScorer(Path(location), choose_device(device))
    return EmbeddingScorer(open_encoder(location, device=device, precision="fp32"))
