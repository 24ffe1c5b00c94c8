"""`lavra classify`: labels for texts, by a language model."""

from __future__ import annotations

from pathlib import Path

from lavra.cli.options import new_file, parse, print_json, say_last, show
from lavra.config.inference import ClassifyConfig
from lavra.core.errors import InputError
from lavra.core.program import command, without_display_flags
from lavra.core.progress import printable
from lavra.core.units import counted


def main(arguments: list[str]) -> int:
    """Run `lavra classify …`."""
    request, as_json = parse(
        ClassifyConfig,
        arguments,
        prog="lavra classify",
        description="Label texts by a model that was trained for labels, or by what a language model expects after a "
        "prompt; only the labels are ever answered.",
        examples=[
            'lavra classify runs/reviews --text "I loved it"',
            'lavra classify runs/book --zero-shot --labels good bad --text "I loved it"',
            "lavra classify runs/book --few-shot examples.jsonl --choice similar --in reviews.jsonl --json",
        ],
    )
    if request.zero_shot and request.few_shot:
        raise InputError("classify wants either --zero-shot or --few-shot FILE", "say which")
    if bool(request.text) == bool(request.input):
        raise InputError("classify wants either --text or --in FILE", "say what to label")
    if request.zero_shot and not request.labels:
        raise InputError("--zero-shot has no labels to choose from", "give --labels")
    if request.out:
        new_file(Path(request.out), request.force, [one for one in (request.input, request.few_shot) if one])
    from lavra.workflows.classify import classify, classify_file

    names = ("few_shot", "shots", "choice", "templates", "combine", "long_text", "bos", "seed", "device", "precision")
    how = {name: getattr(request, name) for name in names}
    how["calibrate"] = request.calibration
    if request.input:
        found = classify_file(request.model, request.input, request.labels, **how)
    else:
        made = classify(request.model, request.text, request.labels, **how)
        found = {"rows": [{"text": one.text, **one.to_json()} for one in made]}
    _give(found, request.out, as_json)
    if not as_json:
        _say_next(request, arguments)
    return 0


def _say_next(request: ClassifyConfig, arguments: list[str]) -> None:
    """Say where the labels lie, and which command a person wants next."""
    if request.out:
        say_last(("result", request.out), ("evaluate", command("evaluate", request.model, "--data", request.out)))
        return
    kept = command("classify", *without_display_flags(arguments), "--out", "labelled.jsonl")
    say_last(("result", "printed above, and not kept"), ("keep", kept))


def _give(found: dict, out: str, as_json: bool) -> None:
    """Write or print the labels, and the accuracy where the right labels are known."""
    if out:
        from lavra.core.disk.files import write_atomically
        from lavra.core.disk.json_lines import one_line

        write_atomically(Path(out), "".join(one_line(row) + "\n" for row in found["rows"]))
    if as_json:
        print_json(found)
        return
    for row in [] if out else found["rows"]:
        print(_line(row, found.get("text_columns", ["text"])))
    if "accuracy" in found:
        show(f"accuracy {found['accuracy']:.1%} on {counted(len(found['rows']), 'text')}")


def _line(row: dict, columns: list[str]) -> str:
    """Return the prediction of a row, its probability where it is one class, and its text."""
    predicted, shares = row["predicted"], row["probabilities"]
    text = printable(" | ".join(str(row.get(name, "")) for name in columns))
    if isinstance(predicted, str):
        return f"{predicted}\t{shares[predicted]:.3f}\t{text}"
    if isinstance(predicted, list) and not shares:  # a tag for each word
        return "\t".join([" ".join(predicted), text])
    if isinstance(predicted, list):
        return "\t".join([", ".join(predicted) or "-", ", ".join(f"{shares[one]:.3f}" for one in predicted), text])
    return f"{'-' if predicted is None else format(predicted, '.4g')}\t\t{text}"
