"""The specification of a model of lavra's own as plain values, which need no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lavra.config.choices import Activation, Architecture, Norm, NormPlacement, Positions
from lavra.core.errors import InputError
from lavra.models.spec_rules import refuse_impossible

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
        rope_local_base: Base of the rotary frequencies of the blocks with a window, which are then not slowed; 0 means
            that they rotate as the others do.
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
        own_norms: Whether each depth has norms of its own where blocks are shared (WideNet, Xue et al. 2021, arXiv
            2107.11817, which shares one block with experts).
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
        shared_gate: Whether a sigmoid of a linear layer weighs what the shared experts give to a token (Qwen2-MoE).
        expert_normalized: Whether the weights of a token's experts are made to add up to 1.
        balance_loss: Factor of the auxiliary loss that makes experts get as many tokens as each other.
        balance_bias: Whether a bias on the choice of experts learns to balance them (loss-free balancing).
        parallel: Whether attention and MLP read the same input and are added together (GPT-J, GPT-NeoX).
        attention_bias: Whether the query, key and value projections have biases.
        output_bias: Whether the output projection of attention has a bias.
        mlp_bias: Whether the matrices of the MLP have biases.
        qk_norm: Whether queries and keys are normalised per head before their product.
        qk_norm_weight: Whether these norms learn a gain (Qwen3).
        qk_norm_whole: Whether these norms are over all heads together and not over each (OLMoE).
        embedding_scale: Factor on the embeddings (√width in Gemma).
        embedding_norm: Whether embeddings are divided by their root mean square before the first block.
        embedding_norm_weight: Whether that norm is of the kind `norm` and learns a gain (BLOOM).
        embedding_width: Size of the rows of embedding and head where it is not `width`; two matrices without bias then
            project in and out (opt-350m). 0 means `width`.
        factorized: Whether positions and the norm of the embeddings stand at the width of the embedding, before a
            projection in with a bias, and the transform before the head goes back to that width (ALBERT).
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
    own_norms: bool = False
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
    shared_gate: bool = False
    expert_normalized: bool = True
    balance_loss: float = 0.0
    balance_bias: bool = False
    parallel: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = True
    qk_norm_weight: bool = False
    qk_norm_whole: bool = False
    embedding_scale: float = 1.0
    embedding_norm: bool = True
    embedding_norm_weight: bool = False
    embedding_width: int = 0
    factorized: bool = False
    bigram_embedding: int = 0
    ngram_copy: bool = False
    prefix_attention: bool = False
    silent: int = -1
    tied: bool = False
    dropout: float = 0.0
    initialization: Literal["gpt2", "zero_out"] = "zero_out"

    def __post_init__(self) -> None:
        refuse_impossible(self)

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
