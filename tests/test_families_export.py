"""Our own shapes written for `transformers`: exactly, or refused with the option named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from families import logits_of, opened_exactly
from lavra.core.errors import InputError
from lavra.models.families.exporting import export_decoder
from lavra.models.families.family import missing, shapes
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import FAMILIES, family_for
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec

SMALL = DecoderSpec(vocabulary=101, context=32, depth=2, width=32, heads=4)
LLAMA = replace(
    SMALL, activation="swiglu", norm_weight=True, qk_norm=False, embedding_norm=False, mlp_width=40, kv_heads=2
)


def random_decoder(spec: DecoderSpec, seed: int = 0) -> Decoder:
    """Return a decoder without a zero in it, its padding rows included."""
    model = build_decoder(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 1 + 0.2 * drawn)
    return model.eval()


def exported_and_reopened(model: Decoder, folder: Path, preferred: str | None = None) -> tuple[str, Any]:
    family = export_decoder(folder, model, {"bos_token_id": 0, "eos_token_id": 0}, preferred).family
    return family, opened_exactly(folder, "AutoModelForCausalLM")


def assert_same(model: Decoder, theirs: Any, folder: Path) -> None:
    inputs = torch.randint(0, model.spec.vocabulary, (2, 20), generator=torch.Generator().manual_seed(1))
    again = import_decoder(folder).model.eval()
    with torch.no_grad():
        expected = model.head(model(inputs))
        assert expected.std() > 0.05
        assert theirs.config.vocab_size == model.spec.vocabulary
        torch.testing.assert_close(logits_of(theirs, inputs), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again.head(again(inputs)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        (SMALL, "nanochat"),
        (replace(SMALL, tied=True), "nanochat"),
        (replace(SMALL, kv_heads=2, activation="gelu", norm_epsilon=1e-4, rope_base=300.0), "nanochat"),
        (LLAMA, "llama"),
        (replace(LLAMA, norm_weight=False, mlp_bias=True, attention_bias=True), "llama"),
        (replace(LLAMA, rope_scaling=4.0, rope_scaling_context=8, tied=True), "llama"),
        (replace(LLAMA, heads=6, head_width=12), "mistral"),
        (replace(LLAMA, attention_bias=True), "qwen2"),
        (replace(LLAMA, qk_norm=True, head_width=12), "qwen3"),
        (replace(LLAMA, qk_norm=True, qk_norm_weight=True, output_bias=True), "qwen3"),
        (replace(LLAMA, qk_norm=True, embedding_norm=True), "qwen3"),
        (replace(LLAMA, embedding_norm=True, tied=True), "llama"),
        (replace(SMALL, norm="layernorm", qk_norm=False, embedding_norm=False), "gpt_neox"),
        (replace(SMALL, norm="layernorm", qk_norm=False, embedding_norm=False, positions="none"), "gpt2"),
        (replace(SMALL, norm="layernorm", qk_norm=False, embedding_norm=False, positions="learned"), "gpt2"),
    ],
)
def test_each_shape_finds_the_family_that_is_exactly_it(spec: DecoderSpec, family: str, tmp_path: Path) -> None:
    model = random_decoder(spec)
    found, theirs = exported_and_reopened(model, tmp_path)
    assert found == family
    assert_same(model, theirs, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] == (
        spec.tied and not (spec.embedding_norm and family != "nanochat")
    )


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (replace(SMALL, positions="alibi"), "positions = 'alibi'"),
        (replace(LLAMA, rope_fraction=0.5), "rope_fraction = 0.5"),
        (replace(LLAMA, activation="relu2"), "activation = 'relu2'"),
        (replace(SMALL, embedding_norm_weight=True), "embedding_norm_weight = True"),
        (replace(SMALL, norm="layernorm", positions="learned", embedding_norm=False), "qk_norm = True"),
        (replace(LLAMA, final_norm=False), "final_norm = False"),
        (replace(LLAMA, bigram_embedding=64), "bigram_embedding = 64"),
        (replace(LLAMA, ngram_copy=True), "ngram_copy = True"),
    ],
)
def test_what_no_family_expresses_is_refused_by_name(spec: DecoderSpec, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no family of transformers expresses this model exactly") as caught:
        export_decoder(tmp_path, random_decoder(spec), {})
    assert named in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_every_preset_can_be_exported() -> None:
    wanted = {"gpt2": "gpt2", "opt": "opt", "pythia": "gpt_neox", "tinyllama": "llama", "llama2": "llama"}
    wanted |= {name: name for name in ("bert", "albert", "modernbert", "mixtral", "t5")}
    for name, spec in PRESETS.items():
        if name == "bert-crammed":
            with pytest.raises(InputError, match="positions = 'learned'"):
                family_for(spec)
            continue
        family, target = family_for(spec)
        assert family.name == wanted.get(name.split("-")[0], "llama" if "llama" in name else "nanochat"), name
        assert shapes(target).keys() == shapes(spec).keys(), name


def test_a_family_is_preferred_only_where_it_is_exact() -> None:
    assert family_for(LLAMA, "mistral")[0].name == "mistral"
    assert family_for(LLAMA, "gpt2")[0].name == "llama"


def test_every_family_keeps_what_it_reads() -> None:
    for family in FAMILIES.values():
        spec = family.read_spec(
            {
                "vocab_size": 90,
                "hidden_size": 32,
                "n_embd": 32,
                "n_layer": 1,
                "num_hidden_layers": 1,
                "n_head": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "intermediate_size": 64,
                "ffn_dim": 64,
                "final_logit_softcapping": None,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 64,
                "num_layers": 1,
                "num_heads": 4,
            }
        )
        again, differences = missing(family, spec)
        assert not differences
        assert again is not None
        assert family.write_config(again) == family.write_config(spec)


def test_dropout_is_written_and_not_read(tmp_path: Path) -> None:
    model = random_decoder(replace(LLAMA, dropout=0.25))
    export_decoder(tmp_path, model, {})
    assert json.loads((tmp_path / "config.json").read_text())["attention_dropout"] == 0.25
    assert import_decoder(tmp_path).model.spec.dropout == 0.0


def test_the_precision_is_kept(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    export_decoder(tmp_path, random_decoder(LLAMA).to(torch.bfloat16), {})
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


LAYER_NORM = replace(
    SMALL, norm="layernorm", norm_epsilon=1e-5, norm_weight=True, qk_norm=False, embedding_norm=False, activation="gelu"
)
BASES = [
    SMALL,
    LLAMA,
    replace(LLAMA, qk_norm=True, qk_norm_weight=True),
    replace(LAYER_NORM, parallel=True, rope_fraction=0.5),
    replace(LAYER_NORM, positions="learned"),
    replace(LAYER_NORM, positions="learned", norm_placement="after", final_norm=False, embedding_width=16),
    replace(LAYER_NORM, positions="alibi", embedding_norm=True, embedding_norm_weight=True, activation="gelu_tanh"),
]
CHANGES: dict[str, list[Any]] = {
    "vocabulary": [64, 70],
    "heads": [2, 8],
    "kv_heads": [0, 1],
    "head_width": [16],
    "positions": ["rope", "learned", "alibi", "none"],
    "rope_fraction": [1.0, 0.5],
    "rope_scaling": [2.0],
    "rope_scaling_context": [8],
    "norm_epsilon": [1e-2],
    "norm_weight": [True, False],
    "final_norm": [True, False],
    "activation": ["gelu", "gelu_tanh", "relu", "relu2", "geglu", "swiglu"],
    "mlp_width": [0, 36],
    "attention_bias": [True, False],
    "output_bias": [True, False],
    "mlp_bias": [True, False],
    "qk_norm": [True, False],
    "qk_norm_weight": [True, False],
    "embedding_norm": [True, False],
    "tied": [True, False],
}


@st.composite
def specs(draw: st.DrawFn) -> DecoderSpec:
    """A shape of one of the families, changed in some places."""
    names = draw(st.lists(st.sampled_from(sorted(CHANGES)), max_size=4, unique=True))
    changes = {name: draw(st.sampled_from(CHANGES[name])) for name in names}
    return replace(draw(st.sampled_from(BASES)), depth=1, **changes)


@settings(max_examples=80)
@given(specs())
def test_any_shape_is_exported_exactly_or_refused(spec: DecoderSpec) -> None:
    try:
        family_for(spec)
    except InputError:
        return
    with TemporaryDirectory() as folder:
        model = random_decoder(spec)
        _, theirs = exported_and_reopened(model, Path(folder))
        assert_same(model, theirs, Path(folder))
