"""Replaced-token detection on the topics of Python's documentation, with a generator in small."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from lavra.data.tokenizers.for_encoders import for_encoder
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.presets import as_encoder
from lavra.models.replaced_tokens import attach_generator
from lavra.models.spec import DecoderSpec
from lavra.objectives.mlm import MaskedLM, mask_token_of
from lavra.objectives.replaced_tokens import ReplacedTokens
from tiny_training import CONTEXT, SPEC, topics_tokenizer


@cache
def encoder_tokenizer() -> Tokenizer:
    """Return the tokenizer of the topics with the tokens of an encoder."""
    return for_encoder(topics_tokenizer())


@cache
def masked(rate: float = 0.3) -> MaskedLM:
    """Return the rule that hides words of the topics."""
    tokenizer = encoder_tokenizer()
    mask, words = mask_token_of(tokenizer), Words.of(tokenizer)
    return MaskedLM(CONTEXT, mask, words, rate=rate, mask_share=0.85, random_share=0.0)


def electra(rate: float = 0.3, **fields: Any) -> ReplacedTokens:
    """Return the objective for windows of the topics."""
    return ReplacedTokens(masked(rate), CONTEXT, **fields)


def encoder_spec(**fields: Any) -> DecoderSpec:
    """Return the shape of an encoder of the topics."""
    shape = replace(as_encoder(replace(SPEC, kv_heads=0)), vocabulary=encoder_tokenizer().vocabulary_size)
    return replace(shape, **fields)


def detector(share: float = 0.5, seed: int = 0, lively: bool = True, **fields: Any) -> Decoder:
    """Return an encoder with a generator beside it; every weight of a lively one matters."""
    model = build_decoder(encoder_spec(**fields), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attach_generator(model, share)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters() if lively else ():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model
