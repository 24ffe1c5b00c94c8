"""T5 (Raffel et al. 2020) and T5 1.1: relative positions, products that are not scaled, no biases, two stacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import GATED, KEY_VALUE, QUERY_KEY_VALUE, VOCABULARY
from lavra.models.families.rules import Choice, Config, Dropout, Fixed, Only, Rule, Same
from lavra.models.spec import GATED as GATED_ACTIVATIONS
from lavra.models.spec import DecoderSpec


@dataclass(frozen=True)
class _Depths:
    """The numbers of blocks of the encoder and of the decoder."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        encoder = int(config["num_layers"])
        decoder = int(config.get("num_decoder_layers") or encoder)
        fields.update(depth=decoder, encoder_depth=0 if encoder == decoder else encoder)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write both."""
        config.update(num_layers=spec.blocks_of_encoder or spec.depth, num_decoder_layers=spec.depth)


@dataclass(frozen=True)
class _ScaledOutput:
    """The factor before the head, which the first T5 has and T5 1.1 has not, and whether the head is tied.

    Where no key says so, the factor is there if the head is tied. `transformers` 5 writes that heads are tied in any
    case; whether they are is decided by the tensors, as everywhere.
    """

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        tied = config.get("tie_word_embeddings") is not False
        scaled = bool(config.get("scale_decoder_outputs", tied))
        fields.update(tied=tied, output_scale=int(fields["width"]) ** -0.5 if scaled else 1.0)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write both."""
        config.update(tie_word_embeddings=spec.tied, scale_decoder_outputs=spec.output_scale != 1.0)


_PROJECTIONS = {"relu": "relu", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu", "gelu": "gelu"}


def _gated(spec: DecoderSpec) -> bool:
    return spec.activation in GATED_ACTIVATIONS


def _stack(ours: str, theirs: str, mlp: int) -> Iterator[Names]:
    """Yield the names of the tensors of a stack, whose blocks have the MLP as their layer of number `mlp`."""
    blocks, layers = f"{ours}blocks.{{}}", f"{theirs}.block.{{}}.layer"
    attention = f"{layers}.0.SelfAttention"
    bias = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias"
    yield Names(f"{ours}relative.embedding", (bias,))
    yield Names(f"{blocks}.attention_norm", (f"{layers}.0.layer_norm",))
    yield Names(f"{blocks}.attention.qkv", tuple(f"{attention}.{part}" for part in "qkv"), QUERY_KEY_VALUE)
    yield Names(f"{blocks}.attention.output", (f"{attention}.o",))
    yield Names(f"{blocks}.mlp_norm", (f"{layers}.{mlp}.layer_norm",))
    dense = f"{layers}.{mlp}.DenseReluDense"
    yield Names(f"{blocks}.mlp.up", (f"{dense}.wi",), when=lambda spec: not _gated(spec))
    yield Names(f"{blocks}.mlp.up", (f"{dense}.wi_0", f"{dense}.wi_1"), GATED, when=_gated)
    yield Names(f"{blocks}.mlp.down", (f"{dense}.wo",))
    yield Names(f"{ours}final_norm", (f"{theirs}.final_layer_norm",))


_CROSS = "decoder.block.{}.layer.1"

_RULES: tuple[Rule, ...] = (
    Fixed(
        {
            "architecture": "encoder-decoder",
            "positions": "relative",
            "attention_scale": 1.0,
            "norm": "rmsnorm",
            "norm_weight": True,
            "qk_norm": False,
            "embedding_norm": False,
        }
    ),
    Same("vocabulary", "vocab_size"),
    Same("context", "n_positions", 512),
    Same("width", "d_model"),
    _Depths(),
    Same("heads", "num_heads"),
    Same("head_width", "d_kv"),
    Same("mlp_width", "d_ff"),
    Same("norm_epsilon", "layer_norm_epsilon", 1e-6),
    Same("relative_buckets", "relative_attention_num_buckets", 32),
    Same("relative_distance", "relative_attention_max_distance", 128),
    Same("decoder_start", "decoder_start_token_id", 0),
    Choice("activation", "feed_forward_proj", _PROJECTIONS, "relu"),
    _ScaledOutput(),
    Dropout(("dropout_rate",)),
    Only("is_encoder_decoder", True),
)

T5 = Family(
    name="t5",
    title="T5",
    architecture="T5ForConditionalGeneration",
    prefix="",
    rules=_RULES,
    names=(
        Names("embedding", ("shared",), VOCABULARY),
        *_stack("", "decoder", 2),
        *_stack("encoder.", "encoder", 1),
        Names("blocks.{}.cross_norm", (f"{_CROSS}.layer_norm",)),
        Names("blocks.{}.cross.query", (f"{_CROSS}.EncDecAttention.q",)),
        Names("blocks.{}.cross.key_value", (f"{_CROSS}.EncDecAttention.k", f"{_CROSS}.EncDecAttention.v"), KEY_VALUE),
        Names("blocks.{}.cross.output", (f"{_CROSS}.EncDecAttention.o",)),
        Names("output", ("lm_head",), VOCABULARY),
    ),
    ignored=(
        r"(encoder|decoder)\.embed_tokens\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
)
