"""The specification of a model of lavra's own as plain values, which need no torch, and well-known shapes by name."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lavra.config.choices import Activation, Architecture, Norm, NormPlacement, Positions
from lavra.core.errors import InputError
from lavra.core.nearest import did_you_mean

GATED: frozenset[str] = frozenset({"geglu", "geglu_tanh", "swiglu"})
"""Activations with a gate, whose MLP has two matrices on its way in."""

VOCABULARY_MULTIPLE = 64
"""Rows of embedding and head are padded to a multiple of this number, because kernels are faster with round sizes."""


@dataclass(frozen=True)
class DecoderSpec:
    """The shape of a transformer: a decoder or, of the same blocks, an encoder or an encoder-decoder. The defaults are
    those of lavra's own small decoder.

    Attributes:
        architecture: Whether a token sees only the tokens before it (decoder) or those on both sides (encoder); or
            whether a decoder also attends to what an encoder made of a source (encoder-decoder).
        vocabulary: Number of tokens that the model can predict. The matrices are padded to a multiple of 64 rows.
        context: Largest number of tokens of a sequence.
        depth: Number of blocks; those of the decoder in an encoder-decoder. An encoder of none is a table of static
            vectors, whose features are the vectors of the tokens.
        encoder_depth: Number of blocks of the encoder in an encoder-decoder; 0 means as many as the decoder has.
        decoder_start: Id of the token with which the decoder of an encoder-decoder begins.
        width: Size of the residual stream.
        heads: Number of query heads.
        kv_heads: Number of key and value heads. As many as `heads` is ordinary attention, fewer is grouped-query and 1
            is multi-query attention. 0 means as many as `heads`.
        head_width: Size of one head; 0 means `width / heads`.
        positions: Position encoding: rotary (RoFormer), learned, ALiBi (Press et al. 2021), a learned bias for each
            bucket of distances (relative, T5) or none.
        relative_buckets: Number of buckets of relative positions.
        relative_distance: Distance from which on relative positions share the last bucket.
        attention_cap: Bound of the attention scores, which become cap · tanh(scores / cap); 0 sets none.
        attention_scale: Factor on the product of queries and keys; 0 means 1 / √head width. T5 has 1.
        rope_base: Base of the rotary frequencies.
        rope_fraction: Share of each head that is rotated (0.25 in GPT-NeoX).
        rope_scaling: Factor by which the rotation is slower than in training on shorter sequences; 1 changes nothing.
        rope_scaling_context: With 0 every frequency is slowed (linear scaling). Otherwise the rule of Llama 3 is used:
            wavelengths below a quarter of this many tokens are kept, those above it are slowed, and those in between
            are blended.
        rope_local_base: Base of the rotary frequencies of the blocks with a window; 0 means `rope_base`.
        window: Largest distance in tokens between a token and one that it sees, in the blocks with a window; 0 sets no
            limit. A decoder's token then sees `window` tokens before it and itself, and an encoder's also `window`
            tokens after it.
        global_every: Number n such that every n-th block has no window; 0 means that all have the window.
        global_first: Number of the first block without a window, counted from 0 and below `global_every`.
        norm: Layer norm or root-mean-square norm.
        norm_epsilon: Number added to the variance in each norm.
        norm_weight: Whether each norm learns a gain and, as a layer norm, a bias.
        norm_bias: Whether layer norms that learn a gain have a bias too (not in ModernBERT).
        first_norm: Whether a norm stands before the attention of the first block. It is superfluous where the
            embeddings are normalised (ModernBERT).
        norm_placement: Whether the norms stand before attention and MLP, after each sum (as in the original
            transformer and in opt-350m), or before and after attention and MLP (both: the sandwich norm of Gemma 2).
        deepnorm: Whether the residual stream is multiplied by a constant before each sum, and the weights begin smaller
            by another (DeepNorm, Wang et al. 2022, arXiv 2203.00555), for deep models with norms after each sum.
        normformer: Whether each head has a learned factor, a norm stands after attention, and one inside the MLP before
            its last matrix (NormFormer, Shleifer et al. 2021, arXiv 2110.09456).
        value_residual: Whether each block but the first mixes its values with those of the first, by two learned
            factors that begin at a half (Zhou et al. 2024, arXiv 2410.17897).
        shared_blocks: Number of different blocks, which are used again and again in turn (ALBERT, Lan et al. 2019,
            arXiv 1909.11942, has 1); 0 means that all are different.
        final_norm: Whether a last norm stands before the head.
        head_transform: Whether a linear layer, the activation without its gate and a norm stand before the head, for
            predicting tokens alone (BERT, ModernBERT).
        head_bias: Whether the head has a bias for each token.
        logit_cap: Bound of the logits, which become cap · tanh(logits / cap); 0 sets none.
        output_scale: Factor on the hidden states before the head (1 / √width in the first T5).
        activation: Activation of the MLP; `geglu` and `swiglu` are gated.
        mlp_width: Hidden size of the MLP. 0 means 4 x width, or 8/3 x width (rounded up to a multiple of 64) for a
            gated MLP, which has about as many parameters.
        experts: Number of MLPs of each block, of which a router chooses some for each token (mixture of experts); 0
            means one MLP for all tokens.
        experts_per_token: Number of experts that each token gets.
        shared_experts: Number of further experts that every token gets (DeepSeekMoE, Dai et al. 2024, arXiv
            2401.06066).
        expert_normalized: Whether the weights of a token's experts are made to add up to 1.
        balance_loss: Factor of the auxiliary loss that makes experts get as many tokens as each other.
        balance_bias: Whether a bias on the choice of experts learns to balance them (loss-free balancing).
        parallel: Whether attention and MLP read the same input and are added together (GPT-J, GPT-NeoX).
        attention_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the output projection of attention has a bias.
        mlp_bias: Whether the matrices of the MLP have biases.
        qk_norm: Whether queries and keys are normalised per head before their product.
        qk_norm_weight: Whether these norms learn a gain (Qwen3).
        embedding_scale: Factor on the embeddings (√width in Gemma).
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
        silent: Id of a token whose embedding stays as it is, such as zero for the end of a text among static vectors;
            -1 for none.
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

    architecture: Architecture = "decoder"
    vocabulary: int = 8192
    context: int = 256
    depth: int = 6
    encoder_depth: int = 0
    decoder_start: int = 0
    width: int = 256
    heads: int = 4
    kv_heads: int = 0
    head_width: int = 0
    positions: Positions = "rope"
    relative_buckets: int = 32
    relative_distance: int = 128
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    rope_base: float = 10000.0
    rope_fraction: float = 1.0
    rope_scaling: float = 1.0
    rope_scaling_context: int = 0
    rope_local_base: float = 0.0
    window: int = 0
    global_every: int = 0
    global_first: int = 0
    norm: Norm = "rmsnorm"
    norm_epsilon: float = 1e-6
    norm_weight: bool = False
    norm_bias: bool = True
    first_norm: bool = True
    norm_placement: NormPlacement = "before"
    deepnorm: bool = False
    normformer: bool = False
    value_residual: bool = False
    shared_blocks: int = 0
    final_norm: bool = True
    head_transform: bool = False
    head_bias: bool = False
    output_scale: float = 1.0
    logit_cap: float = 0.0
    activation: Activation = "relu2"
    mlp_width: int = 0
    experts: int = 0
    experts_per_token: int = 2
    shared_experts: int = 0
    expert_normalized: bool = True
    balance_loss: float = 0.0
    balance_bias: bool = False
    parallel: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = True
    qk_norm_weight: bool = False
    embedding_scale: float = 1.0
    embedding_norm: bool = True
    embedding_norm_weight: bool = False
    embedding_width: int = 0
    bigram_embedding: int = 0
    ngram_copy: bool = False
    prefix_attention: bool = False
    silent: int = -1
    tied: bool = False
    dropout: float = 0.0
    initialization: Literal["gpt2", "zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "depth", "width", "heads"):
            least = 0 if name == "depth" and self.architecture == "encoder" else 1
            if getattr(self, name) < least:
                raise InputError(f"model.{name} is {getattr(self, name)}; it must be at least {least}")
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
        if (self.parallel or self.normformer) and self.norm_placement != "before":
            raise InputError(
                f"model.{'parallel' if self.parallel else 'normformer'} needs model.norm_placement before",
                "branches in parallel read one normalised input, and NormFormer has norms of its own; choose one",
            )
        if self.deepnorm and self.norm_placement != "after":
            raise InputError("model.deepnorm needs model.norm_placement after", "choose both, or neither")
        if self.value_residual and self.shared_blocks:
            raise InputError(
                "model.value_residual mixes the values of different blocks, and model.shared_blocks makes them one",
                "choose one of them",
            )
        if min(self.attention_cap, self.logit_cap, self.shared_blocks) < 0 or self.shared_blocks > self.depth:
            raise InputError(
                f"model.attention_cap {self.attention_cap}, model.logit_cap {self.logit_cap} and model.shared_blocks "
                f"{self.shared_blocks} must be at least 0, and the last at most model.depth"
            )
        if self.window < 0 or self.rope_local_base < 0 or not 0 <= self.global_first < max(1, self.global_every):
            raise InputError(
                f"model.window {self.window}, model.rope_local_base {self.rope_local_base}, model.global_every "
                f"{self.global_every} and model.global_first {self.global_first} do not fit together",
                "none may be negative, and model.global_first must be below model.global_every",
            )
        if not self.first_norm and (self.parallel or self.norm_placement == "after" or self.shared_blocks):
            raise InputError(
                "model.first_norm can be left out only where norms stand before branches that follow each other",
                "keep model.first_norm, or leave out model.parallel, model.norm_placement and model.shared_blocks",
            )
        self._refuse_what_is_for_decoders()
        self._refuse_impossible_experts()
        if self.relative_buckets < 4 or self.relative_distance <= self.relative_buckets:
            raise InputError(
                f"model.relative_distance {self.relative_distance} must be above model.relative_buckets "
                f"{self.relative_buckets}, which must be at least 4"
            )
        if self.rope_scaling < 1.0:
            raise InputError(f"model.rope_scaling is {self.rope_scaling}; it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")

    def _refuse_impossible_experts(self) -> None:
        if min(self.experts, self.shared_experts, self.balance_loss) < 0:
            raise InputError("model.experts, model.shared_experts and model.balance_loss must be at least 0")
        if not self.experts:
            if self.shared_experts or self.balance_loss or self.balance_bias:
                raise InputError(
                    "model.shared_experts, model.balance_loss and model.balance_bias are for a mixture of experts",
                    "set model.experts, or leave them out",
                )
            return
        if not 1 <= self.experts_per_token <= self.experts:
            raise InputError(
                f"model.experts_per_token is {self.experts_per_token}; it must be at least 1, and at most "
                f"model.experts, {self.experts}"
            )
        if self.experts_per_token == 1 < self.experts and self.expert_normalized:
            raise InputError(
                "the router of one expert for each token learns nothing where its weight is always 1",
                "set model.no-expert-normalized, or model.experts_per_token 2",
            )
        if self.balance_bias and self.experts_per_token == self.experts:
            raise InputError("model.balance_bias changes nothing where every token gets every expert", "leave it out")

    def _refuse_what_is_for_decoders(self) -> None:
        if self.architecture != "decoder" and self.ngram_copy:
            raise InputError(
                "model.ngram_copy is for decoders: it looks up what followed a token", f"no {self.architecture} has it"
            )
        lacking = {
            "positions learned": self.positions == "learned",
            "window": bool(self.window),
            "parallel": self.parallel,
            "norm_placement both": self.norm_placement == "both",
            "normformer": self.normformer,
            "deepnorm": self.deepnorm,
            "value_residual": self.value_residual,
            "shared_blocks": bool(self.shared_blocks),
            "bigram_embedding": bool(self.bigram_embedding),
        }
        if self.architecture == "encoder-decoder" and any(lacking.values()):
            name = next(name for name, given in lacking.items() if given)
            raise InputError(f"an encoder-decoder has no model.{name}", "leave it out, or choose another architecture")

    @property
    def causal(self) -> bool:
        """Whether a token sees only the tokens before it, as those that a model writes do."""
        return self.architecture != "encoder"

    @property
    def blocks_of_encoder(self) -> int:
        """Number of blocks of the encoder of an encoder-decoder; 0 for other architectures."""
        return (self.encoder_depth or self.depth) if self.architecture == "encoder-decoder" else 0

    def of_encoder(self) -> DecoderSpec:
        """Return the specification of the blocks of the encoder of an encoder-decoder."""
        return replace(self, architecture="encoder", depth=self.blocks_of_encoder, encoder_depth=0)

    def is_local(self, number: int) -> bool:
        """Return whether a block attends within the window alone.

        Args:
            number: Number of the block, counted from 0.

        Examples:
            >>> spec = DecoderSpec(window=64, global_every=3)
            >>> [spec.is_local(number) for number in range(4)]
            [False, True, True, False]
        """
        if not self.window:
            return False
        return not self.global_every or number % self.global_every != self.global_first

    @property
    def residual_scale(self) -> float:
        """Factor on the residual stream before each sum: (2 · depth)^¼ with DeepNorm, and 1 without."""
        return (2.0 * self.depth) ** 0.25 if self.deepnorm else 1.0

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
