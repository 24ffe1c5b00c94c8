"""ALBERT (Lan et al. 2019, arXiv 1909.11942): the blocks of BERT used again and again, and a factorised embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavra.models.families.bert import BERT, BERT_PARTS, POSITIONS_AND_TYPES, SIZES, TYPES, embeddings
from lavra.models.families.family import Family, Names
from lavra.models.families.gpt2 import ACTIVATIONS
from lavra.models.families.layouts import QUERY_KEY_VALUE, VOCABULARY
from lavra.models.families.rules import Choice, Config, Fixed, Only, Same, unsupported
from lavra.models.spec import DecoderSpec

_LAYER = "encoder.albert_layer_groups.0.albert_layers.{}"


@dataclass(frozen=True)
class _Group:
    """One group of blocks, each with weights of its own, that is used as often as the configuration has layers."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        if config.get("num_hidden_groups", 1) != 1:  # its groups follow each other, and ours alternate
            raise unsupported("num_hidden_groups", config["num_hidden_groups"])
        different = int(config.get("inner_group_num", 1))
        fields.update(shared_blocks=different, depth=different * int(config.get("num_hidden_layers", 12)))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write how many blocks there are, and how often they are used."""
        different = spec.shared_blocks or spec.depth
        config.update(num_hidden_groups=1, inner_group_num=different, num_hidden_layers=spec.depth // different)


ALBERT = Family(
    name="albert",
    title="ALBERT",
    architecture="AlbertForMaskedLM",
    prefix="albert.",
    outside=("predictions.",),
    head="predictions.decoder",
    note=BERT.note,
    rules=(
        Fixed({**BERT_PARTS, "factorized": True}),
        *SIZES,
        _Group(),
        Same("context", "max_position_embeddings", 512),
        Same("embedding_width", "embedding_size", 128),
        Choice("activation", "hidden_act", ACTIVATIONS, "gelu_new"),
        Only("type_vocab_size", TYPES),
    ),
    names=(
        *embeddings(POSITIONS_AND_TYPES),
        Names("input_projection", ("encoder.embedding_hidden_mapping_in",)),
        Names(
            "blocks.{}.attention.qkv",
            tuple(f"{_LAYER}.attention.{name}" for name in ("query", "key", "value")),
            QUERY_KEY_VALUE,
        ),
        Names("blocks.{}.attention.output", (f"{_LAYER}.attention.dense",)),
        Names("blocks.{}.attention_norm", (f"{_LAYER}.attention.LayerNorm",)),
        Names("blocks.{}.mlp.up", (f"{_LAYER}.ffn",)),
        Names("blocks.{}.mlp.down", (f"{_LAYER}.ffn_output",)),
        Names("blocks.{}.mlp_norm", (f"{_LAYER}.full_layer_layer_norm",)),
        Names("head_transform.linear", ("predictions.dense",)),
        Names("head_transform.norm", ("predictions.LayerNorm",)),
        Names("output.bias", ("predictions.bias",), VOCABULARY),
    ),
    ignored=(
        r"embeddings\.position_ids",
        r"pooler\.(weight|bias)",
        r"sop_classifier\.classifier\.(weight|bias)",
        r"predictions\.decoder\.bias",
    ),
)
