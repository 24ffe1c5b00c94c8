"""Models that are no folder of whole weights: an adapter of peft over its base, and GGUF files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lavra.core.errors import InputError
from lavra.models.hf.unmerged import folder_of_gguf
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import IGNORED, Batch
from lavra.workflows.models.open import open_model
from little_tokenizers import byte_level, chat_tokenizer
from test_workflows_carried import SHAPE

IDS = torch.arange(20)[None]
WIDE = {**SHAPE, "hidden_size": 32, "intermediate_size": 32}


def logits(location: Path) -> torch.Tensor:
    model = open_model(str(location), "cpu").model
    with torch.no_grad():
        return model.head(model.features(Batch(IDS, torch.full_like(IDS, IGNORED))))[0]


@pytest.fixture
def base(tmp_path: Path) -> tuple[Path, Any]:
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE))
    model.save_pretrained(tmp_path / "base")
    chat_tokenizer().save(tmp_path / "base")
    return tmp_path / "base", model


def adapter(model: Any, folder: Path, base: Path, **changes: Any) -> Path:
    import peft

    options = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **options))
    adapted.save_pretrained(folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(base), **changes}))
    return folder


def test_an_adapter_is_opened_with_its_base(base, tmp_path):
    folder, model = base
    adapted = adapter(model, tmp_path / "adapter", folder)
    assert torch.allclose(logits(adapted), model.eval()(IDS).logits[0], atol=1e-5)
    opened = open_model(str(adapted), "cpu")
    assert opened.tokenizer.fingerprint == chat_tokenizer().fingerprint
    byte_level().save(adapted)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"adapter over .*base, which is no Hugging Face folder"):
        open_model(str(adapter(model, tmp_path / "other", folder)))


def test_an_adapter_finds_the_base_beside_it_when_both_were_moved(base, tmp_path):
    folder, model = base
    adapted = adapter(model, tmp_path / "adapter", Path("/nowhere/before/base"))
    assert folder.parent == adapted.parent
    assert torch.allclose(logits(adapted), model.eval()(IDS).logits[0], atol=1e-5)


def test_an_adapter_that_is_no_part_of_the_weights_is_refused(base, tmp_path):
    import peft

    folder, model = base
    config = peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "prefix")
    path = tmp_path / "prefix/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(folder)}))
    with pytest.raises(InputError, match="PREFIX_TUNING, which cannot be worked into a model's weights"):
        open_model(str(tmp_path / "prefix"))


def write_gguf(path: Path, model: Any, quantised: bool) -> Path:
    """Write a Llama as llama.cpp's converter does: query and key rows by halves of a head, pieces of GPT-2's kind."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    known = chat_tokenizer().inner.get_vocab(with_added_tokens=True)
    pieces = [f"[unused {number}]" for number in range(config.vocab_size)]
    for piece, number in known.items():
        pieces[number] = piece
    merges = json.loads(chat_tokenizer().serialised)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece.startswith("<|") else 1 for piece in pieces])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(601)
    for name, tensor in model.state_dict().items():
        short = GGUF_NAMES[name.removesuffix(".weight")]
        values = tensor.float()
        if short.endswith(("attn_q", "attn_k")):
            size = config.hidden_size // config.num_attention_heads // 2
            values = values.reshape(-1, 2, size, config.hidden_size).swapaxes(1, 2).reshape(values.shape)
        array, kind = values.numpy(), None
        if quantised and array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            array = gguf.quants.quantize(array, kind)
        writer.add_tensor(f"{short}.weight", array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.0.self_attn.q_proj": "blk.0.attn_q",
    "model.layers.0.self_attn.k_proj": "blk.0.attn_k",
    "model.layers.0.self_attn.v_proj": "blk.0.attn_v",
    "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
    "model.layers.0.mlp.gate_proj": "blk.0.ffn_gate",
    "model.layers.0.mlp.up_proj": "blk.0.ffn_up",
    "model.layers.0.mlp.down_proj": "blk.0.ffn_down",
    "model.layers.0.input_layernorm": "blk.0.attn_norm",
    "model.layers.0.post_attention_layernorm": "blk.0.ffn_norm",
}


@pytest.mark.parametrize("quantised", [False, True])
def test_a_gguf_file_is_a_model(quantised: bool, base, tmp_path):
    _, model = base
    (tmp_path / "gguf").mkdir()
    file = write_gguf(tmp_path / "gguf/model.gguf", model, quantised)
    with torch.no_grad():
        expected = model.eval()(IDS).logits[0]
    for place in (file, file.parent):
        assert torch.allclose(logits(place), expected, atol=2e-2 if quantised else 1e-5)
        if place != file.parent:
            continue
        opened = open_model(str(place), "cpu")
        assert isinstance(opened.model, Decoder)
        assert opened.tokenizer.end_of_document_token == "<|im_end|>"
        assert opened.tokenizer.encode("What is it?") == chat_tokenizer().encode("What is it?")


def rounding_of_q8_0(weights: torch.Tensor) -> torch.Tensor:
    """Return by how much Q8_0 may change each weight: 32 of them share a scale, and are rounded to 255 multiples of it.

    A weight is off by half a scale at most, and by the rounding of the scale itself to fp16, up to 127 times.
    """
    largest = weights.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
    bound = largest / 127 * (0.5 + 127 * 2**-11) + 127 * 2**-25
    return bound.expand(*bound.shape[:-1], 32).flatten(-2)


def test_the_weights_of_a_quantised_file_are_as_near_as_its_format_allows(base, tmp_path):
    from safetensors.torch import load_file

    _, model = base
    folder = folder_of_gguf(write_gguf(tmp_path / "model.gguf", model, quantised=True))
    found = load_file(folder / "model.safetensors")
    for name, weights in model.state_dict().items():
        if name not in found:
            assert name == "lm_head.weight"  # tied
            continue
        off = (found[name] - weights.float()).abs()
        assert (off <= (rounding_of_q8_0(weights.float()) * 1.001 if weights.dim() == 2 else 0.0)).all(), name
        assert weights.dim() == 1 or off.any()


def test_what_is_wrong_with_a_gguf_file_is_told(tmp_path, monkeypatch):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF and no more")
    with pytest.raises(InputError, match="holds 2 GGUF files"):
        open_model(str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="needs the package gguf to be read") as raised:
        open_model(str(tmp_path / "a.gguf"))
    assert "lavra[gguf]" in raised.value.remedy
