"""RoBERTa (Liu et al. 2019) and its kin: BERT with positions that begin after the padding token, and another head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lavra.models.families.bert import BERT_PARTS, BLOCKS, ENCODER_ALONE, SIZES, embeddings
from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import VOCABULARY, Layout
from lavra.models.families.rules import Choice, Config, Fixed, Rule, unsupported
from lavra.models.spec import DecoderSpec

_FIRST = 2
"""Row of the table of positions that the first token of a text has: the one after that of the padding token, which is
token 1."""


def _with_first_type(parts: list[torch.Tensor], spec: DecoderSpec) -> torch.Tensor:
    positions, types = parts
    return positions[_FIRST:] + types[0]


def _without_types(tensor: torch.Tensor, spec: DecoderSpec) -> list[torch.Tensor]:
    return [torch.cat((tensor.new_zeros(_FIRST, tensor.shape[1]), tensor)), tensor.new_zeros(1, tensor.shape[1])]


POSITIONS_AND_TYPES = Layout(_with_first_type, _without_types)
"""Learned positions after two rows for padding, and the embeddings of token types, of which the first is added."""


@dataclass(frozen=True)
class _AfterPadding:
    """The number of positions, two of which no token has, and the padding token from which they are counted."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        padding = config.get("pad_token_id", _FIRST - 1)
        if padding != _FIRST - 1:
            raise unsupported("pad_token_id", padding)
        fields["context"] = config.get("max_position_embeddings", 512) - _FIRST

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the number of positions, and one token type."""
        config.update(max_position_embeddings=spec.context + _FIRST, pad_token_id=_FIRST - 1, type_vocab_size=1)


_RULES: tuple[Rule, ...] = (
    Fixed(BERT_PARTS),
    *SIZES,
    *ENCODER_ALONE,
    _AfterPadding(),
    Choice("activation", "hidden_act", {"gelu": "gelu"}, "gelu"),  # that of the head is always GELU
)

ROBERTA = Family(
    name="roberta",
    title="RoBERTa",
    architecture="RobertaForMaskedLM",
    prefix="roberta.",
    outside=("lm_head.",),
    head="lm_head.decoder",
    rules=_RULES,
    names=(
        *embeddings(POSITIONS_AND_TYPES),
        *BLOCKS,
        Names("head_transform.linear", ("lm_head.dense",)),
        Names("head_transform.norm", ("lm_head.layer_norm",)),
        Names("output.bias", ("lm_head.bias",), VOCABULARY),
    ),
    ignored=(r"embeddings\.position_ids", r"pooler\.dense\.(weight|bias)", r"lm_head\.decoder\.bias"),
)

XLM_ROBERTA = replace(ROBERTA, name="xlm-roberta", title="XLM-RoBERTa", architecture="XLMRobertaForMaskedLM")

CAMEMBERT = replace(ROBERTA, name="camembert", title="CamemBERT", architecture="CamembertForMaskedLM")
