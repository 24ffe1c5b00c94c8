"""The peer of bench/classification.py: Hugging Face `Trainer` on the same rows, as its example run_classification.

`python bench/_classification_trainer.py SETTINGS`, a JSON object: `model`, `train` and `test` (files of JSON Lines with
`text` and `label`), `context`, `padding` ("max": every text to the context, the example's default; "longest": to the
longest of its batch), `rows` of a step, `epochs`, `learning_rate`, `bf16`, `seed`. All else is the library's default.
The last line that it prints is a JSON object: `train_seconds`, `examples_per_second` and `accuracy` on the test rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any


def main() -> None:
    import numpy as np
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    settings = json.loads(sys.argv[1])
    train, test = read(settings["train"]), read(settings["test"])
    names = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], local_files_only=True)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        settings["model"], num_labels=len(names), local_files_only=True, dtype="float32"
    )

    def encoded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        padding = "max_length" if settings["padding"] == "max" else False
        found = tokenizer(
            [row["text"] for row in rows], truncation=True, max_length=settings["context"], padding=padding
        )
        return [
            {**{name: found[name][number] for name in found}, "label": names.index(row["label"])}
            for number, row in enumerate(rows)
        ]

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=settings["epochs"],
            per_device_train_batch_size=settings["rows"],
            per_device_eval_batch_size=settings["rows"],
            learning_rate=settings["learning_rate"],
            bf16=settings["bf16"],
            seed=settings["seed"],
            use_cpu=not torch.cuda.is_available(),
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collator = default_data_collator if settings["padding"] == "max" else DataCollatorWithPadding(tokenizer)
        trainer = Trainer(model=model, args=arguments, train_dataset=encoded(train), data_collator=collator)
        measured = trainer.train().metrics
        predicted = trainer.predict(encoded(test)).predictions.argmax(-1)
    right = np.array([names.index(row["label"]) for row in test])
    print(
        json.dumps(
            {
                "train_seconds": measured["train_runtime"],
                "examples_per_second": measured["train_samples_per_second"],
                "accuracy": float((predicted == right).mean()),
            }
        )
    )


def read(path: str) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with open(path, encoding="utf8") as file:
        return [json.loads(line) for line in file if line.strip()]


if __name__ == "__main__":
    main()
