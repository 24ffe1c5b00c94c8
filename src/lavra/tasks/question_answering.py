"""Extractive question answering: the part of a context that answers a question about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.spans import SpanColumns
from lavra.generation.classifying import Classification
from lavra.models.heads import SpanHead
from lavra.models.protocols import Batch
from lavra.objectives.span import Span
from lavra.tasks.answering import ANSWER_TOKENS, answers_of, measure_answers
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelObjective
from lavra.tasks.text_parts import in_part, said_in_time, validation_parts

_USUAL = 0.99
"""Share of the answers of the training data that are not too long to be found."""


@dataclass(frozen=True)
class SpanObjective(LabelObjective):
    """The objective of questions: the first and the last token of the answer in each window."""

    def uninformed_loss(self, batch: Batch) -> float:
        """Return the loss of guessing all tokens alike, which depends on the lengths of the windows."""
        return Span.uninformed_loss(batch)


class QuestionAnsweringTask(Task):
    """The part of a context that answers a question, in the layout of SQuAD, with or without unanswerable questions."""

    name, objectives = "question-answering", ("question-answering",)
    kinds = ("encoder", "decoder")
    rows = "labelled"
    causal = False
    bos = True
    most_epochs = (3.0, 30.0)
    fewest_steps, fewest_rows = 30, 2  # windows fill a row, so that a usual step takes long on a processor
    learns, headline = "windows", "accuracy"

    def recognises(self, data: DataDescription) -> bool:
        """Return whether there are columns of a context, a question and answers.

        A decoder writes its answers, unless this task is named: completion comes before this task in the table.
        """
        if data.prepared is not None:
            return data.prepared == "labelled" and {"texts", "span", "begin"} <= data.columns
        return self._columns(data) is not None

    def reader(self, data: DataDescription) -> SpanColumns:
        """Return what reads the rows.

        Raises:
            InputError: If the columns are not there.
        """
        columns = self._columns(data)
        if columns is None and data.columns:
            raise InputError(
                f"the task {self.name} finds no context, question and answers among {', '.join(sorted(data.columns))}",
                "name the columns context, question and answers",
            )
        return columns or SpanColumns()

    @staticmethod
    def _columns(data: DataDescription) -> SpanColumns | None:
        """Return the columns; None where they are not there."""
        known = ("answers", "answer") if data.label_column is None else (data.label_column,)
        answers = next((name for name in known if name in data.columns), None)
        there = answers is not None and {"context", "question"} <= data.columns
        return SpanColumns(answers=answers) if there and answers is not None else None

    def reader_from(self, columns: dict[str, Any]) -> SpanColumns:
        """Return what reads further rows, which may lack labels."""
        return SpanColumns(**columns, may_lack_labels=True)

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        """Return the share of questions without an answer, and the most tokens of an answer."""
        assert isinstance(dataset, LabelledDataset)
        questions = unanswerable = split = 0
        lengths: list[int] = []
        found, known = True, False
        for row in dataset.labelled():
            if row["window"] == 0:
                split += known and not found
                known = row["answers"] is not None
                questions += known
                found = known and not row["answers"]
                unanswerable += found
            if row["span"] is not None and row["span"] != [0, 0]:
                found = True
                lengths.append(row["span"][1] - row["span"][0] + 1)
        split += known and not found
        if not lengths:
            raise InputError("no question of the training data has an answer in its context", "give such questions")
        if split:
            log(
                f"warning: the answers to {counted(split, 'question')} are whole in no window, and are not learned; "
                "train with a longer context"
            )
        usual = int(np.quantile(lengths, _USUAL, method="higher"))
        return {
            "questions": questions,
            "unanswerable": unanswerable / questions,
            "answer_tokens": max(ANSWER_TOKENS, usual),
            "first_loss": float(np.log(dataset.prepared.train.lengths()).mean()),
        }

    def head(self, facts: dict[str, Any], width: int) -> SpanHead:
        """Return the head of beginnings and ends."""
        head = SpanHead(width, dropout=facts["head"]["dropout"])
        head.initialize()
        return head

    def objective(self, plan: Any, model: Any, dataset: Dataset) -> SpanObjective:
        """Return the objective on the rows of the store."""
        return SpanObjective(Span(plan.context, plan.label_smoothing), lambda row: row["span"])

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return the mean loss of guessing all tokens alike over the training data."""
        return facts["first_loss"]

    def must_learn(self, tokenizer: Any) -> tuple[int, ...]:
        """Return nothing: no token has to be learned."""
        return ()

    def metrics(self, loss: float, parts: Mapping[str, float], **_: Any) -> dict[str, float]:
        """Return the share of the windows whose span is exactly right."""
        return dict(parts)

    def evaluate(self, trained: Trained) -> Measured:
        """Measure exact match and F1 over the validation questions, beside the sentence with most of their words."""
        every = [row for row in validation_parts(trained) if row[0].labels["answers"] is not None]
        facts, tokenizer = trained.plan.facts, trained.dataset.tokenizer
        rows, given = said_in_time(trained, every, lambda some: answers_of(trained.model, tokenizer, facts, some))
        return in_part(measure_answers(rows, given, trained.plan.seed), len(rows), len(every), "question")

    def predict(self, trained: Trained) -> Iterator[tuple[int, Classification]]:
        """Yield the number of each given row, and its question with the answer as its label, empty for none."""
        rows = validation_parts(trained)
        given = answers_of(trained.model, trained.dataset.tokenizer, trained.plan.facts, rows)
        for row, one in zip(rows, given, strict=True):
            yield row[0].labels["row"], Classification(row[0].labels["texts"][0], one.text, {one.text: one.score})

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return the first validation questions with their predicted answers beside the right ones."""
        rows = validation_parts(trained)[:count]
        given = answers_of(trained.model, trained.dataset.tokenizer, trained.plan.facts, rows)
        return [
            {
                "prompt": row[0].labels["texts"][0],
                "text": one.text,
                "expected": (row[0].labels["answers"] or [""])[0],
            }
            for row, one in zip(rows, given, strict=True)
        ]
