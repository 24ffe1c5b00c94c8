"""The texts of the source that stay English: the named exceptions of the test that finds untranslated messages.

Each module or text stands below the reason for it; the test fails for an exception that is none any more.
"""

from __future__ import annotations

MODULES: dict[str, tuple[str, ...]] = {
    "the page of a run, a sweep or a comparison is an HTML file, which is English like everything in files": (
        "reports/labels/classes.py",
        "reports/labels/confusion.py",
        "reports/labels/errors.py",
        "reports/labels/figures.py",
        "reports/labels/learning_curve.py",
        "reports/labels/regression.py",
        "reports/labels/reliability.py",
        "reports/labels/words.py",
        "reports/page.py",
        "reports/run_curves.py",
        "reports/run_stability.py",
        "reports/sweeps/page.py",
    ),
    "the card of an exported model is a file": (
        "workflows/export/labels_card.py",
        "workflows/export/model_card.py",
    ),
    "texts that models and tokenizers are tried on": (
        "data/tokenizers/streaming.py",
        "data/tokenizers/tokenizer.py",
        "models/certificate.py",
        "text/analyzers.py",
    ),
    "faults that tests inject": ("training/fault_injection.py",),
}
"""Modules whose messages stay English where they have no translation, by the reason."""

TEXTS: dict[str, tuple[str, ...]] = {
    "parts of an HTML page or a picture, in modules that also speak in the terminal": (
        "There is no forecast of the loss: {reason}.",
        "Is the difference more than chance?",
        "Compared with {baseline}, the baseline.",
        "Validation by tokens",
        "Validation by time",
        "Training by tokens",
        "Validations use a sample of the validation text, which may differ between runs; time is computed from the "
        "logged speeds, without validations and checkpoints.",
        "{unit} in the source",
        "{unit} trained on in this epoch",
        "{unit} left in this epoch",
        "total {unit} trained on",
        "Every example is used once in each epoch; the columns count examples.",
        "The data loader delivered {total!n} tokens.",
        "The data loader delivered {total!n} tokens, each once in every epoch. A token was a target {often!n} times on "
        "average: others are read only, and the marks of the objective count where they are predicted.",
        "The data loader delivered {total!n} tokens, and the trainer counted {learned!n}: ",
        "{taken}they agree.",
        "{taken}the other {total!n} belong to {skipped_steps!t}.",
        "{taken}they do NOT agree, and the {skipped!n} skipped steps that were logged do not explain it.",
        "… {left!n} earlier lines in events.log",
        "Measured {result}: {sizes}{windows}.",
        "In brackets: 95 % confidence intervals by bootstrap over documents (or over examples). Bits per byte refer to "
        "the bytes of the original text, so they compare between all models on the same text; loss and perplexity "
        "compare only between models with the same tokenizer.",
        "Results so far",
        "The last validation, at step {value}, on {value2} sequences; a finished run is measured on more text, with "
        "confidence intervals.",
        "{collection} {split}: {PRIMARY} against the share of generated queries kept",
        "0 %: documents alone; below: size of the index; bars: 95 % intervals over queries",
        "grey: documents alone{which!t}",
        "; orange: human questions",
    ),
    "text of a file": (
        "# lavra run, format 1\n",
        '#!/bin/sh\nexec {compiler} "$@" {flags}\n',
        "# The recipe of the best point of a sweep: lavra train --recipe FILE\n",
        "\nWhat is put before the texts of each kind:\n\n{prompts}",
    ),
    "words that a model reads or writes, and names that programs give": (
        "Follow up:",
        "Intermediate answer:",
        "So the final answer is:",
        "One day, a letter.",
        "naïve café 🙂",
        "class {number}",
        "label {number}",
        "<unused {number}>",
        "dict[TextKind, str]",
    ),
    "what the system says, which is recognised by it": (
        "can't allocate memory",
        "not enough memory",
        "model name",
    ),
    "flags, options and names of files, and what is the same in both languages": (
        "lavra {value}",
        "lavra plan",
        "technique.dropout_average losses",
        "positions learned",
        "norm_placement both",
        "--transforms.adapter.kind lora --transforms.gradient-checkpointing",
        "{out} (experiment.txt, experiment.json, differences.tsv, experiment.svg)",
        "{whole} min {whole2!n} s",
    ),
}
"""Messages that stay English, by the reason."""
