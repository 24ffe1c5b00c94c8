"""Denoising objectives on the topics of Python's documentation, with the special tokens that each of them needs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from lavra.config.denoising import DenoisingConfig
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec
from lavra.objectives.denoise.fim import fim_for
from lavra.objectives.denoise.marks import with_marks
from lavra.objectives.denoise.objective import MaskedAndCausal, denoise_for, mask_token
from tiny_training import CONTEXT, SPEC, lively, topics_tokenizer

OBJECTIVES = ("span-corruption", "ul2", "ul2r", "prefix-lm", "fim", "mlm+causal")

CAUSAL = ("fim", "ul2r")
"""The objectives whose decoders see nothing ahead, by default."""


@cache
def tokenizer_for(name: str, decoder: bool = True) -> Tokenizer:
    """Return the tokenizer of the topics with the special tokens of an objective."""
    mixture = () if name in ("fim", "mlm+causal") else DenoisingConfig().mixture(name)
    return with_marks(topics_tokenizer(), name, mixture, decoder=decoder)


@cache
def objective_for(name: str, isolate: bool = True) -> Any:
    """Return an objective for windows of the topics."""
    tokenizer = tokenizer_for(name)
    if name == "fim":
        return fim_for(tokenizer, CONTEXT, isolate=isolate)
    if name == "mlm+causal":
        return MaskedAndCausal(CONTEXT, mask_token(tokenizer), tokenizer.end_of_document, isolate=isolate)
    mixture = DenoisingConfig().mixture(name)
    return denoise_for(tokenizer, mixture, CONTEXT, bidirectional=name not in CAUSAL, isolate=isolate)


def decoder_for(name: str, **fields: Any) -> Decoder:
    """Return a lively decoder that reads what the objective makes of a window."""
    return lively(spec_for(name, **fields))


def spec_for(name: str, **fields: Any) -> DecoderSpec:
    """Return the shape of that decoder."""
    bidirectional = name not in CAUSAL
    size = tokenizer_for(name).vocabulary_size
    return replace(SPEC, vocabulary=size, context=2 * CONTEXT, prefix_attention=bidirectional, **fields)
