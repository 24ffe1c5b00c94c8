"""One specification for every decoder, plain values imported without torch; and the field's shapes by name."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lavra.config.choices import Activation, Norm, Positions
from lavra.core.errors import InputError

GATED: frozenset[str] = frozenset({"geglu", "swiglu"})
VOCABULARY_MULTIPLE = 64


@dataclass(frozen=True)
class DecoderSpec:
    """The shape of a decoder-only transformer. The defaults are lavra's own small model.

    Attributes:
        vocabulary: token ids that the model can predict; the matrices are padded to a multiple of 64 rows.
        context: longest window in tokens.
        depth: number of blocks.
        width: size of the residual stream.
        heads: query heads.
        kv_heads: key and value heads: `heads` is ordinary attention, fewer is grouped-query, 1 is multi-query. 0
            means `heads`.
        head_width: size of one head; 0 means `width / heads`.
        positions: rotary (RoFormer), learned, ALiBi (Press et al. 2021) or none.
        rope_base: base of the rotary frequencies.
        rope_fraction: share of each head that is rotated (GPT-NeoX uses 0.25).
        rope_scaling: how many times slower the rotation is than in training on shorter windows; 1 is none.
        rope_scaling_context: 0: every frequency is slowed (linear scaling). More: Llama 3's rule, which keeps the waves
            shorter than a quarter of this many tokens, slows those longer than it, and blends those in between.
        norm: layer norm or root-mean-square norm.
        norm_placement: norms before attention and MLP, or after each sum (the original transformer; opt-350m).
        final_norm: a last norm before the head.
        norm_epsilon: added to the variance.
        norm_weight: learn a gain (and, for layer norm, a bias) in each norm.
        activation: of the MLP; `geglu` and `swiglu` are gated.
        mlp_width: hidden size of the MLP; 0 means 4 x width, or 8/3 x width (rounded up to 64) when gated, which
            costs the same.
        parallel: attention and MLP read the same input and are added together (GPT-J, GPT-NeoX).
        attention_bias: biases in the query, key and value projections.
        output_bias: bias in the attention's output projection.
        mlp_bias: biases in the MLP.
        qk_norm: normalise queries and keys per head before the product.
        qk_norm_weight: learn a gain in those norms (Qwen3).
        embedding_norm: normalise the embeddings before the first block, by their root mean square.
        embedding_norm_weight: that norm is of the model's kind `norm` and learns a gain (BLOOM).
        embedding_width: size of the embedding's and the head's rows where it is not `width`; two matrices without bias
            lead in and out (opt-350m). 0 means `width`.
        pairs: rows of a table of pairs of tokens, whose row for a token and the one before it is added to the token's
            embedding (`lavra.models.native.ngrams`); 0 is none.
        recall: add to each token what followed when it last occurred in the document (`lavra.models.native.ngrams`).
        tied: the head is the embedding.
        dropout: on embeddings, attention weights and both branches.
        initialization: `gpt2` (normal 0.02, outputs scaled by depth), or `zero_out` (outputs and head start at zero, so
            the first loss is exactly ln V and depth does not change the early signal).
    """

    vocabulary: int = 8192
    context: int = 256
    depth: int = 6
    width: int = 256
    heads: int = 4
    kv_heads: int = 0
    head_width: int = 0
    positions: Positions = "rope"
    rope_base: float = 10000.0
    rope_fraction: float = 1.0
    rope_scaling: float = 1.0
    rope_scaling_context: int = 0
    norm: Norm = "rmsnorm"
    norm_epsilon: float = 1e-6
    norm_weight: bool = False
    norm_placement: Literal["before", "after"] = "before"
    final_norm: bool = True
    activation: Activation = "relu2"
    mlp_width: int = 0
    parallel: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = True
    qk_norm_weight: bool = False
    embedding_norm: bool = True
    embedding_norm_weight: bool = False
    embedding_width: int = 0
    pairs: int = 0
    recall: bool = False
    tied: bool = False
    dropout: float = 0.0
    initialization: Literal["gpt2", "zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "depth", "width", "heads"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        if not self.head_width and self.width % self.heads:
            raise InputError(
                f"model.width {self.width} is not divisible by model.heads {self.heads}",
                "choose a width that is a multiple of the number of heads, or set model.head_width",
            )
        if self.pairs < 0:
            raise InputError(f"model.pairs is {self.pairs}; it must be at least 0")
        if self.recall and self.size_of_embedding != self.width:
            raise InputError(
                f"model.recall adds rows of the head, {self.size_of_embedding} wide, to a stream of {self.width}",
                "leave out model.embedding_width or model.recall",
            )
        if self.heads % self.key_value_heads:
            raise InputError(
                f"model.heads {self.heads} is not a multiple of model.kv_heads {self.kv_heads}",
                "each key and value head serves the same number of query heads",
            )
        if self.positions == "rope" and self.rotary_width % 2:
            raise InputError(
                f"the rotated part of a head is {self.rotary_width} wide; rotary positions need an even width",
                "change model.heads, model.head_width or model.rope_fraction",
            )
        if self.parallel and self.norm_placement == "after":
            raise InputError(
                "model.parallel needs model.norm_placement before",
                "branches in parallel read one normalised input; choose one of the two",
            )
        if self.rope_scaling < 1.0:
            raise InputError(f"model.rope_scaling is {self.rope_scaling}; it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")

    @property
    def key_value_heads(self) -> int:
        """Number of key and value heads."""
        return self.kv_heads or self.heads

    @property
    def size_of_head(self) -> int:
        """Width of one attention head."""
        return self.head_width or self.width // self.heads

    @property
    def size_of_embedding(self) -> int:
        """Width of a row of the embedding and of the head, which is that of the features."""
        return self.embedding_width or self.width

    @property
    def rotary_width(self) -> int:
        """How many of a head's channels are rotated."""
        return int(self.size_of_head * self.rope_fraction)

    @property
    def hidden_width(self) -> int:
        """Hidden size of the MLP."""
        if self.mlp_width:
            return self.mlp_width
        return -(-8 * self.width // (3 * 64)) * 64 if self.activation in GATED else 4 * self.width

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the embedding and of the head: the vocabulary rounded up to a multiple of 64."""
        return -(-self.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecoderSpec:
        """Make a specification from plain values.

        Raises:
            InputError: for an unknown field or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"unknown field of a model: {', '.join(unknown)}", f"known fields: {', '.join(sorted(known))}"
            )
        return cls(**values)


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
