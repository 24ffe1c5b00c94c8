"""Classification by prompting: a language model scores the words of every label after the prompt (verbalizers)."""

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
    from lavra.models.protocols import CachedModel

Combine = Literal["average", "vote"]
"""How the phrasings of a task are combined: by the mean of their probabilities, or by one vote each."""

LongText = Literal["cut", "refuse"]
"""What is done with a text that does not fit the context: its end is cut off, or it is refused."""

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Inputs without content, with which contextual calibration measures a preference for labels (arXiv 2102.09690)."""

SEPARATOR = "/"
"""Character between the levels of a hierarchical label, as in `sport/football`."""

PATHS_KEPT = 3
"""Number of branches of the label hierarchy, the likeliest, that are followed from one level to the next."""


@dataclass(frozen=True, slots=True)
class Classification:
    """The label of one text.

    Attributes:
        text: Text that was classified.
        label: Label with the highest probability; of a model trained for several labels or for numbers, the list of
            labels that hold, or the number; the list of the tags of its words, or the answer to a question.
        probabilities: Probability of each label; they sum to 1.
        left_out: Number of characters at the end of the text that did not fit the context of the model, with the
            phrasing that leaves least room.
    """

    text: str
    label: Any
    probabilities: dict[str, float]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the predicted label, the probabilities and the number of characters left out."""
        return {"predicted": self.label, "probabilities": self.probabilities, "left_out": self.left_out}


class Classifier:
    """Classifies texts by the log-probability that a language model gives to each label after a prompt.

    Hierarchical labels such as `sport/football` are chosen level by level, as in a beam search: the labels of the first
    level are scored, and those of the next level only below the `PATHS_KEPT` likeliest. The probability of a label is
    the product of those of its levels.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        labels: Labels to choose from, at least two.
        templates: Phrasings of the task, whose results are combined.
        chooser: Chooser of the examples that a prompt shows (few-shot prompting); None shows none.
        combine: "average" takes the mean of the phrasings' probabilities. "vote" takes the share of phrasings that
            prefer a label, and decides ties by the average.
        calibrate: Whether to correct for the preference for labels that the model shows after inputs without content
            (contextual calibration, Zhao et al. 2021).
        long_text: "cut" cuts off the end of a text that does not fit the context; "refuse" raises an error.
        bos: Whether a beginning-of-text token is read before a prompt; None leaves that to the tokenizer.

    Raises:
        InputError: If the labels are fewer than two, one of them is empty, or one is also a level of another.
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

        Args:
            texts: Texts to classify.

        Raises:
            InputError: If a prompt does not fit the context of the model even without its text, or a text is too long
                and must not be cut.
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
        """Return the (texts, labels) probabilities of one phrasing, given its prompts for the texts."""
        free = CONTENT_FREE if self._calibrate else ()
        prompts = [*texts, *(self._prompt(template, text) for text in free)]
        reached: list[dict[str, float]] = [{"": 1.0} for _ in prompts]
        while any(self._below(path) for paths in reached for path in paths):
            reached = self._descend(prompts, reached, len(free))
        here = [[paths.get(label, 0.0) for label in self._labels] for paths in reached[: len(texts)]]
        rows = np.array(here).reshape(len(texts), len(self._labels))
        return rows / rows.sum(1, keepdims=True)

    def _fitted(self, template: Template, text: str) -> tuple[str, int]:
        """Return the prompt of a text, cut to fit the context, and the number of characters that are left out."""
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
        while too_long - fits > 1:  # binary search for the longest beginning of the text that fits
            middle = (fits + too_long) // 2
            shorter = self._excess(self._prompt(template, text[:middle])) <= 0
            fits, too_long = (middle, too_long) if shorter else (fits, middle)
        return self._prompt(template, text[:fits]), len(text) - fits

    def _excess(self, prompt: str) -> int:
        """Return the number of tokens by which a prompt is too long for every label to be scored after it."""
        if writes_from_source(self._model):
            return len(source_ids(self._tokenizer, prompt)) - self._model.context
        return len(self._tokenizer.encode(prompt)) + self._longest_label - self._model.context

    @cached_property
    def _longest_label(self) -> int:
        """Largest number of tokens that a label may take.

        It includes the token that begins a text, and one more for each separator, because a label that is split into
        its levels may be tokenised differently.
        """
        return max(len(self._tokenizer.encode(f" {label}")) + label.count(SEPARATOR) for label in self._labels) + 1

    def _prompt(self, template: Template, text: str) -> str:
        examples = self._chooser.for_text(text) if self._chooser else []
        return template.fill({"text": text, "labels": self._labels, "examples": examples})

    def _below(self, path: str) -> list[str]:
        """Return the labels, or prefixes of labels, that lie one level below a path."""
        if path in self._labels:
            return []
        start = path + SEPARATOR if path else ""
        inside = [label[len(start) :] for label in self._labels if label.startswith(start)]
        return list(dict.fromkeys(start + rest.partition(SEPARATOR)[0] for rest in inside))

    def _descend(self, prompts: list[str], reached: list[dict[str, float]], free: int) -> list[dict[str, float]]:
        """Return the probabilities of the paths one level further down, from the likeliest paths of each prompt.

        The last `free` prompts are those for calibration; they follow every path.
        """
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
    """Return the probabilities of several phrasings of a task, combined.

    Args:
        probabilities: Probabilities of each phrasing, (phrasings, texts, labels).
        combine: "average" takes the mean. "vote" takes the share of phrasings that prefer each label, and decides ties
            by the mean.

    Returns:
        Probabilities, (texts, labels); each row sums to 1.

    Examples:
        >>> phrasings = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])
        >>> combined(phrasings, "average").round(3).tolist()
        [[0.567, 0.433]]
        >>> combined(phrasings, "vote").round(3).tolist()
        [[0.333, 0.667]]
    """
    average = probabilities.mean(0)
    if combine == "average":
        return average
    votes = (probabilities == probabilities.max(2, keepdims=True)).mean(0)
    decided = votes + 1e-6 * average
    return decided / decided.sum(1, keepdims=True)


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels in their order, without white space around them and without duplicates.

    Args:
        labels: Labels to choose from.

    Raises:
        InputError: If fewer than two labels are left, one of them or a level of one is empty, or one is also a level of
            another.

    Examples:
        >>> check_labels(["yes", " no", "yes"])
        ['yes', 'no']
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
