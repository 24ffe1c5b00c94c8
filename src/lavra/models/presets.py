"""Well-known shapes of models by name, and the shapes of lavra's own encoders and encoder-decoders."""

from __future__ import annotations

import re
from dataclasses import replace

from lavra.config.choices import Architecture
from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean
from lavra.models.spec import DecoderSpec

_GPT2 = DecoderSpec(
    vocabulary=50257, context=1024, depth=12, width=768, heads=12, positions="learned", norm="layernorm",
    norm_epsilon=1e-5, norm_weight=True, activation="gelu_tanh", attention_bias=True, output_bias=True, mlp_bias=True,
    qk_norm=False, embedding_norm=False, tied=True, dropout=0.0, initialization="gpt2",
)  # fmt: skip
_OPT = replace(_GPT2, vocabulary=50272, context=2048, activation="relu")
_PYTHIA = replace(
    _GPT2,
    vocabulary=50304,
    context=2048,
    positions="rope",
    rope_fraction=0.25,
    activation="gelu",
    parallel=True,
    tied=False,
)
_LLAMA = DecoderSpec(
    vocabulary=32000, context=2048, positions="rope", norm="rmsnorm", norm_epsilon=1e-5, norm_weight=True,
    activation="swiglu", qk_norm=False, embedding_norm=False, tied=False, initialization="gpt2",
)  # fmt: skip

_BERT = replace(
    _GPT2,
    architecture="encoder",
    vocabulary=30522,
    context=512,
    norm_epsilon=1e-12,
    norm_placement="after",
    final_norm=False,
    embedding_norm=True,
    embedding_norm_weight=True,
    activation="gelu",
    head_transform=True,
    head_bias=True,
)
_MODERNBERT = DecoderSpec(
    architecture="encoder", vocabulary=50368, context=8192, positions="rope", rope_base=160000.0,
    rope_local_base=10000.0, window=64, global_every=3, norm="layernorm", norm_epsilon=1e-5, norm_weight=True,
    norm_bias=False, first_norm=False, activation="geglu", qk_norm=False, embedding_norm=True,
    embedding_norm_weight=True, tied=True, head_transform=True, head_bias=True, initialization="gpt2",
)  # fmt: skip

_T5 = DecoderSpec(
    architecture="encoder-decoder", vocabulary=32128, context=512, positions="relative", attention_scale=1.0,
    head_width=64, norm="rmsnorm", norm_weight=True, activation="relu", qk_norm=False, embedding_norm=False, tied=True,
    initialization="gpt2",
)  # fmt: skip

PRESETS: dict[str, DecoderSpec] = {
    "gpt2-124m": _GPT2,
    "gpt2-355m": replace(_GPT2, depth=24, width=1024, heads=16),
    "gpt2-774m": replace(_GPT2, depth=36, width=1280, heads=20),
    "gpt2-1.5b": replace(_GPT2, depth=48, width=1600, heads=25),
    "opt-125m": _OPT,
    "opt-1.3b": replace(_OPT, depth=24, width=2048, heads=32),
    "opt-2.7b": replace(_OPT, depth=32, width=2560, heads=32),
    "opt-6.7b": replace(_OPT, depth=32, width=4096, heads=32),
    "pythia-70m": replace(_PYTHIA, depth=6, width=512, heads=8),
    "pythia-160m": replace(_PYTHIA, depth=12, width=768, heads=12),
    "pythia-410m": replace(_PYTHIA, depth=24, width=1024, heads=16),
    "tinyllama-1.1b": replace(_LLAMA, depth=22, width=2048, heads=32, kv_heads=4, mlp_width=5632),
    "llama2-7b": replace(_LLAMA, context=4096, depth=32, width=4096, heads=32, mlp_width=11008),
    "llama3-8b": replace(
        _LLAMA,
        vocabulary=128256,
        context=8192,
        depth=32,
        width=4096,
        heads=32,
        kv_heads=8,
        mlp_width=14336,
        rope_base=500000.0,
    ),
    "bert-mini": replace(_BERT, depth=4, width=256, heads=4),
    "bert-small": replace(_BERT, depth=4, width=512, heads=8),
    "bert-base": replace(_BERT, depth=12, width=768, heads=12),
    "bert-crammed": replace(
        _BERT,
        vocabulary=32768,
        context=128,
        depth=16,
        width=768,
        heads=12,
        mlp_width=1536,
        norm_placement="before",
        final_norm=True,
        activation="geglu",
        attention_bias=False,
        output_bias=False,
        mlp_bias=False,
        head_transform=False,
        head_bias=False,
    ),
    "albert-base": replace(
        _BERT,
        vocabulary=30000,
        depth=12,
        width=768,
        heads=12,
        embedding_width=128,
        factorized=True,
        shared_blocks=1,
        activation="gelu_tanh",
    ),
    "modernbert-small": replace(_MODERNBERT, depth=8, width=384, heads=6, mlp_width=576, context=1024),
    "modernbert-base": replace(_MODERNBERT, depth=22, width=768, heads=12, mlp_width=1152),
    "mixtral-8x7b": replace(
        _LLAMA,
        context=32768,
        depth=32,
        width=4096,
        heads=32,
        kv_heads=8,
        mlp_width=14336,
        rope_base=1000000.0,
        experts=8,
    ),
    "t5-mini": replace(_T5, depth=4, width=384, heads=8, mlp_width=1536, output_scale=384**-0.5),
    "t5-small": replace(_T5, depth=6, width=512, heads=8, mlp_width=2048, output_scale=512**-0.5),
    "t5-base": replace(_T5, depth=12, width=768, heads=12, mlp_width=3072, output_scale=768**-0.5),
    "lavra-1m": DecoderSpec(depth=4, width=128, heads=2, vocabulary=4096),
    "lavra-3m": DecoderSpec(depth=5, width=192, heads=3, vocabulary=6144),
    "lavra-9m": DecoderSpec(depth=6, width=256, heads=4, vocabulary=8192),
    "lavra-30m": DecoderSpec(depth=8, width=512, heads=8, vocabulary=8192, context=512),
    "lavra-124m": DecoderSpec(depth=12, width=768, heads=12, vocabulary=32768, context=1024),
}
"""Specification of each preset by name. Presets called `lavra-…` are shapes of our own, and modernbert-small is a shape
of our own size; the others match the models whose names they bear, except that bert-crammed (Geiping and Goldstein
2022, arXiv 2212.14034) has learned positions in place of sinusoidal ones."""


def as_encoder(spec: DecoderSpec) -> DecoderSpec:
    """Return the encoder of the same size as a decoder of lavra's own.

    It has the parts of ModernBERT (Warner et al. 2024, arXiv 2412.13663), so that it can be exported as one: layer
    norms with gains and without biases, none before the first attention, and a transform before the head.

    Args:
        spec: Specification of a decoder of lavra's own shape.

    Examples:
        >>> as_encoder(DecoderSpec(depth=2)).architecture
        'encoder'
    """
    return replace(
        spec,
        architecture="encoder",
        norm="layernorm",
        norm_epsilon=1e-5,
        norm_weight=True,
        norm_bias=False,
        first_norm=False,
        activation="geglu",
        qk_norm=False,
        embedding_norm=True,
        embedding_norm_weight=True,
        head_transform=True,
        head_bias=True,
    )


def as_encoder_decoder(spec: DecoderSpec) -> DecoderSpec:
    """Return the encoder-decoder with about as many blocks in all as a decoder of lavra's own.

    It has the parts of T5 1.1 (Raffel et al. 2020, arXiv 1910.10683, and Shazeer 2020), so that it can be exported as
    one: relative positions, products that are not scaled, norms with gains, a gated MLP, and no biases.

    Args:
        spec: Specification of a decoder of lavra's own shape.

    Examples:
        >>> shape = as_encoder_decoder(DecoderSpec(depth=5))
        >>> shape.depth, shape.blocks_of_encoder
        (3, 3)
    """
    return replace(
        spec,
        architecture="encoder-decoder",
        depth=-(-spec.depth // 2),
        positions="relative",
        attention_scale=1.0,
        norm_weight=True,
        activation="geglu_tanh",
        qk_norm=False,
        embedding_norm=False,
    )


_OWN = ("lavra-", "modernbert-small", "bert-crammed", "t5-mini")
"""Beginnings of the names of presets whose vocabulary suits the text, because no tokenizer belongs to them."""


def named_architecture(name: str) -> Architecture | None:
    """Return what a preset is, or None where its name does not say: sizes alone, and shapes called `lavra-…`.

    Args:
        name: Name of the preset, or a shape as `preset` takes it.

    Examples:
        >>> named_architecture("bert-base"), named_architecture("gpt2-124m"), named_architecture("lavra-9m")
        ('encoder', 'decoder', None)
    """
    return PRESETS[name].architecture if name in PRESETS and not name.startswith("lavra-") else None


def named_vocabulary(name: str) -> int | None:
    """Return the vocabulary size that the name of a preset promises, or None where it promises none.

    A preset that bears the name of a real model has that model's vocabulary, because it would have another number of
    parameters without it; DEPTHxWIDTHxVOCABULARY states one. Shapes of our own take a size that suits the text.

    Args:
        name: Name of the preset, or a shape as `preset` takes it.

    Examples:
        >>> named_vocabulary("gpt2-124m"), named_vocabulary("8x512x32000"), named_vocabulary("lavra-9m")
        (50257, 32000, None)
    """
    if name in PRESETS:
        return None if name.startswith(_OWN) else PRESETS[name].vocabulary
    sizes = _SIZES.fullmatch(name)
    return int(sizes[3]) if sizes and sizes[3] else None


_SIZES = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")
"""DEPTHxWIDTH or DEPTHxWIDTHxVOCABULARY."""

_HEAD_WIDTH = 64  # of a shape that does not say how many heads it has


def preset(name: str) -> DecoderSpec:
    """Return the specification of a preset, or of a shape given by its sizes.

    Args:
        name: Name of the preset, such as "gpt2-124m"; or DEPTHxWIDTH or DEPTHxWIDTHxVOCABULARY, such as "8x512".

    Raises:
        InputError: If there is no such preset; the message suggests the most similar name.

    Examples:
        >>> preset("gpt2-124m").width
        768
        >>> shape = preset("8x512x32000")
        >>> shape.depth, shape.heads, shape.vocabulary
        (8, 8, 32000)
    """
    if name in PRESETS:
        return PRESETS[name]
    if sizes := _SIZES.fullmatch(name):
        depth, width = int(sizes[1]), int(sizes[2])
        heads = next(heads for heads in range(max(1, width // _HEAD_WIDTH), 0, -1) if width % heads == 0)
        spec = DecoderSpec(depth=depth, width=width, heads=heads)
        return replace(spec, vocabulary=int(sizes[3])) if sizes[3] else spec
    hint = did_you_mean(name, PRESETS)
    raise InputError(f"there is no model preset {name!r}", f"{hint}presets: {', '.join(PRESETS)}")
