"""Labels by a language model: the label whose words it expects most after the prompt; never anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.generation.few_shot import ExampleChooser
from lavra.generation.prompts import source_ids, writes_from_source
from lavra.generation.scoring import calibrated, score, shares
from lavra.text.templates import Template

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel

Combine = Literal["average", "vote"]
LongText = Literal["cut", "refuse"]

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Inputs that say nothing, of contextual calibration (arXiv 2102.09690)."""

SEPARATOR = "/"
"""Between the levels of a label: `sport/football`."""

PATHS_KEPT = 3
"""Branches of the hierarchy, the likeliest, that are followed from one level to the next."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The label of one text.

    Attributes:
        text: what was classified.
        label: the likeliest of the labels.
        probabilities: of every label; they sum to one.
        left_out: characters at the end of the text that did not fit the model's context, in the longest phrasing.
    """

    text: str
    label: str
    probabilities: dict[str, float]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what was found, as plain values."""
        return {"predicted": self.label, "probabilities": self.probabilities, "left_out": self.left_out}


class Classifier:
    """Labels texts by the scores that a model gives to the labels.

    Labels with levels (`sport/football`) are chosen level by level: the first level among `sport` and its like, the
    next among those below the `PATHS_KEPT` best, whose probability is multiplied by that of the level before.

    Args:
        model: with a cache.
        tokenizer: the model's own.
        labels: all that may be answered, at least two.
        templates: phrasings of the task; their probabilities are averaged, or each has one vote.
        chooser: gives the examples that a prompt shows; None for none.
        combine: "average" the phrasings' probabilities, or "vote" (the share of phrasings that prefer a label; draws
            are decided by the average).
        calibrate: undo the preference for labels that the model shows after inputs without content.
        long_text: whether the end of a text that does not fit the context is cut off, or refused.
        bos: whether a beginning-of-text token is read before a prompt; None as the tokenizer does it.
    """

    def __init__(
        self,
        model: CachedModel,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        templates: Sequence[Template],
        *,
        chooser: ExampleChooser | None = None,
        combine: Combine = "average",
        calibrate: bool = True,
        long_text: LongText = "cut",
        bos: bool | None = None,
    ) -> None:
        self._labels = check_labels(labels)
        self._model, self._tokenizer, self._templates = model, tokenizer, list(templates)
        self._chooser, self._calibrate = chooser, calibrate
        self._combine: Combine = combine
        self._long_text: LongText = long_text
        self._bos = bos

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """Return the classification of each text.

        Raises:
            InputError: if a prompt does not fit the model's context even without its text, or a text may not be cut.
        """
        fitted = [[self._fitted(template, text) for text in texts] for template in self._templates]
        found = [
            self._phrasing(template, [prompt for prompt, _ in some])
            for template, some in zip(self._templates, fitted, strict=True)
        ]
        probabilities = combined(np.stack(found), self._combine)
        left_out = [max(cut for _, cut in some) for some in zip(*fitted, strict=True)]
        return [
            Classification(
                text, self._labels[int(row.argmax())], dict(zip(self._labels, row.tolist(), strict=True)), cut
            )
            for text, row, cut in zip(texts, probabilities, left_out, strict=True)
        ]

    def _phrasing(self, template: Template, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (texts, labels) probabilities of one phrasing, of whose prompts those of the texts are given."""
        free = CONTENT_FREE if self._calibrate else ()
        prompts = [*texts, *(self._prompt(template, text) for text in free)]
        reached: list[dict[str, float]] = [{"": 1.0} for _ in prompts]
        while any(self._below(path) for paths in reached for path in paths):
            reached = self._descend(prompts, reached, len(free))
        here = [[paths.get(label, 0.0) for label in self._labels] for paths in reached[: len(texts)]]
        rows = np.array(here).reshape(len(texts), len(self._labels))
        return rows / rows.sum(1, keepdims=True)

    def _fitted(self, template: Template, text: str) -> tuple[str, int]:
        """Return a text's prompt, of at most what the model reads, and how many characters of the text are left out."""
        prompt = self._prompt(template, text)
        if self._excess(prompt) <= 0:
            return prompt, 0
        bare = self._excess(self._prompt(template, ""))
        if bare > 0:
            raise InputError(
                f"the prompt of the template {template.name!r} is {bare} tokens too long for the model's context of "
                f"{self._model.context}, without any text",
                "show fewer or shorter examples (--shots), or use a model with a longer context",
            )
        if self._long_text == "refuse":
            raise InputError(
                f"the text {text[:40]!r}… is {self._excess(prompt)} tokens too long for the model's context",
                "shorten it, or let its end be left out (--long-text cut)",
            )
        fits, too_long = 0, len(text)
        while too_long - fits > 1:  # the longest beginning that fits lies between them
            middle = (fits + too_long) // 2
            shorter = self._excess(self._prompt(template, text[:middle])) <= 0
            fits, too_long = (middle, too_long) if shorter else (fits, middle)
        return self._prompt(template, text[:fits]), len(text) - fits

    def _excess(self, prompt: str) -> int:
        """Return by how many tokens a prompt is too long for the model to score every label after it."""
        if writes_from_source(self._model):
            return len(source_ids(self._tokenizer, prompt)) - self._model.context
        return len(self._tokenizer.encode(prompt)) + self._longest_label - self._model.context

    @cached_property
    def _longest_label(self) -> int:
        """Tokens that a label may take, with one that begins the text, and one more where a path is divided anew."""
        return max(len(self._tokenizer.encode(f" {label}")) + label.count(SEPARATOR) for label in self._labels) + 1

    def _prompt(self, template: Template, text: str) -> str:
        examples = self._chooser.for_text(text) if self._chooser else []
        return template.fill({"text": text, "labels": self._labels, "examples": examples})

    def _below(self, path: str) -> list[str]:
        """Return the labels, or beginnings of labels, one level below a path."""
        if path in self._labels:
            return []
        start = path + SEPARATOR if path else ""
        inside = [label[len(start) :] for label in self._labels if label.startswith(start)]
        return list(dict.fromkeys(start + rest.partition(SEPARATOR)[0] for rest in inside))

    def _descend(self, prompts: list[str], reached: list[dict[str, float]], free: int) -> list[dict[str, float]]:
        """Go one level down from the best paths of each prompt; the last `free` prompts, for calibration, keep all."""
        texts = len(prompts) - free
        for paths in reached[:texts]:
            unfinished = sorted((path for path in paths if self._below(path)), key=lambda path: -paths[path])
            for path in unfinished[PATHS_KEPT:]:
                del paths[path]
        asked = [(number, path) for number, paths in enumerate(reached) for path in paths if self._below(path)]
        starts = [prompts[number] + (f" {path}{SEPARATOR}" if path else "") for number, path in asked]
        options = [
            [child[len(path) + 1 :] if path else f" {child}" for child in self._below(path)] for _, path in asked
        ]
        scored = score(self._model, self._tokenizer, starts, options, bos=self._bos)
        found = {
            place: shares(np.array([one.log_probability for one in row]))
            for place, row in zip(asked, scored, strict=True)
        }
        lower: list[dict[str, float]] = [
            {path: share for path, share in paths.items() if not self._below(path)} for paths in reached
        ]
        for (number, path), row in found.items():
            if free:
                row = calibrated(row, np.stack([found[other, path] for other in range(texts, len(prompts))]))
            for child, share in zip(self._below(path), row.tolist(), strict=True):
                lower[number][child] = reached[number][path] * share
        return lower


def combined(probabilities: NDArray[np.float64], combine: Combine) -> NDArray[np.float64]:
    """Return (texts, labels) probabilities from (phrasings, texts, labels)."""
    average = probabilities.mean(0)
    if combine == "average":
        return average
    votes = (probabilities == probabilities.max(2, keepdims=True)).mean(0)
    decided = votes + 1e-6 * average
    return decided / decided.sum(1, keepdims=True)


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels without repetitions.

    Raises:
        InputError: for fewer than two, an empty one, or one that is at once a level of another.
    """
    distinct = list(dict.fromkeys(label.strip() for label in labels))
    if len(distinct) < 2 or not all(all(label.split(SEPARATOR)) for label in distinct):
        raise InputError(f"{list(labels)} are no labels to choose from", "give two or more, none with an empty part")
    for label in distinct:
        above = next((other for other in distinct if label.startswith(other + SEPARATOR)), None)
        if above is not None:
            raise InputError(
                f"the label {above!r} is also a level of {label!r}", "give only labels at the end of a path"
            )
    return distinct
