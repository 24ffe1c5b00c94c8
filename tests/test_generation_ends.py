"""A text ends at every id and string that the settings of its model name, as in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer
from lavra.config.generation import GenerateOptions
from lavra.generation.explaining import explain
from lavra.generation.generate import generate
from lavra.workflows.models.open import open_model
from little_tokenizers import byte_level
from test_generation_wrapped import DECODERS, END, PROMPTS, hf_model
from test_workflows_any_model import folder_of

ENDS = [END, *range(3, 256, 16)]


class _SeveralEnds(ByteTokenizer):
    end_ids = tuple(ENDS)


TOKENIZER: Any = _SeveralEnds()


def of_transformers(model: Any, prompt: str, **how: Any) -> tuple[int, ...]:
    ids = torch.tensor([[END, *prompt.encode()]])
    mask = torch.ones_like(ids)
    options = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": ENDS, **how}
    new = model.inner.generate(ids, attention_mask=mask, **options)[0][ids.shape[1] :].tolist()
    return tuple(new[: next((place for place, one in enumerate(new) if one in ENDS), len(new))])


@pytest.mark.parametrize(("beams", "shortest"), [(1, 0), (1, 9), (3, 0), (3, 4)])
def test_several_end_ids_end_a_text_as_in_transformers(beams: int, shortest: int):
    model = hf_model("GPTJ", DECODERS["GPTJ"])
    expected = [of_transformers(model, prompt, num_beams=beams, min_new_tokens=shortest or None) for prompt in PROMPTS]
    options = GenerateOptions(max_new_tokens=30, greedy=beams == 1, beams=beams, min_new_tokens=shortest)
    made = generate(model, TOKENIZER, PROMPTS, options)
    assert [one.tokens for one in made] == expected
    assert beams > 1 or any(one.reason == "end" for one in made)


def test_an_explanation_ends_there_too():
    model = hf_model("GPTJ", DECODERS["GPTJ"])
    prompt = next(prompt for prompt in PROMPTS if len(of_transformers(model, prompt)) < 30)
    steps = explain(model, TOKENIZER, prompt, GenerateOptions(greedy=True, max_new_tokens=30))
    assert steps[-1].chosen in ENDS
    assert len(steps) == len(of_transformers(model, prompt)) + 1


@pytest.mark.parametrize(
    ("settings", "config", "ends", "strings"),
    [
        ({"eos_token_id": [5, 9], "stop_strings": "FIM"}, 7, {5, 9}, ("FIM",)),
        ({"eos_token_id": 5, "stop_strings": ["a", "b"]}, [7, 8], {5}, ("a", "b")),
        ({"temperature": 0.5}, [7], set(), ()),
        (None, [7, 8], {7, 8}, ()),
    ],
)
def test_a_folder_names_its_ends(
    settings: dict[str, Any] | None, config: Any, ends: set[int], strings: tuple[str, ...], tmp_path: Path
):
    folder, _ = folder_of("LlamaForCausalLM", tmp_path)
    named = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**named, "eos_token_id": config}))
    (folder / "generation_config.json").unlink()
    if settings is not None:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    tokenizer = open_model(str(folder), "cpu").tokenizer
    assert set(tokenizer.end_ids) == {byte_level().end_of_document, *ends}
    assert tokenizer.stop_strings == strings


def test_an_end_outside_the_vocabulary_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, _ = folder_of("LlamaForCausalLM", tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 100_000]}))
    assert 100_000 not in open_model(str(folder), "cpu").tokenizer.end_ids
    assert "eos_token_id names 100000" in capsys.readouterr().err


def test_a_stop_string_of_the_model_is_cut_off(tmp_path: Path):
    folder, _ = folder_of("LlamaForCausalLM", tmp_path, initializer_range=0.3)
    opened = open_model(str(folder), "cpu")
    options = GenerateOptions(greedy=True, max_new_tokens=20)
    (plain,) = generate(opened.model, opened.tokenizer, ["A linguagem"], options)
    stop = plain.text[4:6]
    (folder / "generation_config.json").write_text(json.dumps({"stop_strings": [stop]}))
    opened = open_model(str(folder), "cpu")
    (made,) = generate(opened.model, opened.tokenizer, ["A linguagem"], options)
    assert made.reason == "stop"
    assert made.text == plain.text[: plain.text.index(stop)]
