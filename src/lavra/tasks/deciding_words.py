"""The words that decided what a model said of a few texts: each is removed in turn, and the change is measured.

Occlusion (Zeiler and Fergus 2014, arXiv 1311.2901; for text Li, Monroe and Jurafsky 2016, arXiv 1612.08220).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavra.core.disk.files import write_json
from lavra.core.seeds import row_streams
from lavra.data.examples.labelled import LabelReader
from lavra.data.examples.rows import ExampleRow
from lavra.evaluation.labels.confusions import sure_errors
from lavra.evaluation.labels.predictions import Predictions
from lavra.models.heads import head_of
from lavra.objectives.classify import LabelledText
from lavra.objectives.wrapping import innermost
from lavra.tasks.base import Trained

WORDS = "words.json"
"""Name of the file of the words that decided, in the folder of a run."""

_MOST_TEXTS = 6  # texts that are looked at, and parts of a text that are removed at most
_MOST_PARTS = 40
_AT_ONCE = 16  # texts that are predicted at once
_COST = 2  # a validation text more is predicted for every so many of them
_LEAST_COST = 64  # and so many at least

_WORD = re.compile(r"\S+\s*")


def deciding_words(
    trained: Trained,
    table: Predictions,
    texts: Sequence[Sequence[str]],
    reader: LabelReader,
    probabilities: Callable[[torch.Tensor], torch.Tensor],
) -> list[dict[str, Any]]:
    """Return which words decided on the surest errors of a model.

    It costs at most as much as half of the predictions that were made, or 64 texts.

    Args:
        trained: The model and its data.
        table: The predictions.
        texts: The text, or the two texts, of each row of the table.
        reader: What reads the rows of the task.
        probabilities: What makes predictions of the outputs of the head.

    Returns:
        For each of some texts its `row` in the table, the `output` that was wrong, and its `words` in their order, each
        with its `effect`: by how much the prediction of the output falls without the word.
    """
    most = min(_MOST_PARTS, max(_LEAST_COST, len(table) // _COST) // _MOST_TEXTS)
    rows = []
    for error in sure_errors(table, _MOST_TEXTS):
        parts, without = occluded(texts[error.row], most)
        outputs = _outputs(trained, [texts[error.row], *without], reader)
        said = np.asarray(probabilities(outputs.double()))[:, error.output]
        words = [{"word": part, "effect": float(said[0] - one)} for part, one in zip(parts, said[1:], strict=True)]
        rows.append({"row": error.row, "output": table.classes[error.output], "words": words})
    return rows


def write_words(
    folder: Path,
    method: str,
    rows: Sequence[Mapping[str, Any]] = (),
    weights: Mapping[str, Sequence[tuple[str, float]]] | None = None,
) -> None:
    """Write the words that decided into the folder of a run.

    Args:
        folder: The folder of the run.
        method: How they were found: "occlusion", or "weights" of a linear model alone.
        rows: What `deciding_words` returned.
        weights: For each output of a linear model its words with the largest weights, which may be negative.
    """
    outputs = {
        name: [{"word": word, "effect": float(weight)} for word, weight in words]
        for name, words in (weights or {}).items()
    }
    write_json(folder / WORDS, {"method": method, "rows": list(rows), "outputs": outputs})


def occluded(texts: Sequence[str], most: int) -> tuple[list[str], list[list[str]]]:
    """Return the words of a text, and the text without each of them.

    Args:
        texts: The text, or the two texts of a pair.
        most: Largest number of parts; the words of longer texts are removed several at once.

    Returns:
        The words, or neighbours of them, and as many texts.

    Examples:
        >>> occluded(["not good"], 5)
        (['not', 'good'], [['good'], ['not']])
    """
    spans = [(number, *word.span()) for number, text in enumerate(texts) for word in _WORD.finditer(text)]
    if len(spans) < 2:
        return [], []  # nothing would be left
    borders = np.unique(np.linspace(0, len(spans), min(most, len(spans)) + 1).round().astype(int)).tolist()
    parts, without = [], []
    for first, last in pairwise(borders):
        chosen = spans[first:last]
        parts.append(" ".join(texts[number][start:end].strip() for number, start, end in chosen))
        without.append(
            [_cut(text, [one[1:] for one in chosen if one[0] == number]) for number, text in enumerate(texts)]
        )
    return parts, without


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> str:
    return text if not spans else (text[: spans[0][0]] + text[spans[-1][1] :]).strip()


def _outputs(trained: Trained, texts: Sequence[Sequence[str]], reader: LabelReader) -> torch.Tensor:
    """Return the outputs of the head for texts, (texts, outputs) in float32."""
    plan, tokenizer = trained.plan, trained.dataset.tokenizer
    rows = [ExampleRow("", "", text[0], text[1] if len(text) > 1 else "", labels={}) for text in texts]
    encoded = [parts[0] if parts else None for parts in reader.encode(rows, tokenizer, plan.context)]
    inner = innermost(trained.objective).inner  # what learns texts whose labels are numbers already
    found = []
    for first in range(0, len(encoded), _AT_ONCE):
        batch = inner.encode(
            [
                [_as_text(number, one.tokens, one.labels)] if one is not None else [_empty(number, tokenizer)]
                for number, one in enumerate(encoded[first : first + _AT_ONCE])
            ],
            row_streams(0, "validation", first=first),
            1.0,
        ).to(trained.device)
        with torch.no_grad():
            found.append(head_of(trained.model)(trained.model.features(batch), batch).float().cpu())
    return torch.cat(found)


def _as_text(number: int, tokens: Any, labels: Mapping[str, Any]) -> LabelledText:
    return LabelledText(number, tokens, None, 1.0, int(labels.get("second_type_from", 0)))


def _empty(number: int, tokenizer: Any) -> LabelledText:
    """Return the text of which nothing is left: its first token alone."""
    return LabelledText(number, np.array([tokenizer.document_bos]), None)
