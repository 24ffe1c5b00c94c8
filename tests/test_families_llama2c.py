"""llama2.c files: written here in their format, read, and compared with the Llama that they are."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import logits_of
from lavra.core.errors import CorruptFile, InputError
from lavra.data.tokenizers.llama2c import find_llama2c_tokenizer, load_llama2c_tokenizer
from lavra.models.families.exporting import export_decoder
from lavra.models.families.llama2c import MAGIC, is_llama2c, read_llama2c

WIDTH = 24
HIDDEN = 40
DEPTH = 2
HEADS = 6
KV_HEADS = 2
VOCABULARY = 268
CONTEXT = 32
HEAD = WIDTH // HEADS
INPUTS = torch.arange(5, 25)[None]


def reference() -> Any:
    """Return a Llama of `transformers`, which rotates halves of a head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn_like(parameter)
            parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 1 + 0.2 * drawn)
    return model


def in_pairs(weight: torch.Tensor) -> torch.Tensor:
    """Return a query or key matrix for rotation of neighbours: a head's rows from its two halves in turn."""
    rows = weight.view(-1, HEAD, WIDTH)
    order = [index // 2 + (index % 2) * (HEAD // 2) for index in range(HEAD)]
    return rows[:, order].reshape(weight.shape)


def write(path: Path, model: Any, *, version: int, shared: bool) -> None:
    """Write the file as llama2.c's `export.py` lays it out."""
    inner = model.model

    def all_layers(name: str, change: Any = lambda weight: weight) -> list[torch.Tensor]:
        return [change(layer.get_submodule(name).weight) for layer in inner.layers]

    embedding, norm = [inner.embed_tokens.weight], [inner.norm.weight]
    attention_norm, mlp_norm = all_layers("input_layernorm"), all_layers("post_attention_layernorm")
    attention = [
        *all_layers("self_attn.q_proj", in_pairs),
        *all_layers("self_attn.k_proj", in_pairs),
        *all_layers("self_attn.v_proj"),
        *all_layers("self_attn.o_proj"),
    ]
    mlp = [*all_layers("mlp.gate_proj"), *all_layers("mlp.down_proj"), *all_layers("mlp.up_proj")]
    head = [] if shared else [model.lm_head.weight]
    sizes = [WIDTH, HIDDEN, DEPTH, HEADS, KV_HEADS, VOCABULARY, CONTEXT]
    if version == 0:
        sizes[5] = VOCABULARY if shared else -VOCABULARY
        start = struct.pack("<7i", *sizes)
        tables = [torch.full((2, CONTEXT, HEAD // 2), 7.0)]
        tensors = [*embedding, *attention_norm, *attention, *mlp_norm, *mlp, *norm, *tables, *head]
    else:
        start = struct.pack("<Ii7iB", MAGIC, version, *sizes, shared).ljust(256, b"\0")
        tensors = [*attention_norm, *mlp_norm, *norm, *embedding, *attention, *mlp, *head]
    path.write_bytes(start + b"".join(tensor.detach().numpy().astype("<f4").tobytes() for tensor in tensors))


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("shared", [True, False])
def test_a_checkpoint_is_the_llama_that_it_was_written_from(version: int, shared: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = reference()
    if shared:
        theirs.lm_head.weight = theirs.model.embed_tokens.weight
    write(tmp_path / "model.bin", theirs, version=version, shared=shared)
    assert is_llama2c(tmp_path / "model.bin")
    model = read_llama2c(tmp_path / "model.bin").eval()
    assert model.spec.tied == shared
    with torch.no_grad():
        expected = logits_of(theirs, INPUTS)
        torch.testing.assert_close(model.head(model(INPUTS)), expected, atol=1e-5, rtol=0)
        assert export_decoder(tmp_path / "hf", model, {}).family == "llama"
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager")
        torch.testing.assert_close(logits_of(again, INPUTS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("version", [0, 1])
def test_a_checkpoint_cut_short_is_named(version: int, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write(path, reference(), version=version, shared=False)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptFile, match=r"model\.bin is cut short"):
        read_llama2c(path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(struct.pack("<Ii7iB", MAGIC, 2, *[8] * 7, 1).ljust(256, b"\0"))
    assert is_llama2c(path)
    with pytest.raises(InputError, match="of version 2; versions 0 and 1 are read"):
        read_llama2c(path)
    for content in (
        b"",
        b"PK\3\4" + b"\1" * 60,
        np.zeros(20, "<i4").tobytes(),
        b"some text that is long enough to read",
    ):
        path.write_bytes(content)
        assert not is_llama2c(path)
    assert not is_llama2c(tmp_path)
    assert not is_llama2c(tmp_path / "absent.bin")


PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *[f"<0x{byte:02X}>" for byte in range(256)]]
WORDS = ["a", "b", " ", "e", "ab", " a", "abe", " abe", "ç"]
SCORES = [-8.0, -9.0, -7.0, -6.0, -1.0, -3.0, -2.0, -4.0, -9.0]


def write_tokenizer(path: Path) -> int:
    entries = [*zip(PIECES, [0.0] * len(PIECES), strict=True), *zip(WORDS, SCORES, strict=True)]
    parts = [struct.pack("<i", 10)]
    parts += [struct.pack("<fi", score, len(text.encode())) + text.encode() for text, score in entries]
    path.write_bytes(b"".join(parts))
    return len(entries)


def llama2c_encode(text: str) -> list[int]:
    """Encode as run.c does: a space before, characters or else their bytes, then the best pair, again and again."""
    names = {word: 259 + number for number, word in enumerate(WORDS)}
    scores = dict(zip(WORDS, SCORES, strict=True))
    spelled = {number: word for word, number in names.items()}
    ids = [
        number
        for letter in (" " + text if text else "")
        for number in ([names[letter]] if letter in names else [byte + 3 for byte in letter.encode()])
    ]
    while True:
        pairs = [
            (scores[pair], -place, pair)
            for place in range(len(ids) - 1)
            if (pair := spelled.get(ids[place], "?") + spelled.get(ids[place + 1], "?")) in names
        ]
        if not pairs:
            return ids
        _, place, pair = max(pairs)
        ids[-place : -place + 2] = [names[pair]]


def test_the_tokenizer_gives_the_ids_of_llama2c(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path / "tokenizer.bin")
    path = find_llama2c_tokenizer(tmp_path / "model.bin", size)
    tokenizer = load_llama2c_tokenizer(path, size)
    assert tokenizer.end_of_document == 1
    for text in ("abe", "abe abe ab", "a b e", "cabeça 1", " ab", "e\nabe", "ab  abe", "日本"):
        ids = tokenizer.encode(text)
        assert ids == llama2c_encode(text), text
        assert tokenizer.decode(ids) == text
    (tmp_path / f"tok{size}.bin").write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptFile, match=r"tok268\.bin is damaged"):
        load_llama2c_tokenizer(find_llama2c_tokenizer(tmp_path / "model.bin", size), size)
    with pytest.raises(InputError, match="holds 268 tokens, the model beside it 512"):
        load_llama2c_tokenizer(path, 512)
    path.unlink()
    (tmp_path / f"tok{size}.bin").unlink()
    with pytest.raises(InputError, match="has no tokenizer beside it"):
        find_llama2c_tokenizer(tmp_path / "model.bin", size)


def test_a_checkpoint_is_opened_with_the_tokenizer_beside_it(tmp_path: Path) -> None:
    from lavra.workflows.models.open import open_model

    write(tmp_path / "model.bin", reference(), version=1, shared=True)
    assert write_tokenizer(tmp_path / "tokenizer.bin") == VOCABULARY
    opened = open_model(str(tmp_path / "model.bin"), "cpu")
    assert opened.family == "llama"
    assert opened.tokenizer.vocabulary_size == opened.model.vocabulary
    assert opened.model.spec.kv_heads == KV_HEADS
