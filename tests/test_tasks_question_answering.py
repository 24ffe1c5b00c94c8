"""Question answering: trained, measured, and used on contexts that are longer than the model can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lavra
from labelled_rows import QUICK, asked, encoder, pair_wordpiece, write
from lavra.core.errors import InputError
from lavra.data.examples.labelled import LabelledTokens
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.spans import SpanColumns
from lavra.tasks import answering
from lavra.tasks.answering import Answer, answer, answers_of, measure_answers
from lavra.tasks.datasets import DataDescription
from lavra.tasks.table import choose_task
from lavra.workflows.models.open import open_model

FACTS: dict[str, Any] = {"columns": {"overlap": 8}, "unanswerable": 0.0, "answer_tokens": 30}
CONTEXT = "No ano 1900, Ana mora em Lisboa. Rui Silva mora em Porto Alegre desde sempre e gosta de Beja."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(encoder(tmp_path_factory.mktemp("base")))


def train(folder: Path, base: str, rows: list[dict[str, Any]], **fields: Any) -> lavra.Run:
    data, validation = write(folder / "rows.jsonl", rows[8:]), write(folder / "dev.jsonl", rows[:8])
    options = {**QUICK, "text": {"validation": (validation,)}, "base": base, "check": False, **fields}
    return lavra.train([data], out=str(folder / "run"), **options)


def test_it_learns_and_answers_from_contexts_of_any_length(base: str, tmp_path: Path):
    run = train(tmp_path, base, asked(48), steps=60, optimization={"learning_rate": 3e-3}, check=True)
    assert run.plan["task"] == "question-answering"
    assert run.plan["facts"]["unanswerable"] == 0.0
    assert "accuracy" in run.metrics[-1]
    assert run.result["exact_match"]["value"] > 0.9
    assert run.result["f1"]["value"] >= run.result["exact_match"]["value"]
    assert answering.BASELINE in run.result["baseline_scores"]
    assert lavra.evaluate(str(run.path)).to_json()["exact_match"] == run.result["exact_match"]
    given = lavra.evaluate(str(run.path), [str(tmp_path / "dev.jsonl")]).to_json()
    assert given["f1"] == run.result["f1"]
    opened = open_model(str(run.path), "cpu")
    assert opened.task is not None
    context = asked(1)[0]["context"]
    found = answer(opened.model, opened.tokenizer, opened.task[1], "Onde mora?", context)
    assert found.text == context[found.start : found.start + len(found.text)] == "Lisboa"
    assert 0.0 < found.score <= 1.0
    [same] = lavra.classify(str(run.path), [(context, "Onde mora?")])  # pyright: ignore[reportArgumentType]
    assert same.label == "Lisboa"
    assert same.probabilities == {"Lisboa": pytest.approx(found.score, rel=1e-4)}
    long = "Não se sabe nada. " * 30 + context + " Nada se sabe." * 30
    found = answer(opened.model, opened.tokenizer, opened.task[1], "Onde mora?", long)
    assert long[found.start : found.start + len(found.text)] == found.text
    with pytest.raises(InputError, match="the context holds no text"):
        answer(opened.model, opened.tokenizer, opened.task[1], "Onde mora?", "​")


def test_questions_without_an_answer_are_learned(base: str, tmp_path: Path):
    rows = asked(48)
    for row in rows[::2]:
        row["question"], row["answers"] = "Quando nasceu?", {"text": [], "answer_start": []}
    run = train(tmp_path, base, rows, steps=60, optimization={"learning_rate": 3e-3})
    assert run.plan["facts"]["unanswerable"] == 0.5
    assert run.result["unanswerable"] == 4
    assert run.result["exact_match"]["value"] > 0.9
    opened = open_model(str(run.path), "cpu")
    assert opened.task is not None
    found = answer(opened.model, opened.tokenizer, opened.task[1], "Quando nasceu?", rows[0]["context"])
    assert (found.text, found.start) == ("", -1)


def test_rows_in_the_layout_of_squad_are_for_encoders_unless_the_task_is_named():
    data = DataDescription(frozenset({"context", "question", "answers", "id", "title"}))

    def chosen(kind: Any, task: str = "auto") -> str:
        return choose_task(task, "auto", kind, data, "a model")[0].name

    assert chosen("encoder") == "question-answering"
    assert chosen("decoder") == "completion"
    assert chosen("decoder", "question-answering") == "question-answering"


def test_columns_that_are_not_there_are_named():
    data = DataDescription(frozenset({"passage", "question"}))
    task, _ = choose_task("question-answering", "auto", "encoder", data, "a model")
    with pytest.raises(InputError, match="finds no context, question and answers among passage, question"):
        task.reader(data)


def test_answers_that_nobody_can_learn_are_refused_or_said(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = asked(24)
    for row in rows[10:]:
        row["context"] += " Depois disso não aconteceu mais nada." * 6
    rows[10]["answers"] = {"text": [rows[10]["context"][5:]], "answer_start": [5]}
    rows[11]["answers"] = {"text": ["Sagres"], "answer_start": [3]}
    train(tmp_path, base, rows)
    told = capsys.readouterr().err
    assert "the answers to 1 question are whole in no window, and are not learned" in told
    assert "left out 1 row: answer that is not in its context ('Sagres')" in told
    nothing = [{**row, "answers": []} for row in asked(24)]
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no question of the training data has an answer in its context"):
        train(tmp_path / "none", base, nothing)


# The choice of the span, by scores that are made up.


def windows(limit: int | None = 40) -> list[LabelledTokens]:
    [parts] = SpanColumns(overlap=8).encode(
        [ExampleRow("", "", CONTEXT, "Onde mora Ana?", labels={"answers": ["Lisboa"], "answer_start": 25})],
        pair_wordpiece(),
        limit,
    )
    return list(parts)


def chosen(
    scores: list[np.ndarray], parts: list[LabelledTokens], monkeypatch: pytest.MonkeyPatch, **facts: Any
) -> Answer:
    def outputs(model: Any, given: list[LabelledTokens], make: Any) -> list[Any]:
        return [make(part, torch.tensor(one)) for part, one in zip(given, scores, strict=True)]

    monkeypatch.setattr(answering, "outputs_of_tokens", outputs)
    return answers_of(None, pair_wordpiece(), {**FACTS, **facts}, [parts])[0]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("unanswerable", [0.0, 0.3])
def test_the_best_span_is_that_of_a_search_through_all(unanswerable: float, monkeypatch: pytest.MonkeyPatch):
    parts = windows()
    assert len(parts) > 2
    for seed in range(20):
        random = np.random.default_rng(seed)
        scores = [random.normal(size=(len(part.tokens), 2)) * 2 for part in parts]
        found = chosen(scores, parts, monkeypatch, unanswerable=unanswerable, answer_tokens=3)
        every, total = [], 0.0
        for part, one in zip(parts, scores, strict=True):
            begin, size = part.labels["begin"], part.labels["size"]
            for first in range(size):
                for last in range(first, min(size, first + 3)):
                    score = one[begin + first, 0] + one[begin + last, 1]
                    total += np.exp(score)
                    every.append((score, part.labels["first"] + first, part.labels["first"] + last))
        best, first, last = max(every)
        nothing = min(one[0].sum() for one in scores)
        if unanswerable:
            total += np.exp(nothing)
            if nothing > best:
                assert found == Answer("", pytest.approx(np.exp(nothing) / total), -1)  # pyright: ignore[reportArgumentType]
                continue
        [placed] = answering.encode_with_offsets(pair_wordpiece(), [CONTEXT])
        start, end = placed.offsets[first, 0], placed.offsets[last, 1]
        assert (found.text, found.start) == (CONTEXT[start:end], start)
        assert found.score == pytest.approx(np.exp(best) / total)


def test_nothing_is_said_only_where_every_window_says_so(monkeypatch: pytest.MonkeyPatch):
    parts = windows()
    scores = [np.full((len(part.tokens), 2), -9.0) for part in parts]
    for one in scores:
        one[0] = 5.0
    assert chosen(scores, parts, monkeypatch, unanswerable=0.3).text == ""
    assert chosen(scores, parts, monkeypatch).text  # where all questions had an answer, one is always given
    scores[1][0] = -20.0
    assert chosen(scores, parts, monkeypatch, unanswerable=0.3).text


def test_the_baseline_is_the_sentence_that_shares_most_words():
    parts = windows(None)
    measured = measure_answers(
        [parts, parts], [Answer("Lisboa", 1.0, 25), Answer("em Lisboa", 1.0, 22)], 0, language="pt"
    )
    assert measured.figures["exact_match"]["value"] == 0.5
    assert measured.figures["f1"]["value"] == pytest.approx((1 + 2 / 3) / 2)
    sentence = measured.figures["baseline_scores"][answering.BASELINE]
    assert sentence["f1"]["value"] == pytest.approx(2 / (1 + 7))  # "No ano 1900, Ana mora em Lisboa."
    assert "articles of pt do not count" in measured.table
    unknown = [[LabelledTokens(parts[0].tokens, {**parts[0].labels, "answers": None})]]
    with pytest.raises(InputError, match="no question of these rows has an answer"):
        measure_answers(unknown, [Answer("x", 1.0, 0)], 0)
