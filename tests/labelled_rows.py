"""Tiny encoders with a tokenizer of whole words, and made-up rows of words with tags and of questions with answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Library
from tokenizers import processors

from lavra.data.tokenizers.tokenizer import Tokenizer
from little_tokenizers import wordpiece

PEOPLE = ("Ana", "Rui Silva", "Eva", "Ivo da Costa")
PLACES = ("Lisboa", "Porto Alegre", "Recife", "Beja")

QUICK: dict[str, Any] = {
    "steps": 6,
    "checkpoint_every": 2,
    "samples": 1,
    "machine": {"device": "cpu", "precision": "fp32", "compile": "no"},
    "optimization": {"learning_rate": 1e-3},
}


@cache
def pair_wordpiece() -> Tokenizer:
    """A WordPiece like BERT's, which puts a [SEP] between two texts and calls the second one another kind."""
    inner = Library.from_str(wordpiece().serialised)
    ids = [(name, inner.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return Tokenizer(inner, "[SEP]")


def encoder(folder: Path, tokenizer: Tokenizer | None = None, length: int = 64) -> Path:
    """Write a random BERT without a language-model head, and the tokenizer of its family."""
    import transformers

    tokenizer = tokenizer or pair_wordpiece()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocabulary_size, max_position_embeddings=length, pad_token_id=0, **shape
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def tagged(count: int) -> list[dict[str, Any]]:
    """Return sentences in which people and places are marked."""
    rows = []
    for number in range(count):
        person, place = PEOPLE[number % 4].split(), PLACES[number // 4 % 4].split()
        words = [*person, "mora", "em", *place, "desde", str(1900 + number)]
        tags = [*_bio("PER", person), "O", "O", *_bio("LOC", place), "O", "O"]
        rows.append({"tokens": words, "tags": tags, "id": f"s{number}"})
    return rows


def _bio(kind: str, words: list[str]) -> list[str]:
    return [f"B-{kind}", *[f"I-{kind}"] * (len(words) - 1)]


def asked(count: int) -> list[dict[str, Any]]:
    """Return questions about contexts in the layout of SQuAD."""
    rows = []
    for number in range(count):
        person, place = PEOPLE[number % 4], PLACES[number // 4 % 4]
        context = f"No ano {1900 + number}, {person} mora em {place}."
        answer = person if number % 2 else place
        rows.append(
            {
                "context": context,
                "question": "Quem mora?" if number % 2 else "Onde mora?",
                "answers": {"text": [answer], "answer_start": [context.index(answer)]},
            }
        )
    return rows


def write(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Write rows as JSON lines, and return the location."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)
