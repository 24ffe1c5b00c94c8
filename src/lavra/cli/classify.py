"""`lavra classify`: labels for texts, by a language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lavra.cli.options import new_file, parse, print_json
from lavra.config.quantities import Choice
from lavra.core.errors import InputError
from lavra.core.progress import printable


@dataclass
class _Classify:
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run, one of its checkpoints, or a model folder."""
    text: tuple[str, ...] = ()
    """Texts to label."""
    input: Annotated[str, tyro.conf.arg(name="in")] = ""
    """Instead: a file of JSON Lines with "text"; with "label" too, the accuracy is given."""
    labels: tuple[str, ...] = ()
    """All that may be answered, a/b for labels with levels; those of the examples by default."""
    zero_shot: bool = False
    """Show the model no examples."""
    few_shot: str = ""
    """Show the model examples from this file of JSON Lines with "text" and "label"."""
    shots: int = 8
    """How many examples."""
    choice: Literal["random", "similar", "vote-k"] = "random"
    """Which: at random, the most like the text, or a set that stands for all."""
    templates: str = "classify"
    """A TOML file of phrasings, or classify (English) or classify-pt."""
    combine: Literal["average", "vote"] = "average"
    """Average the phrasings' probabilities, or let them vote."""
    no_calibration: bool = False
    """Keep the model's preference for some labels."""
    long_text: Literal["cut", "refuse"] = "cut"
    """Leave out the end of a text that does not fit the model's context, which is said, or refuse it."""
    bos: Choice = None
    """Read a beginning-of-text token before a prompt, or none (--bos, --no-bos); by default as the model's own
    tokenizer does it."""
    out: str = ""
    """Write the labelled lines of --in to this file."""
    force: bool = False
    """Replace the file of --out."""
    seed: int = 0
    """Of the random choice."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Of the weights."""


def main(arguments: list[str]) -> int:
    """Run `lavra classify …`."""
    request, as_json = parse(
        _Classify,
        arguments,
        prog="lavra classify",
        description="Label texts by what a language model expects after a prompt; only the labels are ever answered.",
        examples=[
            'lavra classify runs/book --zero-shot --labels good bad --text "I loved it"',
            "lavra classify runs/book --few-shot examples.jsonl --choice similar --in reviews.jsonl --json",
        ],
    )
    if request.zero_shot == bool(request.few_shot):
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
    how["calibrate"] = not request.no_calibration
    if request.input:
        found = classify_file(request.model, request.input, request.labels, **how)
    else:
        made = classify(request.model, request.text, request.labels, **how)
        found = {"rows": [{"text": one.text, **one.to_json()} for one in made]}
    return _give(found, request.out, as_json)


def _give(found: dict, out: str, as_json: bool) -> int:
    if out:
        from lavra.core.disk.files import write_atomically
        from lavra.core.disk.json_lines import one_line

        write_atomically(Path(out), "".join(one_line(row) + "\n" for row in found["rows"]))
    if as_json:
        print_json(found)
        return 0
    for row in [] if out else found["rows"]:
        print(f"{row['predicted']}\t{row['probabilities'][row['predicted']]:.3f}\t{printable(row['text'])}")
    if "accuracy" in found:
        print(f"accuracy {found['accuracy']:.1%} of {len(found['rows'])}")
    return 0
