"""Exact match and F1 of answers that were taken out of a context, as the evaluation of SQuAD counts them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.retrieval import mean_estimates

ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "pt": r"\b(o|a|os|as|um|uma|uns|umas)\b",
}
"""Articles that do not count, as regular expressions by language."""

ANSWER_MEASURES = ("exact_match", "f1")
"""Names of the two measures, in the order of the columns of `answer_values`."""


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """Scores of predicted answers, with 95 % bootstrap intervals over questions.

    Attributes:
        exact_match: Share of the questions whose answer is one of the right ones, from 0 to 1.
        f1: Mean over questions of the F1 of words with the right answer that fits best, from 0 to 1.
        questions: Number of questions.
        unanswerable: Number of questions among them that have no answer in their context.
    """

    exact_match: Estimate
    f1: Estimate
    questions: int
    unanswerable: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        scores = {name: getattr(self, name).to_json() for name in ANSWER_MEASURES}
        return {**scores, "questions": self.questions, "unanswerable": self.unanswerable}


def normalize_answer(text: str, language: str | None = "en") -> str:
    """Return an answer without what does not count: case, punctuation, articles and surplus white space.

    English is treated exactly as by the evaluation script of SQuAD 1.1. Other languages are treated as by that of
    MLQA, which removes the punctuation of all of Unicode; composed and decomposed accents are equal besides. In
    Portuguese the articles are removed, also where "a" is a preposition, and contractions such as "da" are kept.

    Args:
        text: The answer.
        language: "en", "pt", or any other or None, for which no articles are removed.

    Examples:
        >>> normalize_answer("The  Eiffel Tower!")
        'eiffel tower'
        >>> normalize_answer("“Os Lusíadas”", "pt")
        'lusíadas'
    """
    if language == "en":
        text = "".join(character for character in text.lower() if character not in _ASCII_PUNCTUATION)
    else:
        text = unicodedata.normalize("NFC", text).lower()
        text = "".join(character for character in text if not _is_punctuation(character))
    if language in ARTICLES:
        text = re.sub(ARTICLES[language], " ", text)
    return " ".join(text.split())


def answer_f1(prediction: str, answer: str, language: str | None = "en") -> float:
    """Return the F1 of the words of a predicted answer and of a right one, after normalisation.

    Where either has no words, it is 1 if both have none and else 0, as in SQuAD 2.0.

    Args:
        prediction: The predicted answer.
        answer: The right answer.
        language: See `normalize_answer`.

    Examples:
        >>> answer_f1("in the year 1822", "1822")
        0.5
    """
    one, other = normalize_answer(prediction, language).split(), normalize_answer(answer, language).split()
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def answer_values(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], language: str | None = "en"
) -> NDArray[np.float64]:
    """Return exact match and F1 of each question, against the right answer that fits best.

    Args:
        predictions: The predicted answer of each question; "" says that the context does not answer it.
        answers: The right answers of each question; none, or only empty ones, where the context does not answer it.
        language: See `normalize_answer`.

    Returns:
        (questions, 2) values from 0 to 1, in the order of `ANSWER_MEASURES`. Their means are the scores, their
        differences those of a paired test.

    Raises:
        InputError: If the numbers differ, or there is no question.
    """
    if len(predictions) != len(answers) or not len(predictions):
        raise InputError(
            f"{len(predictions)} predicted answers cannot be compared with the answers of {len(answers)} questions",
            "predict one answer for each question",
        )
    values = np.zeros((len(predictions), 2))
    for row, (prediction, several) in enumerate(zip(predictions, answers, strict=True)):
        right = _right_answers(several, language)
        given = normalize_answer(prediction, language)
        values[row] = (
            max(given == normalize_answer(one, language) for one in right),
            max(answer_f1(prediction, one, language) for one in right),
        )
    return values


def answer_scores(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    language: str | None = "en",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> AnswerScores:
    """Return exact match and F1 with their intervals; SQuAD gives the same numbers in per cent.

    Args:
        predictions: The predicted answer of each question; "" says that the context does not answer it.
        answers: The right answers of each question; none, or only empty ones, where the context does not answer it.
        language: See `normalize_answer`.
        draws: Number of bootstrap resamples of the questions.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If the numbers differ, or there is no question.

    Examples:
        >>> answer_scores(["the Tagus", "1822"], [["Tagus", "River Tagus"], ["in 1822"]]).f1.value
        0.833...
    """
    values = answer_values(predictions, answers, language)
    estimates = mean_estimates(values, ANSWER_MEASURES, draws=draws, seed=seed)
    unanswerable = sum(_right_answers(several, language) == [""] for several in answers)
    return AnswerScores(estimates["exact_match"], estimates["f1"], len(values), unanswerable)


_ASCII_PUNCTUATION = frozenset(string.punctuation)


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def _right_answers(answers: Sequence[str], language: str | None) -> list[str]:
    """Return the right answers that hold something after normalisation, or the empty one where there are none."""
    return [one for one in answers if normalize_answer(one, language)] or [""]
