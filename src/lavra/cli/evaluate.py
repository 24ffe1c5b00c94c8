"""`lavra evaluate`: perplexity and bits per byte, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lavra.cli.options import parse, print_json, say_last, show
from lavra.config.inference import EvaluateConfig
from lavra.core.program import command, without_display_flags

if TYPE_CHECKING:
    from lavra.workflows.evaluate import Evaluation
    from lavra.workflows.labels.evaluate import TaskEvaluation


def main(arguments: list[str]) -> int:
    """Run `lavra evaluate …`."""
    options, as_json = parse(
        EvaluateConfig,
        arguments,
        prog="lavra evaluate",
        description="Measure a model on text: perplexity, bits per byte, per character and per word, with intervals "
        "over documents, beside xz, a unigram model and guessing. A model that was trained for labels is measured on "
        "rows with labels: accuracy, F1 and others, with intervals over rows, beside its baseline.",
        examples=[
            "lavra evaluate runs/book",
            "lavra evaluate runs/book --data news.jsonl.gz --json",
            "lavra evaluate runs/reviews --data test.csv",
        ],
    )
    from lavra.workflows.evaluate import evaluate

    found = evaluate(
        options.model,
        options.data,
        split=options.split,
        stride=options.stride,
        context=options.context,
        text_column=options.text.column,
        on_bad_row=options.text.on_bad_row,
        bos=options.bos,
        encoding=options.text.encoding,
        device=options.device,
        budget=options.budget,
        seed=options.seed,
    )
    if as_json:
        print_json(found.to_json())
    else:
        show(found.table)
        kept = command("evaluate", *without_display_flags(arguments), "--json")
        say_last(("result", f"printed above, and not kept; {kept} > evaluation.json keeps it"), *_next(options, found))
    return 128 + found.stopped_by if found.stopped_by else 0


def _next(options: EvaluateConfig, found: Evaluation | TaskEvaluation) -> list[tuple[str, str]]:
    """Return the commands that a person wants next, by what the model is for."""
    from lavra.workflows.evaluate import Evaluation

    if isinstance(found, Evaluation):
        return [("generate", command("generate", options.model, "--prompt", "…"))]
    from lavra.tasks.labelled_text import LabelledTextTask
    from lavra.tasks.table import find_task

    classify = ("classify", command("classify", options.model, "--text", "…"))
    if found.task == "embedding":
        return [("embed", command("embed", options.model, "texts.jsonl", "--out", "vectors.npy"))]
    of_texts = isinstance(find_task(found.task), LabelledTextTask)
    return [*([classify] if of_texts else []), ("export", command("export", options.model, "--out", "exported"))]
