"""Classifying texts with a language model, from the labels alone or from a few examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.readers.lines import read_records, text_or_number
from lavra.generation.classifying import Classification, Classifier, Combine, LongText
from lavra.generation.few_shot import Choice, Example, ExampleChooser
from lavra.text.templates import read_templates
from lavra.workflows.labels.labeller import Labeller, NetworkLabeller, linear_at
from lavra.workflows.labels.predict import predict_file, predict_texts
from lavra.workflows.models.open import OpenModel, open_model


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
    long_text: LongText = "cut",
    bos: bool | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
) -> list[Classification]:
    """Label texts with a model that was trained for labels, or by prompting a language model.

    A model that was trained for labels (`lavra train` on rows with labels) needs nothing but the texts. A language
    model labels them zero-shot, or from a few examples in the prompt.

    Every label is scored by its probability after the prompt, so that only the given labels are ever answered. The
    examples are chosen at random, by similarity, or by vote-k (Su et al., arXiv 2209.01975), and the preference of the
    model for some labels is removed by contextual calibration (Zhao et al., arXiv 2102.09690).

    Args:
        model: The location of the model: a run, a checkpoint or a model folder.
        texts: The texts to label.
        labels: The labels to choose from; those of the examples if empty. `a/b` are labels with levels.
        few_shot: A JSON Lines file of examples with "text" and "label"; an empty string for zero-shot.
        shots: Number of examples in a prompt.
        choice: How the examples are chosen: at "random", those most "similar" to the text, or a set that represents all
            ("vote-k").
        templates: A TOML file of prompt templates, or the built-in "classify" (English) or "classify-pt" (Portuguese).
        combine: Whether to "average" the probabilities that the templates give, or to let the templates "vote".
        calibrate: Whether to apply contextual calibration.
        long_text: What to do with a text that does not fit the model's context together with its prompt: "cut" leaves
            the end of the text out, which is counted and said; "refuse" raises an error.
        bos: Whether a beginning-of-text token comes before each prompt; None as the model's own tokenizer does.
        seed: Seed of the random choice of examples.
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: fp32, bf16, fp16 or auto.

    Returns:
        The predicted label and the probability of every label for each text, in the order of the texts.

    Raises:
        InputError: If the label of an example is not among the labels, there are no labels, or a prompt does not fit
            even without its text.

    Examples:
        >>> import lavra
        >>> found = lavra.classify("runs/book", ["I loved it"], ["good", "bad"])  # doctest: +SKIP
        >>> found[0].predicted, found[0].probabilities                            # doctest: +SKIP
    """
    found = _opened(model, device, precision)
    if not isinstance(found, OpenModel):
        _refuse_prompting(found, labels, few_shot)
        return predict_texts(found, texts)
    return _prompted(
        found,
        texts,
        labels,
        few_shot=few_shot,
        shots=shots,
        choice=choice,
        templates=templates,
        combine=combine,
        calibrate=calibrate,
        long_text=long_text,
        bos=bos,
        seed=seed,
    )


def _prompted(
    opened: OpenModel,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    few_shot: str = "",
    shots: int = 8,
    choice: Choice = "random",
    templates: str = "classify",
    combine: Combine = "average",
    calibrate: bool = True,
    long_text: LongText = "cut",
    bos: bool | None = None,
    seed: int = 0,
) -> list[Classification]:
    """Return the labels that a language model gives to texts by a prompt; the arguments are those of `classify`."""
    examples = _examples(few_shot, labels) if few_shot else []
    if not examples and not labels:
        raise _nothing_to_choose(opened)
    known = list(labels) or sorted({one.label for one in examples})
    classifier = Classifier(
        opened.model,
        opened.tokenizer,
        known,
        read_templates(templates),
        chooser=ExampleChooser(examples, shots, choice, seed) if examples else None,
        combine=combine,
        calibrate=calibrate,
        long_text=long_text,
        bos=bos,
    )
    labelled = classifier.classify(texts)
    _tell_of_cut(labelled, texts, opened.model.context)
    return labelled


def _tell_of_cut(labelled: Sequence[Classification], texts: Sequence[str], context: int) -> None:
    """Say of how many texts the ends were left out."""
    cut = sum(one.left_out > 0 for one in labelled)
    if not cut:
        return
    left_out = sum(one.left_out for one in labelled) / sum(map(len, texts))
    log(
        f"{cut:,} of {counted(len(labelled), 'text')} did not fit the model's context of {context} tokens; their ends "
        f"were left out, {left_out:.1%} of all characters"
    )


def classify_file(model: str, path: str, labels: Sequence[str] = (), **how: Any) -> dict[str, Any]:
    """Label every row of a file: of any format with columns for a model that was trained for labels, else JSON Lines.

    Args:
        model: The location of the model, as for `classify`.
        path: The file.
        labels: The labels to choose from, as for `classify`.
        how: The other arguments of `classify`, by name.

    Returns:
        A dictionary with `rows`, each the line with `predicted`, `probabilities` and `left_out` (characters), and with
        `accuracy` where every line has a "label".

    Raises:
        InputError: If a line has no "text", or as for `classify`.
    """
    trained = _opened(model, how.pop("device", "auto"), how.pop("precision", "fp32"))
    if not isinstance(trained, OpenModel):
        _refuse_prompting(trained, labels, how.get("few_shot", ""))
        return predict_file(trained, path)
    records = read_records(path, {"text": text_or_number})
    found = _prompted(trained, [one["text"] for one in records], labels, **how)
    rows = [{**record, **one.to_json()} for record, one in zip(records, found, strict=True)]
    if not all("label" in record for record in records):
        return {"rows": rows}
    right = sum(_label(path, row["label"]) == row["predicted"] for row in rows)
    return {"rows": rows, "accuracy": right / len(rows)}


def labeller_at(location: str, device: str = "auto", precision: str = "fp32") -> Labeller:
    """Open a model that was trained for labels.

    Args:
        location: The location of the model: a run, a checkpoint or a model folder.
        device: Device that computes: auto, cpu, cuda or mps.
        precision: Type of the weights: fp32, bf16, fp16 or auto.

    Raises:
        InputError: If it is a language model without labels of its own.
    """
    found = _opened(location, device, precision)
    return NetworkLabeller(found) if isinstance(found, OpenModel) else found


def _opened(model: str, device: str, precision: str) -> Labeller | OpenModel:
    """Return the model at a location: what labels texts by itself, or a language model."""
    linear = linear_at(model)
    if linear is not None:
        return linear
    opened = open_model(model, device, precision)
    return opened if opened.task is None else NetworkLabeller(opened)


def _refuse_prompting(opened: Labeller, labels: Sequence[str], few_shot: str) -> None:
    if labels or few_shot:
        raise InputError(
            f"{opened.place} was trained for labels of its own, and is given others",
            "leave out --labels, --zero-shot and --few-shot, or choose a language model",
        )


def _nothing_to_choose(opened: OpenModel) -> InputError:
    return InputError(
        f"{opened.place} is a language model, and there are no labels to choose from",
        "give --zero-shot with --labels, or --few-shot FILE; or train it for labels: lavra train DATA --from MODEL",
    )


def _label(path: str, value: Any) -> str:
    try:
        return text_or_number(value)
    except ValueError as error:
        raise InputError(f"{path}: a label is {value!r}", f'"label" {error}') from error


def _examples(path: str, labels: Sequence[str]) -> list[Example]:
    columns = {"text": text_or_number, "label": text_or_number}
    examples = [Example(one["text"], one["label"]) for one in read_records(path, columns)]
    unknown = sorted({one.label for one in examples} - set(labels)) if labels else []
    if unknown:
        raise InputError(
            f"{path} has labels that are not among --labels: {', '.join(map(repr, unknown))}",
            f"the labels are {', '.join(labels)}; add to them, or correct the examples",
        )
    return examples
