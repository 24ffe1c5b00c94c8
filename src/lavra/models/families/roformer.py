"""RoFormer (Su et al. 2021, arXiv 2104.09864): BERT with rotary positions, whose table lies in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lavra.core.errors import InputError
from lavra.models.families.bert import BERT, BERT_PARTS, BLOCKS, ENCODER_ALONE, SIZES, TYPES
from lavra.models.families.family import Family, Names
from lavra.models.families.gpt2 import ACTIVATIONS
from lavra.models.families.layouts import QUERY_KEY_VALUE_IN_PAIRS, VOCABULARY, Layout
from lavra.models.families.rules import Choice, Config, Fixed, Only, Same, WholeHeads
from lavra.models.native.layers import rotary_table
from lavra.models.spec import DecoderSpec

_TABLE = "encoder.embed_positions.weight"
_ROPE = {"rope_base": 10000.0, "rope_scaling": 1.0, "rope_scaling_context": 0}
"""Our fields that decide about the table, with their values in the models of RoFormer's authors. `transformers` reads
the table itself, and the configuration names these fields for us alone."""


def _without_types(parts: list[torch.Tensor], spec: DecoderSpec) -> torch.Tensor:
    table, types = parts
    if types[0].any():  # added to the embedding, which is also the head, it would change the logits
        raise InputError(
            "the model adds an embedding of its kind of text to every token, which lavra's encoder does not",
            "train it as it is, without changing its positions",
        )
    return VOCABULARY.join([table], spec)


def _with_types(tensor: torch.Tensor, spec: DecoderSpec) -> list[torch.Tensor]:
    return [*VOCABULARY.part(tensor, spec), tensor.new_zeros(TYPES, tensor.shape[1])]


@dataclass(frozen=True)
class _Factorized:
    """The width of the embedding, which is projected where it is not that of the blocks."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        size = config.get("embedding_size") or fields["width"]
        if size != fields["width"]:
            fields.update(embedding_width=size, factorized=True)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the width."""
        config["embedding_size"] = spec.size_of_embedding


@dataclass(frozen=True)
class _Table:
    """What the table of rotary positions was made by."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        fields.update({name: config.get(f"lavra_{name}", usual) for name, usual in _ROPE.items()})

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write it where it is not what RoFormer's authors have."""
        found = {name: getattr(spec, name) for name in _ROPE}
        config.update({f"lavra_{name}": value for name, value in found.items() if value != _ROPE[name]})


def _constants(spec: DecoderSpec) -> dict[str, torch.Tensor]:
    cosines, sines = rotary_table(spec).chunk(2, -1)
    return {_TABLE: torch.cat((sines, cosines), -1)}


ROFORMER = Family(
    name="roformer",
    title="RoFormer",
    architecture="RoFormerForMaskedLM",
    prefix="roformer.",
    outside=("cls.",),
    head="cls.predictions.decoder",
    note=BERT.note,
    rules=(
        Fixed({**BERT_PARTS, "positions": "rope"}),
        *SIZES,
        *ENCODER_ALONE,
        _Factorized(),
        Same("context", "max_position_embeddings", 1536),
        Choice("activation", "hidden_act", {"gelu": "gelu", **ACTIVATIONS}, "gelu"),
        Only("type_vocab_size", TYPES),
        Only("rotary_value", False),
        WholeHeads(),
        _Table(),
    ),
    names=(
        Names(
            "embedding",
            ("embeddings.word_embeddings", "embeddings.token_type_embeddings"),
            Layout(_without_types, _with_types),
        ),
        Names("embedding_norm", ("embeddings.LayerNorm",)),
        Names("input_projection", ("embeddings_project",)),
        *(
            Names(line.ours, line.theirs, QUERY_KEY_VALUE_IN_PAIRS if line.ours.endswith(".qkv") else line.layout)
            for line in BLOCKS
        ),
        *(line for line in BERT.names if line.ours.startswith(("head_transform", "output"))),
    ),
    ignored=(_TABLE.replace(".", r"\."), r"cls\.predictions\.decoder\.bias"),
    constants=_constants,
)
