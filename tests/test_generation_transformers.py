"""Greedy decoding and beam search give the tokens and scores of transformers, on five families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer
from lavra.config.generation import GenerateOptions
from lavra.generation import generate as module
from lavra.generation.generate import Generation, generate
from lavra.models.families.importing import import_decoder
from transformers_models import END, HFModel, end_sometimes, small_model

FAMILIES = ["gpt2", "opt", "llama", "gpt_neox", "qwen2"]
PROMPTS = ["ab", "", "Era uma vez, há muito", "xyz ", "não"]
TOKENIZER: Any = ByteTokenizer()


def reference(model: Any, prompts: list[str], **options: Any) -> list[tuple[list[int], float | None]]:
    """What transformers makes of the prompts, padded on the left: new tokens without the end, and scores."""
    rows = [[END, *prompt.encode()] for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[END] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    made = model.generate(
        ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True, output_scores=True, **options
    )
    scores = made.get("sequences_scores")
    found = []
    for number, row in enumerate(made.sequences[:, longest:].tolist()):
        tokens = row[: row.index(END)] if END in row else row
        found.append((tokens, None if scores is None else float(scores[number])))
    return found


def assert_same(found: list[Generation], expected: list[tuple[list[int], float | None]]) -> None:
    assert [list(one.tokens) for one in found] == [tokens for tokens, _ in expected]
    for one, (_, score) in zip(found, expected, strict=True):
        assert (one.score is None) == (score is None)
        assert score is None or one.score == pytest.approx(score, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(family)
    expected = reference(model, PROMPTS, max_new_tokens=20)
    options = GenerateOptions(greedy=True, max_new_tokens=20)
    assert_same(generate(HFModel(model), TOKENIZER, PROMPTS, options), expected)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 2)  # so that rows leave, and others take their places
    assert_same(generate(HFModel(model), TOKENIZER, PROMPTS, options), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (3, 0.0), (5, 2.0), (4, -1.0)])
def test_beams(family: str, beams: int, penalty: float) -> None:
    model = small_model(family, seed=beams)
    end_sometimes(model)
    expected = reference(
        model, PROMPTS, max_new_tokens=12, num_beams=beams, length_penalty=penalty, num_return_sequences=beams
    )
    options = GenerateOptions(max_new_tokens=12, beams=beams, length_penalty=penalty, samples=beams)
    found = generate(HFModel(model), TOKENIZER, PROMPTS, options)
    assert_same(found, expected)
    assert len({len(one.tokens) for one in found}) > 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"min_new_tokens": 8}, {"min_new_tokens": 8}),
    ],
)
def test_beams_with_penalties(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    model = small_model("llama", seed=7)
    prompts = ["Era uma vez, há muito"]  # of one length: transformers counts the padding as text that was repeated
    expected = reference(model, prompts, max_new_tokens=16, num_beams=3, **theirs)
    found = generate(HFModel(model), TOKENIZER, prompts, GenerateOptions(max_new_tokens=16, beams=3, **ours))
    if "repetition_penalty" in ours:  # it counts the beginning mark as well, which ends no text here
        assert END not in found[0].tokens
    assert_same(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_our_decoder_with_its_weights_writes_the_same(family: str, tmp_path: Path) -> None:
    model = small_model(family, seed=11)
    end_sometimes(model)
    model.save_pretrained(tmp_path)
    ours = import_decoder(tmp_path, torch.float64).model.eval()
    greedy = GenerateOptions(greedy=True, max_new_tokens=16)
    assert_same(generate(ours, TOKENIZER, PROMPTS, greedy), reference(model, PROMPTS, max_new_tokens=16))
    for beams, penalty in ((3, 1.0), (5, 0.0)):
        expected = reference(
            model, PROMPTS, max_new_tokens=12, num_beams=beams, length_penalty=penalty, num_return_sequences=2
        )
        options = GenerateOptions(max_new_tokens=12, beams=beams, length_penalty=penalty, samples=2)
        assert_same(generate(ours, TOKENIZER, PROMPTS, options), expected)
