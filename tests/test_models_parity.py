"""The presets are exactly their namesakes: the same logits after copying weights, and the same number of parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lavra.models.native.building import build_decoder, count_parameters
from lavra.models.native.decoder import Decoder
from lavra.models.presets import PRESETS
from lavra.models.spec import DecoderSpec

VOCABULARY = 96
CONTEXT = 24
WIDTH = 64
HEADS = 4

Weights = dict[str, torch.Tensor]


def gpt2_weights(theirs: Weights, spec: DecoderSpec) -> Weights:
    """Their products are stored transposed (Conv1D)."""
    ours = {
        "embedding.weight": theirs["transformer.wte.weight"],
        "position_embedding.weight": theirs["transformer.wpe.weight"],
        **pair("final_norm", theirs, "transformer.ln_f"),
    }
    names = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for layer in range(spec.depth):
        for ours_name, name in names.items():
            block = pair(f"blocks.{layer}.{ours_name}", theirs, f"transformer.h.{layer}.{name}")
            ours |= {key: weight.t() for key, weight in block.items()}
    return ours


def opt_weights(theirs: Weights, spec: DecoderSpec) -> Weights:
    """Their first two positions are never used."""
    ours = {
        "embedding.weight": theirs["model.decoder.embed_tokens.weight"],
        "position_embedding.weight": theirs["model.decoder.embed_positions.weight"][2:],
        **pair("final_norm", theirs, "model.decoder.final_layer_norm"),
    }
    for layer in range(spec.depth):
        block, place = f"blocks.{layer}", f"model.decoder.layers.{layer}"
        for kind in ("weight", "bias"):
            projections = [theirs[f"{place}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            ours[f"{block}.attention.qkv.{kind}"] = torch.cat(projections)
        ours |= pair(f"{block}.attention_norm", theirs, f"{place}.self_attn_layer_norm")
        ours |= pair(f"{block}.attention.output", theirs, f"{place}.self_attn.out_proj")
        ours |= pair(f"{block}.mlp_norm", theirs, f"{place}.final_layer_norm")
        ours |= pair(f"{block}.mlp.up", theirs, f"{place}.fc1") | pair(f"{block}.mlp.down", theirs, f"{place}.fc2")
    return ours


def pythia_weights(theirs: Weights, spec: DecoderSpec) -> Weights:
    """Their query, key and value are interleaved by head."""
    ours = {
        "embedding.weight": theirs["gpt_neox.embed_in.weight"],
        "output.weight": theirs["embed_out.weight"] if "embed_out.weight" in theirs else theirs["lm_head.weight"],
        **pair("final_norm", theirs, "gpt_neox.final_layer_norm"),
    }
    for layer in range(spec.depth):
        block, place = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
        for kind in ("weight", "bias"):
            mixed = theirs[f"{place}.attention.query_key_value.{kind}"]
            by_head = mixed.reshape(spec.heads, 3, spec.size_of_head, -1)
            ours[f"{block}.attention.qkv.{kind}"] = by_head.transpose(0, 1).reshape(mixed.shape)
        ours |= pair(f"{block}.attention_norm", theirs, f"{place}.input_layernorm")
        ours |= pair(f"{block}.attention.output", theirs, f"{place}.attention.dense")
        ours |= pair(f"{block}.mlp_norm", theirs, f"{place}.post_attention_layernorm")
        ours |= pair(f"{block}.mlp.up", theirs, f"{place}.mlp.dense_h_to_4h")
        ours |= pair(f"{block}.mlp.down", theirs, f"{place}.mlp.dense_4h_to_h")
    return ours


def llama_weights(theirs: Weights, spec: DecoderSpec) -> Weights:
    """Their gate and value are two products; they have no biases."""
    ours = {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "output.weight": theirs["lm_head.weight"],
        "final_norm.weight": theirs["model.norm.weight"],
    }
    for layer in range(spec.depth):
        block, place = f"blocks.{layer}", f"model.layers.{layer}"
        projections = [theirs[f"{place}.self_attn.{name}_proj.weight"] for name in "qkv"]
        ours[f"{block}.attention.qkv.weight"] = torch.cat(projections)
        ours[f"{block}.attention.output.weight"] = theirs[f"{place}.self_attn.o_proj.weight"]
        gate, value = theirs[f"{place}.mlp.gate_proj.weight"], theirs[f"{place}.mlp.up_proj.weight"]
        ours[f"{block}.mlp.up.weight"] = torch.cat((gate, value))
        ours[f"{block}.mlp.down.weight"] = theirs[f"{place}.mlp.down_proj.weight"]
        ours[f"{block}.attention_norm.weight"] = theirs[f"{place}.input_layernorm.weight"]
        ours[f"{block}.mlp_norm.weight"] = theirs[f"{place}.post_attention_layernorm.weight"]
    return ours


def pair(ours: str, theirs: Weights, name: str) -> Weights:
    return {f"{ours}.{kind}": theirs[f"{name}.{kind}"] for kind in ("weight", "bias")}


def reference_config(name: str, spec: DecoderSpec) -> transformers.PretrainedConfig:
    """The configuration of transformers that the specification of a preset of this name means."""
    family = name.split("-")[0]
    common: dict[str, Any] = {"vocab_size": spec.vocabulary, "tie_word_embeddings": spec.tied}
    if family == "gpt2":
        return transformers.GPT2Config(
            n_positions=spec.context, n_embd=spec.width, n_layer=spec.depth, n_head=spec.heads, **common
        )
    common |= {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.context,
    }
    if family == "opt":
        return transformers.OPTConfig(ffn_dim=4 * spec.width, word_embed_proj_dim=spec.width, **common)
    common["intermediate_size"] = spec.hidden_width
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": spec.rope_base}
    if family == "pythia":
        return transformers.GPTNeoXConfig(rope_parameters=rope | {"partial_rotary_factor": 0.25}, **common)
    return transformers.LlamaConfig(
        num_key_value_heads=spec.key_value_heads, rms_norm_eps=spec.norm_epsilon, rope_parameters=rope, **common
    )


def reference_model(config: transformers.PretrainedConfig) -> nn.Module:
    return transformers.AutoModelForCausalLM.from_config(config)


def copy_weights(ours: Decoder, weights: Weights) -> None:
    """Copy into the rows that are no padding; every parameter must be given, and no other."""
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter[: len(weights[name])] = weights[name]


@pytest.mark.parametrize(
    ("name", "translate", "shape"),
    [
        ("gpt2-124m", gpt2_weights, {}),
        ("opt-125m", opt_weights, {}),
        ("pythia-160m", pythia_weights, {}),
        ("tinyllama-1.1b", llama_weights, {"kv_heads": 2, "mlp_width": 80}),
        ("llama3-8b", llama_weights, {"kv_heads": 1, "mlp_width": 80}),
    ],
)
def test_logits_equal_those_of_transformers(name: str, translate: Callable[..., Weights], shape: dict[str, int]):
    tiny = {"vocabulary": VOCABULARY, "context": CONTEXT, "width": WIDTH, "depth": 2, "heads": HEADS}
    spec = replace(PRESETS[name], **tiny, **shape)
    torch.manual_seed(0)
    reference = reference_model(reference_config(name, spec)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases and norms are no longer neutral
    ours = build_decoder(spec).eval()
    copy_weights(ours, translate(dict(reference.named_parameters()), spec))
    inputs = torch.randint(0, VOCABULARY, (3, CONTEXT))
    with torch.no_grad():
        expected, found = reference(inputs).logits, ours.head(ours(inputs))
    assert expected.std() > 0.5
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


DECODERS = [
    name
    for name, spec in PRESETS.items()
    if not name.startswith("lavra") and spec.architecture == "decoder" and not spec.experts
]
"""The presets of the field; those of other architectures are compared in the tests of their families."""


@pytest.mark.parametrize("name", DECODERS)
def test_the_number_of_parameters_is_that_of_transformers(name: str):
    spec = PRESETS[name]
    with torch.device("meta"):
        ours = Decoder(spec)
        reference = reference_model(reference_config(name, spec))
    padding = (spec.padded_vocabulary - spec.vocabulary) * spec.width * (1 if spec.tied else 2)
    unused = 2 * spec.width if name.startswith("opt") else 0  # OPT keeps 2 rows more than it has positions
    assert count_parameters(ours) - padding == count_parameters(reference) - unused


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("gpt2-124m", 124.44),
        ("gpt2-1.5b", 1557.6),
        ("opt-125m", 125.24),
        ("pythia-70m", 70.43),
        ("pythia-160m", 162.32),
    ],
)
def test_the_published_sizes(name: str, millions: float):
    """As counted from the released weights of each model."""
    spec = PRESETS[name]
    with torch.device("meta"):
        count = count_parameters(Decoder(spec))
    padding = (spec.padded_vocabulary - spec.vocabulary) * spec.width * (1 if spec.tied else 2)
    assert (count - padding) / 1e6 == pytest.approx(millions, abs=0.02)
