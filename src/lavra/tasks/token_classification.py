"""Token classification: a tag for each word of a sentence, such as its part of speech or the entity it belongs to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.store import Example
from lavra.data.examples.tagged import NO_TOKEN, TaggedColumns
from lavra.generation.classifying import Classification
from lavra.models.heads import TokenHead
from lavra.models.protocols import IGNORED
from lavra.objectives.classify import Classify, LabelledText
from lavra.tasks.base import Measured, Task, Trained
from lavra.tasks.classification import ordered
from lavra.tasks.datasets import DataDescription, Dataset
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelObjective
from lavra.tasks.tagging import are_entities, frequent_tags, measure_tags, tagged_sentences
from lavra.tasks.text_parts import in_part, said_in_time, validation_parts

WORD_NAMES = ("tokens", "words")
"""Names of columns that are recognised as lists of words."""

TAG_NAMES = ("tags", "ner_tags", "pos_tags", "upos", "labels")
"""Names of columns that are recognised as lists of tags, in the order in which they are tried."""

_WORDS_OF_TAG = 2.0
"""Fewest words of a tag on average; what has fewer are no tags."""

_SAMPLE_WORDS = 40
"""Most words of a sample."""


@dataclass(frozen=True)
class TagObjective(LabelObjective):
    """The objective of tagged sentences: the class of each word is learned at its first token."""

    def labelled(self, example: Example) -> LabelledText:
        """Return a sentence of the store with a class for each token, `IGNORED` where a token has none."""
        text = super().labelled(example)
        if text.label is None:
            return text
        starts = np.array(example.labels["starts"], np.int64)
        classes = np.full(len(text.tokens), IGNORED, np.int64)
        classes[starts[starts != NO_TOKEN]] = np.asarray(text.label)[starts != NO_TOKEN]
        return replace(text, label=classes)


class TokenClassificationTask(Task):
    """A tag for each word of a sentence, given as a list of words and a list of tags."""

    name, objectives = "token-classification", ("token-classification",)
    kinds = ("decoder", "encoder")
    rows = "labelled"
    causal = False
    bos = True
    most_epochs = (5.0, 30.0)
    fewest_steps, fewest_rows = 30, 2  # windows fill a row, so that a usual step takes long on a processor
    learns, headline = "words", "accuracy"

    def recognises(self, data: DataDescription) -> bool:
        """Return whether there is a column with a list of words, and one with a list of tags."""
        if data.prepared is not None:
            return data.prepared == "labelled" and {"tokens", "tags", "starts"} <= data.columns
        names = self._names(data)
        return names is not None and all(isinstance(data.first_row.get(name), list | tuple) for name in names)

    def reader(self, data: DataDescription) -> TaggedColumns:
        """Return what reads the rows.

        Raises:
            InputError: If no columns of words and tags are found.
        """
        names = self._names(data)
        if names is None and data.columns:
            raise InputError(
                f"the task {self.name} finds no lists of words and tags among {', '.join(sorted(data.columns))}",
                "name them: --text-column COLUMN --label-column COLUMN",
            )
        return TaggedColumns(*names) if names else TaggedColumns()

    @staticmethod
    def _names(data: DataDescription) -> tuple[str, str] | None:
        """Return the columns of words and tags; None where there are no such columns."""
        words = next((name for name in (*WORD_NAMES, data.text_column) if name in data.columns), None)
        known = TAG_NAMES if data.label_column is None else (data.label_column,)
        tags = next((name for name in known if name in data.columns), None)
        return None if words is None or tags is None else (words, tags)

    def reader_from(self, columns: dict[str, Any]) -> TaggedColumns:
        """Return what reads further rows, which may lack labels."""
        return TaggedColumns(**columns, may_lack_labels=True)

    def facts(self, dataset: Dataset) -> dict[str, Any]:
        """Return the tags: their names in order, how often each occurs, and their weights
        where they are balanced; and as `entities` whether they mark entities, as BIO tags do."""
        assert isinstance(dataset, LabelledDataset)
        counts, lost = _counted(dataset, validation=False)
        unseen = {name: count for name, count in _counted(dataset, validation=True)[0].items() if name not in counts}
        classes = ordered(counts)
        _refuse(classes, counts)
        if lost:
            log(f"warning: {counted(lost, 'word')} without a token of this tokenizer; their tags are not learned")
        if unseen:
            told = ", ".join(f"{name} ({count:,})" for name, count in unseen.items())
            log(f"warning: tags of the validation data that are not in the training data count as errors: {told}")
        frequencies = [counts[name] for name in classes]
        total = sum(frequencies)
        return {
            "classes": classes,
            "frequencies": frequencies,
            "class_weights": [total / (len(classes) * frequency) for frequency in frequencies],
            "entities": are_entities(classes),
        }

    def head(self, facts: dict[str, Any], width: int) -> TokenHead:
        """Return the head of tokens."""
        head = TokenHead(width, len(facts["classes"]), dropout=facts["head"]["dropout"])
        head.initialize()
        return head

    def objective(self, plan: Any, model: Any, dataset: Dataset) -> TagObjective:
        """Return the objective on the rows of the store."""
        facts = plan.facts
        numbers = {name: number for number, name in enumerate(facts["classes"])}
        inner = Classify(
            plan.context,
            len(numbers),
            tokens=True,
            class_weights=tuple(facts["class_weights"]) if facts["head"]["class_weights"] == "balanced" else None,
            label_smoothing=plan.label_smoothing,
        )
        return TagObjective(inner, lambda row: _classes(row, numbers))

    def first_loss(self, facts: dict[str, Any]) -> float:
        """Return the loss of guessing all tags alike."""
        return math.log(len(facts["classes"]))

    def must_learn(self, tokenizer: Any) -> tuple[int, ...]:
        """Return nothing: no token has to be learned."""
        return ()

    def metrics(self, loss: float, parts: Mapping[str, float], **_: Any) -> dict[str, float]:
        """Return the share of the words whose tag is right."""
        return dict(parts)

    def evaluate(self, trained: Trained) -> Measured:
        """Measure entities by their F1, and other tags by their accuracy, beside the most frequent tag of each word."""
        facts, dataset = trained.plan.facts, trained.dataset
        assert isinstance(dataset, LabelledDataset)
        every = [row for row in validation_parts(trained) if row[0].labels["tags"] is not None]
        rows, sentences = said_in_time(trained, every, lambda some: tagged_sentences(trained.model, facts, some))
        # Rows that are given to a trained model come without the data that it was trained on.
        known = dataset.prepared.train.folder != dataset.prepared.validation.folder
        frequent = frequent_tags(dataset.labelled()) if known else None
        measured = measure_tags(sentences, facts, frequent, trained.plan.seed)
        return in_part(measured, len(rows), len(every), "sentence")

    def predict(self, trained: Trained) -> Iterator[tuple[int, Classification]]:
        """Yield the number of each given row, and its words with a list of tags as their label."""
        rows = validation_parts(trained)
        tagged = tagged_sentences(trained.model, trained.plan.facts, rows)
        for row, one in zip(rows, tagged, strict=True):
            yield row[0].labels["row"], Classification(" ".join(one.words), one.predicted, {})

    def samples(self, trained: Trained, count: int) -> list[dict[str, str]]:
        """Return the first validation sentences with their predicted tags beside the true ones."""
        rows = validation_parts(trained)[:count]
        return [
            {
                "prompt": " ".join(one.words[:_SAMPLE_WORDS]),
                "text": _shown(one.words, one.predicted),
                "expected": _shown(one.words, one.truth or []),
            }
            for one in tagged_sentences(trained.model, trained.plan.facts, rows)
        ]


def _classes(row: Mapping[str, Any], numbers: Mapping[str, int]) -> list[int] | None:
    """Return the number of the tag of each word, `IGNORED` for a word without a known one; None without any tags."""
    tags = row["tags"]
    return None if tags is None else [IGNORED if name is None else numbers.get(name, IGNORED) for name in tags]


def _counted(dataset: LabelledDataset, *, validation: bool) -> tuple[Counter[str], int]:
    """Return how often each tag occurs, and the number of words with a tag and without a token."""
    counts: Counter[str] = Counter()
    lost = 0
    for row in dataset.labelled(validation=validation):
        for name, start in zip(row["tags"] or (), row["starts"], strict=False):
            if name is not None:
                counts[name] += 1
                lost += start == NO_TOKEN
    return counts, lost


def _refuse(classes: list[str], counts: Counter[str]) -> None:
    """Refuse tags from which nothing can be learned, and say which are too rare for it."""
    if len(classes) < 2:
        raise InputError(
            f"the tags hold {f'{classes[0]!r} alone' if classes else 'nothing'}", "give sentences with different tags"
        )
    if counts.total() < _WORDS_OF_TAG * len(classes):
        raise InputError(
            f"there are {len(classes):,} different tags on {counts.total():,} words, such as "
            f"{', '.join(repr(name[:30]) for name in classes[:3])}: these are no tags",
            "name another column with --label-column",
        )
    single = [name for name in classes if counts[name] == 1]
    if single:
        log(f"warning: {counted(len(single), 'tag')} with one word: {', '.join(single[:5])}")


def _shown(words: list[str], tags: Any) -> str:
    pairs = list(zip(words, tags, strict=False))[:_SAMPLE_WORDS]
    return " ".join(word if name == "O" else f"{word}/{name}" for word, name in pairs)
