"""Tokenizers of older models, which come without tokenizer.json: read, and written again, as AutoTokenizer has them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import write_tokenizer
from little_tokenizers import TEXTS, bart_like, wordpiece

TEXT = "It's a Palavra não é só d'água"


def bert(folder: Path) -> None:
    known = wordpiece().inner.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(known, key=lambda token: known[token])) + "\n")


def cased_bert(folder: Path) -> None:
    bert(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))


def byte_pairs(folder: Path) -> None:
    model = json.loads(bart_like().serialised)["model"]
    known = {**model["vocab"], **bart_like().inner.get_vocab(with_added_tokens=True)}
    for token in ("<pad>", "<unk>"):
        known.setdefault(token, len(known))
    (folder / "vocab.json").write_text(json.dumps(known))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))


def sentence_pieces(folder: Path) -> None:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    written = io.BytesIO()
    options = {"vocab_size": 200, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "hard_vocab_limit": False}
    trainer.train(sentence_iterator=iter(TEXTS[:20]), model_writer=written, minloglevel=2, **options)
    (folder / "spiece.model").write_bytes(written.getvalue())


@pytest.mark.parametrize(
    ("kind", "make", "end", "around"),
    [
        ("bert", bert, "[SEP]", (1, 1)),
        ("bert", cased_bert, "[SEP]", (1, 1)),
        ("roberta", byte_pairs, "</s>", (1, 1)),
        ("gpt2", byte_pairs, "<|endoftext|>", (0, 0)),
        ("t5", sentence_pieces, "</s>", (0, 1)),
    ],
    ids=["vocab.txt", "vocab.txt, cased", "vocab.json of RoBERTa", "vocab.json of GPT-2", "SentencePiece"],
)
def test_a_folder_without_tokenizer_json_is_read_as_autotokenizer_builds_it(
    kind: str, make: Any, end: str, around: tuple[int, int], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder, copy = tmp_path / "folder", tmp_path / "copy"
    folder.mkdir()
    copy.mkdir()
    make(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    assert ours.encode(TEXT) == theirs(TEXT, add_special_tokens=False).input_ids
    assert ours.end_of_document_token == end
    assert tuple(map(len, ours.around)) == around
    write_tokenizer(copy, ours, folder)  # into a folder that no longer tells the type of the model
    again: Any = AutoTokenizer.from_pretrained(copy)
    assert Tokenizer.load(copy).fingerprint == ours.fingerprint
    assert again(TEXT).input_ids == theirs(TEXT).input_ids
    assert (again.mask_token, again.pad_token) == (theirs.mask_token, theirs.pad_token)


def test_a_list_of_word_pieces_by_itself_is_berts(tmp_path: Path) -> None:
    bert(tmp_path)
    for place in (tmp_path, tmp_path / "vocab.txt"):
        read = Tokenizer.load(place)
        assert read.encode("a palavra") == wordpiece().encode("a palavra")
        assert read.end_of_document_token == "[SEP]"
