"""The yardsticks are what they say, on the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from pydoc_data import topics
from typing import Any

import numpy as np
import pytest

from byte_level import ByteTokenizer
from lavra.evaluation.baselines import baselines, count_tokens, uniform, unigram, xz
from lavra.evaluation.documents import documents_of_rows

TEXTS = list(topics.topics.values())[:40]
TOKENIZER: Any = ByteTokenizer()
DOCUMENTS = documents_of_rows(TEXTS, TOKENIZER)
BYTES = sum(len(text.encode()) for text in TEXTS)


@pytest.mark.skipif(shutil.which("xz") is None, reason="the xz program is not installed")
def test_xz_equals_the_program() -> None:
    joined = "\n".join(TEXTS).encode()
    size = len(subprocess.run(["xz", "-9", "-c"], input=joined, capture_output=True, check=True).stdout)
    assert xz(TEXTS, BYTES).bits_per_byte == pytest.approx(8 * size / BYTES, rel=2e-3)


def test_uniform_is_the_logarithm_of_the_vocabulary() -> None:
    assert uniform(DOCUMENTS, 256).bits_per_byte == pytest.approx(8 * (BYTES + len(TEXTS)) / BYTES)


def test_unigram_of_the_text_itself_is_its_entropy() -> None:
    counts = np.bincount(DOCUMENTS.tokens, minlength=257)
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    found = unigram(DOCUMENTS, 257)
    assert found.bits_per_byte == pytest.approx(entropy * counts.sum() / BYTES)
    assert "itself" in found.explanation


def test_unigram_of_the_training_data_adds_one_and_costs_more() -> None:
    training = count_tokens(documents_of_rows(["only ASCII here"], TOKENIZER).tokens, 257)
    found = unigram(DOCUMENTS, 257, training)
    tokens = DOCUMENTS.tokens.astype(int)
    probability = (training + 1) / (training + 1).sum()
    assert found.bits_per_byte == pytest.approx(-np.log2(probability[tokens]).sum() / BYTES)
    assert "training data" in found.explanation
    assert found.bits_per_byte > unigram(DOCUMENTS, 257).bits_per_byte


def test_unigram_of_chosen_documents_counts_only_those() -> None:
    chosen = [0, 1, 5, 7, 8]
    alone = documents_of_rows([TEXTS[number] for number in chosen], TOKENIZER)
    assert unigram(DOCUMENTS.select(chosen), 257).bits_per_byte == pytest.approx(unigram(alone, 257).bits_per_byte)


def test_all_three_in_order() -> None:
    found = baselines(DOCUMENTS, TEXTS, 257)
    assert [one.name for one in found] == ["uniform", "unigram", "xz -9"]
    assert found[0].bits_per_byte > found[1].bits_per_byte > found[2].bits_per_byte
    assert found[2].to_json()["name"] == "xz -9"
