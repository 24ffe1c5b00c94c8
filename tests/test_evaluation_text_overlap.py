"""BLEU and ROUGE of generated text: accents kept, several references, bad input."""

from __future__ import annotations

import pytest

from lavra.core.errors import InputError

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

from lavra.evaluation.text_overlap import AccentKeepingTokenizer, text_overlap


def test_accents_count() -> None:
    assert AccentKeepingTokenizer().tokenize("Cristóbal esta\u0301 lá_fora 3.5") == [
        "cristóbal", "está", "lá", "fora", "3", "5",
    ]  # fmt: skip
    assert text_overlap(["avô"], ["avó"]).rouge1.value == 0.0


def test_identical_texts_score_full_and_unrelated_ones_nothing() -> None:
    texts = [f"qual é a capital do estado número {number} do Brasil?" for number in range(8)]
    same = text_overlap(texts, texts)
    assert same.bleu.value == pytest.approx(100.0)
    assert (same.rouge1.value, same.rouge2.value, same.rougeL.value) == (1.0, 1.0, 1.0)
    assert same.texts == 8
    other = text_overlap(["xyz"] * 8, texts)
    assert other.rougeL.value == 0.0


def test_the_best_of_several_references_counts() -> None:
    overlap = text_overlap(["onde fica Lisboa"], [["quem foi Camões", "onde fica Lisboa"]])
    assert overlap.rougeL.value == 1.0
    assert overlap.bleu.low is None
    assert "BLEU" in overlap.to_json()


def test_intervals_hold_the_value() -> None:
    predictions = ["where is the cat", "who wrote it", "when did it rain", "a b c d e", "what is the name", "how far"]
    references = ["where was the cat", "who wrote the book", "when did it snow", "z", "what is a name", "how far is it"]
    overlap = text_overlap(predictions, references)
    for number in (overlap.bleu, overlap.rouge1, overlap.rougeL):
        assert number.low is not None
        assert number.high is not None
        assert number.low <= number.value <= number.high


def test_numbers_must_agree() -> None:
    with pytest.raises(InputError, match="2 predictions"):
        text_overlap(["a", "b"], ["a"])
    with pytest.raises(InputError, match="prediction 0 has no reference"):
        text_overlap(["a"], [[]])
