"""ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary positions, GeGLU, windows in two of three blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavra.models.families.family import Family, Names
from lavra.models.families.layouts import SAME, VOCABULARY
from lavra.models.families.rules import (
    Choice,
    Config,
    Dropout,
    Fixed,
    Rule,
    Same,
    Switch,
    WholeHeads,
    read_scaling,
    unsupported,
    write_scaling,
)
from lavra.models.spec import DecoderSpec

_EVERY, _LOCAL, _BASES = 3, 128, {"full_attention": 160000.0, "sliding_attention": 10000.0}
"""What ModernBERT has where its configuration says nothing: every how many blocks one has no window, the tokens of the
window of the others on both sides together, and the bases of the rotary frequencies of both kinds of blocks."""

_OLD_KEYS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


@dataclass(frozen=True)
class _Windows:
    """Which blocks see all of the text and which only a window, and the bases of the rotary frequencies of both."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        depth = int(fields["depth"])
        every = int(config.get("global_attn_every_n_layers") or _EVERY)
        usual = ["sliding_attention" if number % every else "full_attention" for number in range(depth)]
        kinds = config.get("layer_types") or usual
        bases = {kind: _base_of(config, kind) for kind in _BASES}
        scaling, of_windows = (_scaling_of(config, kind) for kind in _BASES)
        fields.update(positions="rope", rope_base=bases["full_attention"], **scaling)
        if "sliding_attention" not in kinds:
            return
        window = int(config.get("local_attention") or _LOCAL) // 2
        whole = [number for number, kind in enumerate(kinds) if kind == "full_attention"]
        local = bases["sliding_attention"]
        same = (local, of_windows) == (bases["full_attention"], scaling)
        if of_windows and not same:
            raise unsupported("rope_parameters", config.get("rope_parameters"))
        fields.update(window=window, rope_local_base=0.0 if same else local)
        if whole:
            every = whole[1] - whole[0] if len(whole) > 1 else max(depth, whole[0] + 1)
            fields.update(global_every=every, global_first=whole[0])
        told = DecoderSpec(depth=depth, **{name: fields[name] for name in _PATTERN if name in fields})
        if list(kinds) != _kinds_of(told):
            raise unsupported("layer_types", kinds)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the kind of every block, and the settings of both kinds."""
        config["layer_types"] = _kinds_of(spec)
        config["local_attention"] = 2 * (spec.window or _LOCAL // 2)
        bases = {"full_attention": spec.rope_base, "sliding_attention": spec.rope_local_base or spec.rope_base}
        plain = {"rope_type": "default"}
        scaling = write_scaling(spec) or plain
        scalings = {"full_attention": scaling, "sliding_attention": plain if spec.rope_local_base else scaling}
        config["rope_parameters"] = {kind: {**scalings[kind], "rope_theta": base} for kind, base in bases.items()}
        config.update({_OLD_KEYS[kind]: base for kind, base in bases.items()})  # for programs that read no newer form


_PATTERN = ("window", "global_every", "global_first")


def _kinds_of(spec: DecoderSpec) -> list[str]:
    """Return the name of each block's attention in the family."""
    return ["sliding_attention" if spec.is_local(number) else "full_attention" for number in range(spec.depth)]


def _base_of(config: Config, kind: str) -> float:
    """Return the base of the rotary frequencies of a kind of blocks."""
    found = (config.get("rope_parameters") or {}).get(kind) or {}
    return float(found.get("rope_theta") or config.get(_OLD_KEYS[kind]) or _BASES[kind])


def _scaling_of(config: Config, kind: str) -> dict[str, Any]:
    """Return our fields for the scaling of the rotary frequencies of a kind of blocks."""
    if config.get("rope_scaling"):
        raise unsupported("rope_scaling", config.get("rope_scaling"))
    return read_scaling((config.get("rope_parameters") or {}).get(kind) or {}, config.get("max_position_embeddings"))


@dataclass(frozen=True)
class _OfHead:
    """The transform before the head, whose activation and bias are those of the MLP in our encoder."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        usual = {"geglu": "gelu", "swiglu": "silu"}[fields["activation"]]
        if config.get("classifier_activation", "gelu") != usual:
            raise unsupported("classifier_activation", config.get("classifier_activation"))
        if bool(config.get("classifier_bias", False)) != fields["mlp_bias"]:
            raise unsupported("classifier_bias", config.get("classifier_bias"))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write what the MLP has."""
        config.update(classifier_activation=config["hidden_activation"], classifier_bias=config["mlp_bias"])


_RULES: tuple[Rule, ...] = (
    Fixed(
        {
            "architecture": "encoder",
            "norm": "layernorm",
            "norm_weight": True,
            "first_norm": False,
            "qk_norm": False,
            "embedding_norm": True,
            "embedding_norm_weight": True,
            "head_transform": True,
        }
    ),
    Same("vocabulary", "vocab_size"),
    Same("context", "max_position_embeddings", 8192),
    Same("width", "hidden_size"),
    Same("depth", "num_hidden_layers"),
    Same("heads", "num_attention_heads"),
    Same("mlp_width", "intermediate_size"),
    Same("norm_epsilon", "norm_eps", 1e-5),
    Choice("activation", "hidden_activation", {"gelu": "geglu", "silu": "swiglu"}, "gelu"),
    Same("tied", "tie_word_embeddings", True),
    Switch(("attention_bias", "output_bias"), "attention_bias", False),
    Switch(("mlp_bias",), "mlp_bias", False),
    Switch(("norm_bias",), "norm_bias", False),
    Switch(("head_bias",), "decoder_bias", True),
    _OfHead(),
    _Windows(),
    WholeHeads(),
    Dropout(("attention_dropout", "embedding_dropout", "mlp_dropout")),
)

MODERNBERT = Family(
    name="modernbert",
    title="ModernBERT",
    architecture="ModernBertForMaskedLM",
    prefix="model.",
    outside=("head.",),
    head="decoder",
    rules=_RULES,
    names=(
        Names("embedding", ("embeddings.tok_embeddings",), VOCABULARY),
        Names("embedding_norm", ("embeddings.norm",)),
        Names("blocks.{}.attention_norm", ("layers.{}.attn_norm",)),
        Names("blocks.{}.attention.qkv", ("layers.{}.attn.Wqkv",), SAME),
        Names("blocks.{}.attention.output", ("layers.{}.attn.Wo",)),
        Names("blocks.{}.mlp_norm", ("layers.{}.mlp_norm",)),
        Names("blocks.{}.mlp.up", ("layers.{}.mlp.Wi",)),
        Names("blocks.{}.mlp.down", ("layers.{}.mlp.Wo",)),
        Names("final_norm", ("final_norm",)),
        Names("head_transform.linear", ("head.dense",)),
        Names("head_transform.norm", ("head.norm",)),
        Names("output", ("decoder",), VOCABULARY),
    ),
)
