"""Labels by a language model: the label whose words it expects most after the prompt; never anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.generation.examples import ExampleChooser
from lavra.generation.scoring import calibrated, score, shares
from lavra.generation.templates import Template

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer
    from lavra.models.contract import CachedModel

Combine = Literal["average", "vote"]

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
    """

    text: str
    label: str
    probabilities: dict[str, float]


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
    ) -> None:
        self._labels = check_labels(labels)
        self._model, self._tokenizer, self._templates = model, tokenizer, list(templates)
        self._chooser, self._calibrate = chooser, calibrate
        self._combine: Combine = combine

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """Return the classification of each text.

        Raises:
            InputError: if a prompt does not fit the model's context.
        """
        found = [self._phrasing(template, texts) for template in self._templates]
        probabilities = combined(np.stack(found), self._combine)
        return [
            Classification(text, self._labels[int(row.argmax())], dict(zip(self._labels, row.tolist(), strict=True)))
            for text, row in zip(texts, probabilities, strict=True)
        ]

    def _phrasing(self, template: Template, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return (texts, labels) probabilities of one phrasing."""
        free = CONTENT_FREE if self._calibrate else ()
        prompts = [self._prompt(template, text) for text in (*texts, *free)]
        reached: list[dict[str, float]] = [{"": 1.0} for _ in prompts]
        while any(self._below(path) for paths in reached for path in paths):
            reached = self._descend(prompts, reached, len(free))
        here = [[paths.get(label, 0.0) for label in self._labels] for paths in reached[: len(texts)]]
        rows = np.array(here).reshape(len(texts), len(self._labels))
        return rows / rows.sum(1, keepdims=True)

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
        scored = score(self._model, self._tokenizer, starts, options)
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
