"""Exact match and F1 of answers equal SQuAD's evaluation; Portuguese has its own articles."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.evaluation.labels.answers import answer_f1, answer_scores, answer_values, normalize_answer


def squad_normalized(text: str) -> str:
    """The normalisation of evaluate-v1.1.py, step by step."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction: str, answer: str) -> float:
    one, other = squad_normalized(prediction).split(), squad_normalized(answer).split()
    same = sum((Counter(one) & Counter(other)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(one), same / len(other)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from(["the", "The", "a", "an", "cat", "sat", "cat,", "1822", "it's", "-"]), max_size=6).map(
    " ".join
)


@given(WORDS, WORDS)
def test_english_equals_the_script_of_squad(prediction: str, answer: str) -> None:
    assert normalize_answer(prediction) == squad_normalized(prediction)
    if squad_normalized(prediction) and squad_normalized(answer):
        assert answer_f1(prediction, answer) == pytest.approx(squad_f1(prediction, answer))


def test_the_best_of_several_answers_counts() -> None:
    values = answer_values(["river Tagus", "Lisbon"], [["the Tagus", "River Tagus."], ["Porto"]])
    assert values.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert answer_values(["the river Tagus"], [["Tagus"]]).tolist() == [[0.0, pytest.approx(2 / 3)]]


def test_portuguese_articles_punctuation_and_accents() -> None:
    assert normalize_answer("A «Odisseia», uns séculos", "pt") == "odisseia séculos"
    assert normalize_answer("cafe\u0301", "pt") == normalize_answer("café", "pt")
    assert normalize_answer("o livro da Ana", "pt") == "livro da ana"
    assert normalize_answer("the cat", "pt") == "the cat"
    assert normalize_answer("die Katze", None) == "die katze"


def test_a_question_without_an_answer_is_answered_by_nothing() -> None:
    scores = answer_scores(["", "Lisbon", "the"], [[], [""], []])
    assert answer_values(["", "Lisbon", "the"], [[], [""], []])[:, 0].tolist() == [1.0, 0.0, 1.0]
    assert scores.unanswerable == 3
    assert answer_values([""], [["Lisbon"]]).tolist() == [[0.0, 0.0]]


def test_scores_are_means_with_intervals() -> None:
    predictions, answers = ["yes", "no", "yes", "yes", "no", "perhaps"], [["yes"]] * 6
    scores = answer_scores(predictions, answers)
    assert scores.exact_match.value == 0.5
    assert scores.exact_match.low is not None
    assert scores.exact_match.low < 0.5 < scores.exact_match.high
    assert scores.to_json()["questions"] == 6


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="1 predicted answers cannot be compared with the answers of 2 questions"):
        answer_scores(["a"], [["a"], ["b"]])
