"""BERT (Devlin et al. 2018): norms after each sum, learned positions, a transform before the tied head."""

from __future__ import annotations

import torch

from lavra.models.families.family import Family, Names
from lavra.models.families.gpt2 import ACTIVATIONS
from lavra.models.families.layouts import QUERY_KEY_VALUE, VOCABULARY, Layout
from lavra.models.families.rules import Choice, Dropout, Fixed, Only, Rule, Same
from lavra.models.spec import DecoderSpec


def _with_first_type(parts: list[torch.Tensor], spec: DecoderSpec) -> torch.Tensor:
    positions, types = parts
    return positions + types[0]


def _without_types(tensor: torch.Tensor, spec: DecoderSpec) -> list[torch.Tensor]:
    return [tensor, tensor.new_zeros(TYPES, tensor.shape[1])]


TYPES = 2
"""Number of token types of a BERT that is written: its two texts, of which ours knows only one."""

POSITIONS_AND_TYPES = Layout(_with_first_type, _without_types)
"""Learned positions, and the embeddings of token types, of which the first is added to every position."""

BERT_PARTS = {
    "architecture": "encoder",
    "positions": "learned",
    "norm": "layernorm",
    "norm_weight": True,
    "norm_placement": "after",
    "final_norm": False,
    "qk_norm": False,
    "embedding_norm": True,
    "embedding_norm_weight": True,
    "attention_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "head_transform": True,
    "head_bias": True,
    "tied": True,
}
"""What every BERT is made of, and the families that follow it."""

BLOCKS = (
    Names(
        "blocks.{}.attention.qkv",
        (
            "encoder.layer.{}.attention.self.query",
            "encoder.layer.{}.attention.self.key",
            "encoder.layer.{}.attention.self.value",
        ),
        QUERY_KEY_VALUE,
    ),
    Names("blocks.{}.attention.output", ("encoder.layer.{}.attention.output.dense",)),
    Names("blocks.{}.attention_norm", ("encoder.layer.{}.attention.output.LayerNorm",)),
    Names("blocks.{}.mlp.up", ("encoder.layer.{}.intermediate.dense",)),
    Names("blocks.{}.mlp.down", ("encoder.layer.{}.output.dense",)),
    Names("blocks.{}.mlp_norm", ("encoder.layer.{}.output.LayerNorm",)),
)
"""Names of the tensors of its blocks."""


def embeddings(positions_and_types: Layout) -> tuple[Names, ...]:
    """Return the names of the tensors of the embeddings, with the norm over their sum.

    Args:
        positions_and_types: How the table of positions and that of token types become the positions alone.
    """
    return (
        Names("embedding", ("embeddings.word_embeddings",), VOCABULARY),
        Names(
            "position_embedding",
            ("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
            positions_and_types,
        ),
        Names("embedding_norm", ("embeddings.LayerNorm",)),
    )


SIZES: tuple[Rule, ...] = (
    Same("vocabulary", "vocab_size"),
    Same("width", "hidden_size"),
    Same("heads", "num_attention_heads"),
    Same("mlp_width", "intermediate_size"),
    Same("norm_epsilon", "layer_norm_eps", 1e-12),
    Dropout(("hidden_dropout_prob", "attention_probs_dropout_prob")),
    Only("tie_word_embeddings", True),
)
"""What the configurations of all of them say under the same names."""

ENCODER_ALONE: tuple[Rule, ...] = (
    Same("depth", "num_hidden_layers"),
    Only("is_decoder", False),
    Only("add_cross_attention", False),
)
"""What those say whose blocks have weights of their own, and which could be decoders, too."""

BERT = Family(
    name="bert",
    title="BERT",
    architecture="BertForMaskedLM",
    prefix="bert.",
    outside=("cls.",),
    head="cls.predictions.decoder",
    note="its embedding of the second of two texts was left out: lavra's own encoder reads texts of one kind",
    rules=(
        Fixed(BERT_PARTS),
        *SIZES,
        *ENCODER_ALONE,
        Same("context", "max_position_embeddings", 512),
        Choice("activation", "hidden_act", {"gelu": "gelu", **ACTIVATIONS}, "gelu"),
        Only("type_vocab_size", TYPES),
    ),
    names=(
        *embeddings(POSITIONS_AND_TYPES),
        *BLOCKS,
        Names("head_transform.linear", ("cls.predictions.transform.dense",)),
        Names("head_transform.norm", ("cls.predictions.transform.LayerNorm",)),
        Names("output.bias", ("cls.predictions.bias",), VOCABULARY),
    ),
    ignored=(
        r"embeddings\.position_ids",
        r"pooler\.dense\.(weight|bias)",
        r"cls\.seq_relationship\.(weight|bias)",
        r"cls\.predictions\.decoder\.bias",
    ),
)
