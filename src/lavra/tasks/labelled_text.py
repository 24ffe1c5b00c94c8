"""What the tasks with one label for each text, or for each pair of texts, share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from lavra.core.errors import InputError
from lavra.core.seeds import Streams
from lavra.data.examples.labelled import LabelColumns
from lavra.data.examples.store import Example, PackedRow
from lavra.evaluation.labels.metrics import scores
from lavra.evaluation.labels.predictions import Kind, Predictions
from lavra.evaluation.labels.predictions_file import PREDICTIONS, write_predictions
from lavra.evaluation.labels.thresholds import Thresholds
from lavra.models.heads import SequenceHead
from lavra.models.protocols import Batch, Model
from lavra.objectives.base import Loss
from lavra.objectives.classify import Classify, LabelledText, Outputs
from lavra.objectives.span import Span
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.deciding_words import deciding_words, write_words
from lavra.tasks.label_predictions import predictions_of, scores_table
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.linear_baseline import LINEAR, linear_predictions, read_baseline

LABEL_NAMES = ("label", "labels", "class", "category", "intent", "sentiment", "rótulo", "rotulo", "classe", "categoria")
"""Names of columns that are recognised as labels."""

SCORE_NAMES = ("score", "rating", "similarity", "nota")
"""Names of columns that are recognised as numbers to predict."""

_TEXT_NAMES = (
    *("text", "sentence", "content", "review", "comment", "body", "utterance", "tweet"),
    *("texto", "frase", "sentença", "comentário", "comentario", "avaliação", "avaliacao"),
)
PAIR_NAMES = (
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
)
"""Names of the columns of two texts that are compared or read together."""

_HOLDS = 0.5
"""Probability from which on a label holds."""

SETTINGS = ("temperature", "thresholds")
"""Facts that are fitted to out-of-fold predictions of a model, and belong to that model alone."""

UNMEASURED = Measured({}, "nothing was measured, because all rows were learned; lavra evaluate measures on others")
"""What is said of a model for which no rows were kept."""


@dataclass(frozen=True)
class LabelObjective:
    """The objective of labelled texts: `Classify` on the rows of a store, whose labels become numbers on the way.

    Attributes:
        inner: The objective on texts with numbers.
        target: What makes of the columns of a text the label that `inner` learns; None where nothing is known.
    """

    inner: Classify | Span
    target: Callable[[Mapping[str, Any]], Any]

    def encode(self, rows: Sequence[PackedRow], streams: Streams, progress: float) -> Batch:
        """Return the batch of rows of texts, see `Classify.encode`."""
        return self.inner.encode([[self.labelled(one) for one in row.examples] for row in rows], streams, progress)

    def labelled(self, example: Example) -> LabelledText:
        """Return a text of the store with its label as numbers, and its weight."""
        labels = example.labels
        weight = labels.get("weight")
        return LabelledText(
            example.number,
            example.tokens,
            self.target(labels),
            1.0 if weight is None else float(weight),
            int(labels.get("second_type_from", 0)),
        )

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the loss of a batch, see `Classify.loss`."""
        return self.inner.loss(model, batch, learning=learning)


class LabelledTextTask(Task):
    """A task whose rows are a text, or two, with one label: what its labels are, is for the subclass to say.

    Attributes:
        outputs: What the outputs of the head are, see `lavra.objectives.classify.Outputs`.
        kind: What the predictions are, see `lavra.evaluation.labels.predictions.Kind`.
        losses: The objective on texts whose labels are numbers.
        label_names: Names of columns that are recognised as labels, in the order in which they are tried.
    """

    rows = "labelled"
    kinds = ("decoder", "encoder")
    causal = False
    bos = True
    most_epochs = (5.0, 30.0)
    learns, headline = "texts", "accuracy"
    outputs: ClassVar[Outputs]
    kind: ClassVar[Kind]
    losses: ClassVar[type[Classify]] = Classify
    label_names: ClassVar[tuple[str, ...]] = LABEL_NAMES

    def recognises(self, data: DataDescription) -> bool:
        """Return whether there are columns of a text, or of two, and one of labels."""
        if data.prepared is not None:
            return data.prepared == "labelled" and any(name in data.columns for name in self.label_names)
        columns = self.columns_of(data)
        return columns is not None and columns.labels[0] in data.columns

    def columns_of(self, data: DataDescription) -> LabelColumns | None:
        """Return the columns of text and label; None where there are no such columns.

        Args:
            data: What is known of the data.
        """
        label = data.label_column or next((name for name in self.label_names if name in data.columns), None)
        if label is None:
            return None
        if data.template:
            return LabelColumns("", (label,), template=data.template)
        known = (data.text_column, *_TEXT_NAMES)
        pair = next((pair for pair in PAIR_NAMES if set(pair) <= data.columns), None)
        text = next((name for name in known if name in data.columns and name != label), None)
        if text is None and pair is not None:
            return LabelColumns(pair[0], (label,), second=pair[1])
        return None if text is None else LabelColumns(text, (label,))

    def reader(self, data: DataDescription) -> LabelColumns:
        """Return what reads the rows.

        Raises:
            InputError: If no columns of a text and of a label are found.
        """
        found = self.columns_of(data)
        if found is not None:
            return found
        if not data.columns:  # nothing is known beforehand of what is read once, such as a pipe
            return LabelColumns(data.text_column, (data.label_column or self.label_names[0],), template=data.template)
        raise InputError(
            f"the task {self.name} finds no columns of text and label among {', '.join(sorted(data.columns))}",
            "name them: --text-column COLUMN --label-column COLUMN",
        )

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        """Return what the labels are."""
        assert isinstance(dataset, LabelledDataset)
        return self.label_facts(dataset.columns_read["labels"][0], dataset)

    def reader_from(self, columns: dict[str, Any]) -> LabelColumns:
        """Return what reads further rows, which may lack labels."""
        return LabelColumns(**columns, may_lack_labels=True)

    @abstractmethod
    def label_facts(self, column: str, dataset: LabelledDataset) -> dict[str, Any]:
        """Return what the labels are, such as the names of the classes as `classes`, as plain values.

        Args:
            column: The column of the labels.
            dataset: The data set.

        Raises:
            InputError: If nothing can be learned from such labels.
        """

    @abstractmethod
    def target(self, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
        """Return the label of a row as `LabelledText` takes it; None where it has none.

        Args:
            facts: What `facts` returned.
            row: The columns of the row.

        Raises:
            InputError: If the label is none of those that the model knows.
        """

    def size(self, facts: Mapping[str, Any]) -> int:
        """Return the number of outputs of the head."""
        return len(facts["classes"])

    def head(self, facts: dict[str, Any], width: int) -> torch.nn.Module:
        """Return the head of a text."""
        options = facts["head"]
        # The classes of `transformers` for labels of decoders have no bias, and nothing else could hold a mean.
        bias = self.outputs == "values" or not (options.get("kind") == "decoder" and options["pooling"] == "last")
        return SequenceHead(width, self.size(facts), options["pooling"], options["dropout"], bias)

    def objective(self, plan: Any, model: Any, dataset: Dataset) -> LabelObjective:
        """Return the objective on the rows of the store."""
        facts = plan.facts
        inner = self.losses(
            plan.context,
            self.size(facts),
            self.outputs,
            class_weights=facts.get("class_weights") if facts["head"]["class_weights"] == "balanced" else None,
            label_smoothing=plan.label_smoothing,
        )
        return LabelObjective(inner, lambda row: self.target(facts, row))

    @abstractmethod
    def targets(self, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return what is known of each row, (rows, outputs), as `Predictions` takes it.

        Args:
            facts: What `facts` returned.
            rows: The columns of each row.

        Raises:
            InputError: If a label is none of those that the model knows.
        """

    def predictions(self, trained: Trained) -> Predictions:
        """Return the table of predictions for the validation texts.

        Args:
            trained: The model and its data.
        """
        dataset, facts = trained.dataset, trained.plan.facts
        assert isinstance(dataset, LabelledDataset)
        rows = list(dataset.labelled(validation=True))
        numbers = partial(self.probabilities, facts)
        return predictions_of(trained, rows, self.targets(facts, rows), facts["classes"], self.kind, numbers)

    def probabilities(self, facts: Mapping[str, Any], outputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the head, (…, outputs), as probabilities, or as values in their own units.

        Args:
            facts: What `facts` returned; the outputs of classes are divided by its `temperature` where it has one.
            outputs: Outputs of the head.
        """
        if self.outputs != "classes":
            return outputs.sigmoid()
        temperature = facts.get("temperature", 1.0)
        return (outputs if temperature == 1.0 else outputs / temperature).softmax(-1)

    def decisions(self, facts: Mapping[str, Any], table: Predictions) -> np.ndarray:
        """Return what is decided for each row of a table, in the form of `Predictions.decisions`.

        Args:
            facts: What `facts` returned, with the `thresholds` of the labels where these were fitted.
            table: The predictions.
        """
        thresholds = facts.get("thresholds")
        return table.decisions() if thresholds is None else Thresholds(np.array(thresholds)).decide(table)

    def evaluate(self, trained: Trained) -> Measured:
        """Measure a trained model on the validation texts, with intervals, beside the baseline that sees no text.

        Args:
            trained: The model and its data; its folder gets the table of predictions.
        """
        if not trained.dataset.validation_rows(trained.plan):
            return UNMEASURED
        table, facts = self.predictions(trained), trained.plan.facts
        if trained.folder is not None:
            write_predictions(trained.folder / PREDICTIONS, table)
        beside = {}
        found = None if trained.run is None else read_baseline(trained.run / LINEAR)
        self._write_words(trained, table, {} if found is None else found[0].deciding_words())
        if found is not None and isinstance(trained.dataset, LabelledDataset):
            rows = list(trained.dataset.labelled(validation=True))
            beside["linear"] = linear_predictions(found[0], self, facts, rows)
        return self.measured(facts, table, beside, trained.plan.seed)

    def measured(
        self, facts: Mapping[str, Any], table: Predictions, beside: Mapping[str, Predictions], seed: int
    ) -> Measured:
        """Return the figures of predictions, beside those of other models and of the majority on the same rows.

        Args:
            facts: What `facts` returned.
            table: The predictions of the model.
            beside: The predictions of other models by their names.
            seed: Seed of the bootstrap intervals.
        """
        columns = {"model": table, **beside, "majority": self.majority(facts, table)}
        decided = {"model": self.decisions(facts, table)}
        measured = {name: scores(one, decided.get(name), seed=seed) for name, one in columns.items()}
        figures = measured["model"].to_json()
        figures["baseline_scores"] = {name: one.to_json() for name, one in measured.items() if name != "model"}
        return Measured(figures, scores_table(measured, self.kind, len(table), "texts"))

    def _write_words(
        self, trained: Trained, table: Predictions, of_baseline: Mapping[str, Sequence[tuple[str, float]]]
    ) -> None:
        """Write the words that decided into the folder of the run, where it is one and there is time."""
        late = trained.deadline is not None and trained.deadline.seconds_left <= 0
        if trained.folder is None or late:
            return
        facts, dataset = trained.plan.facts, trained.dataset
        assert isinstance(dataset, LabelledDataset)
        texts = [row["texts"] for row in dataset.labelled(validation=True)]
        reader = self.reader_from(facts["columns"])
        found = deciding_words(trained, table, texts, reader, partial(self.probabilities, facts))
        write_words(trained.folder, "occlusion", found, of_baseline)

    def majority(self, facts: Mapping[str, Any], table: Predictions) -> Predictions:
        """Return what a model without any text would predict: the frequencies of the training data for every row.

        Args:
            facts: What `facts` returned.
            table: The predictions of the model, whose rows are taken.
        """
        frequencies = np.array(facts["frequencies"], dtype=float)
        return table.with_probabilities(np.tile(frequencies / frequencies.sum(), (len(table), 1)))

    def answer(self, facts: Mapping[str, Any], probabilities: np.ndarray) -> Any:
        """Return what is predicted for a text: the likeliest class, the labels from one half on, or the number.

        Args:
            facts: What `facts` returned.
            probabilities: The prediction for each output, (outputs,).
        """
        classes = facts["classes"]
        if self.kind == "values":
            return float(probabilities[0])
        if self.kind == "labels":
            thresholds = facts.get("thresholds", [_HOLDS] * len(classes))
            shares = zip(classes, probabilities, thresholds, strict=True)
            return [name for name, share, threshold in shares if share >= threshold]
        return classes[int(probabilities.argmax())]

    def must_learn(self, tokenizer: Any) -> tuple[int, ...]:
        """Return nothing: no token has to be learned."""
        return ()

    def metrics(self, loss: float, parts: Mapping[str, float], **_: Any) -> dict[str, float]:
        """Return what the objective measured beside the loss."""
        return dict(parts)


_BY_CLASS = {"frequencies": 0.0, "class_weights": 1.0}
"""Facts with a number for each class, and what stands for a class that the data have no row of."""


def with_known(facts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task knows of its labels, with what is known of them from elsewhere.

    Args:
        facts: What `Task.facts` returned.
        known: Facts that take the place of these. With other `classes`, what is counted by class is put in their order.

    Examples:
        >>> with_known({"classes": ["b"], "frequencies": [3.0]}, {"classes": ["a", "b"], "temperature": 1.5})
        {'classes': ['a', 'b'], 'frequencies': [0.0, 3.0], 'temperature': 1.5}
    """
    found = dict(facts)
    if "classes" in known and "classes" in facts:
        for name, absent in _BY_CLASS.items():
            if name in facts:
                counted = dict(zip(facts["classes"], facts[name], strict=True))
                found[name] = [counted.get(one, absent) for one in known["classes"]]
    return {**found, **known}
