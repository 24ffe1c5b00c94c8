"""Explanations tell the model's distribution, what each filter keeps, and the tokens that `generate` takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer, lively_decoder
from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.generation.explaining import explain
from lavra.generation.generate import generate
from lavra.models.protocols import Batch
from lavra.workflows.generation.explain import explain_picture

TOKENIZER: Any = ByteTokenizer()


@pytest.mark.parametrize(
    "fields", [{"greedy": True}, {"temperature": 1.3, "top_k": 30, "top_p": 0.9}, {"min_p": 0.1, "typical_p": 0.7}]
)
def test_the_tokens_are_those_of_generate(fields: dict[str, Any]) -> None:
    model = lively_decoder(4, context=12)
    options = GenerateOptions(max_new_tokens=20, seed=3, **fields)
    steps = explain(model, TOKENIZER, "Olá", options)
    (made,) = generate(model, TOKENIZER, ["Olá"], options)
    assert [step.chosen for step in steps][: len(made.tokens)] == list(made.tokens)
    assert len(steps) - len(made.tokens) == (made.reason == "end")


def test_numbers_are_those_of_the_distribution() -> None:
    model = lively_decoder(2, context=64)
    options = GenerateOptions(max_new_tokens=1, temperature=1.5, top_k=6, top_p=0.8)
    (step,) = explain(model, TOKENIZER, "ab", options, top=8)
    inputs = torch.tensor([[256, *b"ab"]])
    with torch.no_grad():
        logits = model.head(model.features(Batch(inputs, inputs)))[0, -1]
    chance, tempered = logits.softmax(-1), (logits / 1.5).softmax(-1)
    assert [one.token for one in step.candidates] == chance.topk(8).indices.tolist()
    assert [one.probability for one in step.candidates] == pytest.approx(chance.topk(8).values.tolist())
    assert [one.tempered for one in step.candidates] == pytest.approx(tempered.topk(8).values.tolist())
    assert step.entropy == pytest.approx(float(-(chance * chance.log2()).sum()))
    assert step.kept_by["top_k"] == 6
    assert step.kept_by["top_p"] == int((tempered.sort(descending=True).values.cumsum(0) < 0.8).sum()) + 1
    assert step.kept <= 6
    assert [one.final > 0 for one in step.candidates].count(True) == step.kept
    assert all(("top_k" in one.kept_by) == (rank < 6) for rank, one in enumerate(step.candidates))


def test_the_picture_marks_the_choice() -> None:
    model = lively_decoder(4, context=64)
    steps = explain(model, TOKENIZER, "ab", GenerateOptions(max_new_tokens=4, temperature=2.0, seed=1), top=3)
    picture = explain_picture(steps)
    assert picture.count("▶") == len(steps)
    assert picture.count("entropy") == len(steps)
    assert "top-p keeps" in picture


def test_bad_requests_are_explained() -> None:
    model = lively_decoder(context=4)
    with pytest.raises(InputError, match="greedy decoding and sampling"):
        explain(model, TOKENIZER, "a", GenerateOptions(beams=2))
    with pytest.raises(InputError, match="has 6 tokens; this model reads 3"):
        explain(model, TOKENIZER, "abcdef")
