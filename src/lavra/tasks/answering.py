"""Answers that a trained model takes out of a context: predicted, and measured beside the likeliest sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lavra.core.errors import InputError
from lavra.core.units import counted
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.spans import SpanColumns
from lavra.data.tokenizers.offsets import encode_with_offsets
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.labels.answers import ARTICLES, AnswerScores, answer_scores, normalize_answer
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.tasks.base import Measured
from lavra.tasks.text_parts import Part, outputs_of_tokens
from lavra.text.chunking import sentences
from lavra.text.languages import guess_language

ANSWER_TOKENS = 30
"""Most tokens of an answer, where those of the training data are no longer."""

BASELINE = "the sentence with most words of the question"
"""Name of the baseline."""

_CONTEXTS_FOR_LANGUAGE = 200
"""Contexts by which the language is guessed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of a context that answers a question.

    Attributes:
        text: The answer as it stands in the context; empty where the context does not answer the question.
        score: Probability from 0 to 1, among all parts of at most the allowed length in all windows of the context.
        start: Index of its first character in the context; -1 for an empty answer.
    """

    text: str
    score: float
    start: int


def answer(
    model: Decoder | HFModel,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    question: str,
    context: str,
    *,
    window: int | None = None,
) -> Answer:
    """Return the likeliest answer to a question about a context of any length.

    Args:
        model: Model with the head of the task.
        tokenizer: Tokenizer of the model.
        facts: What the task knows (`QuestionAnsweringTask.facts`).
        question: The question.
        context: The text that may hold the answer.
        window: Largest number of tokens that are read together; by default as many as the model can read.

    Raises:
        InputError: If the context has no tokens.
    """
    reader = SpanColumns(overlap=facts["columns"]["overlap"], may_lack_labels=True)
    [parts] = reader.encode([ExampleRow("", "", context, question)], tokenizer, window or model.context)
    if not parts:
        raise InputError("the context holds no text", "give a text that may answer the question")
    return answers_of(model, tokenizer, facts, [list(parts)])[0]


def answers_of(
    model: Decoder | HFModel, tokenizer: Tokenizer, facts: Mapping[str, Any], rows: Sequence[Sequence[Part]]
) -> list[Answer]:
    """Return the likeliest answer to each question.

    Args:
        model: Model with the head of the task.
        tokenizer: Tokenizer of the model.
        facts: What the task knows.
        rows: The windows of each question, in order.
    """
    longest = int(facts["answer_tokens"])
    found = iter(
        outputs_of_tokens(
            model, [part for row in rows for part in row], lambda part, outputs: _best_span(part, outputs, longest)
        )
    )
    contexts = list(dict.fromkeys(row[0].labels["texts"][1] for row in rows))
    placed = {
        context: tokens.without_spaces(context)
        for context, tokens in zip(contexts, encode_with_offsets(tokenizer, contexts), strict=True)
    }
    answers = []
    for row in rows:
        said = [next(found) for _ in row]
        best = max(said, key=lambda one: one.score)
        nothing = min(one.nothing for one in said)  # every window has to say that it holds no answer
        everything = torch.tensor([one.everything for one in said]).logsumexp(0)
        context = row[0].labels["texts"][1]
        if facts["unanswerable"]:
            everything = torch.logaddexp(everything, torch.tensor(nothing))
            if nothing > best.score:
                answers.append(Answer("", float((nothing - everything).exp()), -1))
                continue
        start, end = int(placed[context][best.first, 0]), int(placed[context][best.last, 1])
        answers.append(Answer(context[start:end], float((best.score - everything).exp()), start))
    return answers


@dataclass(frozen=True, slots=True)
class _Best:
    """The best span of a window: its tokens in the context, its score, the logarithm of the summed exponentials of all
    scores, and the score of no answer."""

    first: int
    last: int
    score: float
    everything: float
    nothing: float


def _best_span(part: Part, outputs: torch.Tensor, longest: int) -> _Best:
    """Return the best span of at most `longest` tokens of the context in a window.

    The score of a span is the sum of its outputs, that of its first token as a beginning and of its last as an end.
    """
    begin, first, size = (int(part.labels[name]) for name in ("begin", "first", "size"))
    starts, ends = outputs[begin : begin + size].double().unbind(-1)
    places = torch.arange(size)
    apart = places[None] - places[:, None]
    scores = (starts[:, None] + ends[None]).masked_fill((apart < 0) | (apart >= longest), -torch.inf)
    best = int(scores.argmax())
    return _Best(
        first + best // size,
        first + best % size,
        float(scores.max()),
        float(scores.flatten().logsumexp(0)),
        float(outputs[0].double().sum()),
    )


def likeliest_sentence(question: str, context: str, language: str | None) -> str:
    """Return the first sentence of the context that shares most different words with the question.

    Args:
        question: The question.
        context: The context.
        language: Language whose articles do not count, see `normalize_answer`.

    Examples:
        >>> likeliest_sentence("Who fell?", "It rained. The king fell. Nobody saw it.", "en")
        'The king fell.'
    """
    asked = set(normalize_answer(question, language).split())
    parts = [context[one.start : one.end].strip() for one in sentences(context)]
    return max(parts, key=lambda part: len(asked.intersection(normalize_answer(part, language).split())), default="")


def measure_answers(
    rows: Sequence[Sequence[Part]], given: Sequence[Answer], seed: int, *, language: str | None = None
) -> Measured:
    """Measure predicted answers: exact match and F1 as SQuAD counts them, each with its interval over questions.

    Args:
        rows: The windows of each question, with the right answers; those without any label are left out.
        given: The predicted answer of each question.
        seed: Seed of the bootstrap.
        language: Language whose articles do not count, "en" or "pt"; by default it is guessed by the contexts.

    Raises:
        InputError: If nothing is known of any question.
    """
    pairs = [(row[0].labels, one) for row, one in zip(rows, given, strict=True) if row[0].labels["answers"] is not None]
    if not pairs:
        raise InputError("no question of these rows has an answer", "give answers, or none for unanswerable questions")
    language = language or guess_language(labels["texts"][1] for labels, _ in pairs[:_CONTEXTS_FOR_LANGUAGE]).language
    truth = [labels["answers"] for labels, _ in pairs]
    model = answer_scores([one.text for _, one in pairs], truth, language, seed=seed)
    simple = [likeliest_sentence(labels["texts"][0], labels["texts"][1], language) for labels, _ in pairs]
    baseline = answer_scores(simple, truth, language, seed=seed)
    figures = {**model.to_json(), "language": language, "baseline_scores": {BASELINE: baseline.to_json()}}
    return Measured(figures, _table([("the model", model), (BASELINE, baseline)], language))


def _table(named: Sequence[tuple[str, AnswerScores]], language: str | None) -> str:
    model = named[0][1]
    wide = max(len(name) for name, _ in named)
    beside = f", {model.unanswerable:,} of them without an answer" if model.unanswerable else ""
    articles = f"; articles of {language} do not count" if language in ARTICLES else ""
    lines = [f"answers to {counted(model.questions, 'question')}{beside}{articles}"]
    lines += [f"  {name:<{wide}}  exact match {_told(one.exact_match)}  F1 {_told(one.f1)}" for name, one in named]
    if model.f1.value < named[1][1].f1.value:
        lines.append(f"  the model is worse than {named[1][0]}: train it longer, or on more questions")
    return "\n".join(lines)


def _told(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{ends}"
