"""Shapes by name: exactly the field's models, trained from scratch here or loaded from their weights."""

from __future__ import annotations

import difflib
from dataclasses import replace

from lavra.core.errors import InputError
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
    "lavra-1m": DecoderSpec(depth=4, width=128, heads=2, vocabulary=4096),
    "lavra-3m": DecoderSpec(depth=5, width=192, heads=3, vocabulary=6144),
    "lavra-9m": DecoderSpec(depth=6, width=256, heads=4, vocabulary=8192),
    "lavra-30m": DecoderSpec(depth=8, width=512, heads=8, vocabulary=8192, context=512),
    "lavra-124m": DecoderSpec(depth=12, width=768, heads=12, vocabulary=32768, context=1024),
}
"""Preset name → specification. `lavra-…` are this project's own modern shapes; the others match their namesakes."""


def preset(name: str) -> DecoderSpec:
    """Return the specification called `name`.

    Raises:
        InputError: if there is none, naming the nearest.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"there is no model preset {name!r}", f"{hint}presets: {', '.join(PRESETS)}")
