"""`lavra evaluate`: perplexity and bits per byte, with intervals."""

from __future__ import annotations

from lavra.cli.options import parse, print_json, say_last
from lavra.config.inference import EvaluateConfig
from lavra.core.messages.catalogue import told
from lavra.core.program import command, without_display_flags


def main(arguments: list[str]) -> int:
    """Run `lavra evaluate …`."""
    options, as_json = parse(
        EvaluateConfig,
        arguments,
        prog="lavra evaluate",
        description="Measure a model on text: perplexity, bits per byte, per character and per word, with intervals "
        "over documents, beside xz, a unigram model and guessing.",
        examples=["lavra evaluate runs/book", "lavra evaluate runs/book --data news.jsonl.gz --json"],
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
        print(told(found.table))
        kept = command("evaluate", *without_display_flags(arguments), "--json")
        say_last(
            ("result", f"printed above, and not kept; {kept} > evaluation.json keeps it"),
            ("generate", command("generate", options.model, "--prompt", "…")),
        )
    return 128 + found.stopped_by if found.stopped_by else 0
