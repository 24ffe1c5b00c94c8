"""The specification of a decoder as plain values, which need no torch, and the shapes of well-known models by name."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lavra.config.choices import Activation, Norm, Positions
from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean

GATED: frozenset[str] = frozenset({"geglu", "swiglu"})
"""Activations with a gate, whose MLP has two matrices on its way in."""

VOCABULARY_MULTIPLE = 64
"""Rows of embedding and head are padded to a multiple of this number, because kernels are faster with round sizes."""


@dataclass(frozen=True)
class DecoderSpec:
    """The shape of a decoder-only transformer. The defaults are those of lavra's own small model.

    Attributes:
        vocabulary: Number of tokens that the model can predict. The matrices are padded to a multiple of 64 rows.
        context: Largest number of tokens of a sequence.
        depth: Number of blocks.
        width: Size of the residual stream.
        heads: Number of query heads.
        kv_heads: Number of key and value heads. As many as `heads` is ordinary attention, fewer is grouped-query and 1
            is multi-query attention. 0 means as many as `heads`.
        head_width: Size of one head; 0 means `width / heads`.
        positions: Position encoding: rotary (RoFormer), learned, ALiBi (Press et al. 2021) or none.
        rope_base: Base of the rotary frequencies.
        rope_fraction: Share of each head that is rotated (0.25 in GPT-NeoX).
        rope_scaling: Factor by which the rotation is slower than in training on shorter sequences; 1 changes nothing.
        rope_scaling_context: With 0 every frequency is slowed (linear scaling). Otherwise the rule of Llama 3 is used:
            wavelengths below a quarter of this many tokens are kept, those above it are slowed, and those in between
            are blended.
        norm: Layer norm or root-mean-square norm.
        norm_epsilon: Number added to the variance in each norm.
        norm_weight: Whether each norm learns a gain and, as a layer norm, a bias.
        norm_placement: Whether the norms stand before attention and MLP, or after each sum (as in the original
            transformer and in opt-350m).
        final_norm: Whether a last norm stands before the head.
        activation: Activation of the MLP; `geglu` and `swiglu` are gated.
        mlp_width: Hidden size of the MLP. 0 means 4 x width, or 8/3 x width (rounded up to a multiple of 64) for a
            gated MLP, which has about as many parameters.
        parallel: Whether attention and MLP read the same input and are added together (GPT-J, GPT-NeoX).
        attention_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the output projection of attention has a bias.
        mlp_bias: Whether the matrices of the MLP have biases.
        qk_norm: Whether queries and keys are normalised per head before their product.
        qk_norm_weight: Whether these norms learn a gain (Qwen3).
        embedding_norm: Whether embeddings are divided by their root mean square before the first block.
        embedding_norm_weight: Whether that norm is of the kind `norm` and learns a gain (BLOOM).
        embedding_width: Size of the rows of embedding and head where it is not `width`; two matrices without bias then
            project in and out (opt-350m). 0 means `width`.
        bigram_embedding: Rows of a hashed table of bigram embeddings. The row for a token and the token before it is
            added to the embedding of the token (`lavra.models.native.ngrams`). 0 means no table.
        ngram_copy: Whether each token also gets the head's rows of the tokens that followed its last occurrences in the
            document (n-gram copy, `lavra.models.native.ngrams`).
        prefix_attention: Whether the tokens of a prompt see each other in both directions, as in training with a
            bidirectional prefix (prefix language models).
        tied: Whether the head shares the weight of the embedding.
        dropout: Dropout probability on the embeddings, the attention weights and the outputs of both branches.
        initialization: `gpt2` draws weights with a standard deviation of 0.02 and scales the outputs of the branches by
            depth. With `zero_out` these outputs and the head are zero at first, so that the first loss is exactly ln V
            and the depth does not change the first gradients.

    Raises:
        InputError: If a value is out of range or two values contradict each other.

    Examples:
        >>> shape = DecoderSpec(vocabulary=1000, depth=2, width=64, heads=2)
        >>> shape.size_of_head, shape.hidden_width, shape.padded_vocabulary
        (32, 256, 1024)
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
    bigram_embedding: int = 0
    ngram_copy: bool = False
    prefix_attention: bool = False
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
        if self.bigram_embedding < 0:
            raise InputError(f"model.bigram_embedding is {self.bigram_embedding}; it must be at least 0")
        if self.ngram_copy and self.size_of_embedding != self.width:
            raise InputError(
                f"model.ngram_copy adds rows of the head, {self.size_of_embedding} wide, to a stream of {self.width}",
                "leave out model.embedding_width or model.ngram_copy",
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
        """Width of the rows of embedding and head, and therefore of the features."""
        return self.embedding_width or self.width

    @property
    def rotary_width(self) -> int:
        """Number of channels of a head that are rotated."""
        return int(self.size_of_head * self.rope_fraction)

    @property
    def hidden_width(self) -> int:
        """Hidden size of the MLP."""
        if self.mlp_width:
            return self.mlp_width
        return -(-8 * self.width // (3 * 64)) * 64 if self.activation in GATED else 4 * self.width

    @property
    def padded_vocabulary(self) -> int:
        """Number of rows of embedding and head, which is the vocabulary rounded up to a multiple of 64."""
        return -(-self.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON and TOML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecoderSpec:
        """Return a specification from plain values.

        Args:
            values: Values of some or all fields, by name.

        Raises:
            InputError: If a field is unknown or a value is out of range.

        Examples:
            >>> DecoderSpec.from_dict({"depth": 2}).depth
            2
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
"""Specification of each preset by name. Presets called `lavra-…` are shapes of our own; the others match the models
whose names they bear."""


_OWN = "lavra-"
"""Beginning of the names of presets that are shapes of our own, whose vocabulary suits the text."""


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
