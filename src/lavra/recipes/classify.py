"""Classifying texts with a language model, from the labels alone or from a few examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavra.core.errors import InputError
from lavra.generation.classifying import Classification, Classifier, Combine
from lavra.generation.examples import Choice, Example, ExampleChooser
from lavra.generation.templates import read_templates
from lavra.recipes.models import open_model
from lavra.recipes.records import read_records


def classify(
    model: str,
    texts: Sequence[str],
    labels: Sequence[str] = (),
    *,
    few_shot: str = "",
    shots: int = 8,
    choice: Choice = "random",
    templates: str = "classify",
    combine: Combine = "average",
    calibrate: bool = True,
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
) -> list[Classification]:
    """Label texts.

    Args:
        model: a run, a checkpoint or a model folder.
        texts: what to label.
        labels: all that may be answered; those of the examples where none are given. `a/b` are labels with levels.
        few_shot: a JSON Lines file of examples with "text" and "label"; none for zero-shot.
        shots: how many examples a prompt shows.
        choice: which: at "random", those "similar" to the text, or a set that stands for all ("vote-k").
        templates: a TOML file of phrasings, or the built-in "classify" (English) or "classify-pt".
        combine: "average" the phrasings' probabilities, or let them "vote".
        calibrate: undo the model's preference for some labels (contextual calibration).
        seed: of the random choice.
        device: where to compute.
        precision: of the weights: fp32, bf16, fp16 or auto.

    Raises:
        InputError: if an example's label is not among the labels, there are no labels, or a prompt does not fit.
    """
    examples = _examples(few_shot, labels) if few_shot else []
    known = list(labels) or sorted({one.label for one in examples})
    chooser = ExampleChooser(examples, shots, choice, seed) if examples else None
    phrasings = read_templates(templates)
    opened = open_model(model, device, precision)
    classifier = Classifier(
        opened.model,
        opened.tokenizer,
        known,
        phrasings,
        chooser=chooser,
        combine=combine,
        calibrate=calibrate,
    )
    return classifier.classify(texts)


def classify_file(model: str, path: str, labels: Sequence[str] = (), **how: Any) -> dict[str, Any]:
    """Label the "text" of every line of a JSON Lines file; `how` as for `classify`.

    Returns:
        `rows`, each the line with `predicted` and `probabilities`, and, where every line has a "label", `accuracy`.
    """
    records = read_records(path, ("text",))
    found = classify(model, [str(one["text"]) for one in records], labels, **how)
    rows = [
        {**record, "predicted": one.label, "probabilities": one.probabilities}
        for record, one in zip(records, found, strict=True)
    ]
    if not all("label" in record for record in records):
        return {"rows": rows}
    right = sum(str(row["label"]) == row["predicted"] for row in rows)
    return {"rows": rows, "accuracy": right / len(rows)}


def _examples(path: str, labels: Sequence[str]) -> list[Example]:
    examples = [Example(str(one["text"]), str(one["label"])) for one in read_records(path, ("text", "label"))]
    unknown = sorted({one.label for one in examples} - set(labels)) if labels else []
    if unknown:
        raise InputError(
            f"{path} has labels that are not among --labels: {', '.join(map(repr, unknown))}",
            f"the labels are {', '.join(labels)}; add to them, or correct the examples",
        )
    return examples
