"""A model on a GPU writes, scores, classifies and is evaluated there, and answers what it answers on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from byte_level import ByteTokenizer, lively_decoder
from fake_gpu import fake_gpu
from lavra.cli.main import main
from lavra.config.generation import GenerateOptions
from lavra.evaluation.documents import documents_of_rows
from lavra.evaluation.likelihood import likelihood
from lavra.generation.classifying import Classifier
from lavra.generation.explaining import explain
from lavra.generation.generate import generate, stream
from lavra.generation.scoring import score
from lavra.models.hf.model import HFModel
from lavra.models.native import attention
from lavra.planning.machine import hardware
from lavra.text.templates import read_templates
from test_generation_encoder_decoders import TOKENIZER as WITH_MARKS
from test_generation_encoder_decoders import encoder_decoder
from transformers_models import small_model

BYTES: Any = ByteTokenizer()
PROMPTS = ["ab", "", "Era uma vez", "ab", "não"]
SHAPES: dict[str, dict[str, Any]] = {
    "rope, grouped, recall, pairs": {"ngram_copy": True, "bigram_embedding": 64, "kv_heads": 1},
    "alibi": {"positions": "alibi"},
    "learned": {"positions": "learned", "norm": "layernorm", "tied": True},
}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"greedy": True, "repetition_penalty": 1.3, "frequency_penalty": 0.2, "no_repeat_ngram": 2},
    "sampling": {"top_k": 30, "top_p": 0.9, "seed": 3, "samples": 2},
    "rare filters": {"min_p": 0.05, "typical_p": 0.8, "min_new_tokens": 3},
    "beams": {"beams": 4, "samples": 2, "repetition_penalty": 1.2, "no_repeat_ngram": 3},
    "groups of beams": {"beams": 4, "beam_groups": 2},
    "contrastive": {"contrastive": 0.6, "top_k": 4},
    "choices": {"choices": ("sim", "não")},
    "words": {"words": ("mar",), "beams": 2},
}


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    with fake_gpu() as device:
        yield device


PAIRS = [("rope, grouped, recall, pairs", way) for way in WAYS] + [("alibi", "sampling"), ("learned", "beams")]


@pytest.mark.parametrize(("shape", "way"), PAIRS)
def test_a_decoder_writes_the_texts_of_the_cpu(shape: str, way: str, gpu: torch.device) -> None:
    model, options = lively_decoder(4, context=20, **SHAPES[shape]), GenerateOptions(max_new_tokens=8, **WAYS[way])
    expected = generate(model, BYTES, PROMPTS, options)
    found = generate(model.to(gpu), BYTES, PROMPTS, options)
    assert [one.text for one in found] == [one.text for one in expected]


@pytest.mark.parametrize("way", ["greedy", "sampling", "beams", "contrastive"])
def test_an_encoder_decoder_writes_the_texts_of_the_cpu(way: str, gpu: torch.device) -> None:
    model, options = encoder_decoder("t5"), GenerateOptions(max_new_tokens=6, **WAYS[way])
    prompts = [prompt for prompt in PROMPTS if prompt]
    expected = generate(model, WITH_MARKS, prompts, options)
    found = generate(model.to(gpu), WITH_MARKS, prompts, options)
    assert [one.text for one in found] == [one.text for one in expected]


def test_scores_labels_and_explanations(gpu: torch.device) -> None:
    model = lively_decoder(2, context=256, kv_heads=1)
    labels = ["good", "bad"]

    def answers() -> list[Any]:
        scores = score(model, BYTES, ["it is", "não"], [[" a", " bb"], [" c"]])
        classified = Classifier(model, BYTES, labels, read_templates("classify")).classify(["a fine day", ""])
        steps = explain(model, BYTES, "Olá", GenerateOptions(max_new_tokens=4, top_k=5))
        text = "".join(stream(model, BYTES, "ab", GenerateOptions(max_new_tokens=5)))
        return [
            *(one.log_probability for row in scores for one in row),
            *(one.probabilities["good"] for one in classified),
            *(step.chosen for step in steps),
            len(text),
        ]

    expected = answers()
    model.to(gpu)
    assert answers() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_likelihood_of_documents(shape: str, gpu: torch.device) -> None:
    model, data = lively_decoder(0, **SHAPES[shape]), documents_of_rows(["Ação e reação", "a", "um dois três"], BYTES)
    expected = likelihood(model, data, stride=4, batch_tokens=64).nll
    assert likelihood(model.to(gpu), data, stride=4, batch_tokens=64).nll == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("way", ["greedy", "sampling", "beams", "contrastive"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_wrapped_decoder_writes_the_texts_of_the_cpu(family: str, way: str, gpu: torch.device) -> None:
    model, options = HFModel(small_model(family), "decoder"), GenerateOptions(max_new_tokens=6, **WAYS[way])
    expected = generate(model, BYTES, PROMPTS, options)
    found = generate(model.to(gpu), BYTES, PROMPTS, options)
    assert [one.text for one in found] == [one.text for one in expected]


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(hardware._SIDES, "cuda", 64)  # of the products that measure its peak
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(attention, "_has_kernel_for_documents", lambda device: False)  # the fake GPU has no such kernel


@pytest.mark.usefixtures("small_machine")
def test_a_run_is_trained_checked_and_used_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, run = tmp_path / "topics.jsonl", str(tmp_path / "run")
    rows = [{"text": topics[name][:2000]} for name in sorted(topics)[:16]]
    text.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf8")
    shape = ["--model.depth", "1", "--model.width", "16", "--model.heads", "2", "--model.context", "32"]
    with fake_gpu(library=True):
        assert main(["train", str(text), "--steps", "2", *shape, "--text.vocabulary", "300", "--out", run]) == 0
        assert main(["generate", run, "--prompt", "The", "--max-new-tokens", "3"]) == 0
        assert main(["evaluate", run, "--data", str(text)]) == 0
    told = capsys.readouterr()
    assert "on cuda" in told.out + told.err
    assert "it ended with" not in told.out + told.err
