"""The worker of bench/packing.py: the same model, packed or padded.

Settings: `side`, `shape`, `vocabulary`, `context`, `rows` of a step, `device`, `store` and `tokenizer` (folders).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _shapes import dataset_of, shape_of
from _training_sides import hub_config, in_turn, lavra_job, lavra_request, load_compiler, training_arguments
from _turns import Turns, memory, serve
from lavra.data.token_store.store import TokenStore
from lavra.models.protocols import IGNORED, Batch
from lavra.objectives.causal import Causal

Settings = dict[str, Any]


class Documents:
    """Documents in a random order, again and again; each begins and ends with an end-of-document token."""

    def __init__(self, store: TokenStore, seed: int = 0) -> None:
        self.store, self.order = store, np.random.default_rng(seed).permutation(len(store))

    def rows(self, start: int, count: int) -> list[np.ndarray]:
        """Return `count` documents as int64 ids."""
        numbers = [self.order[number % len(self.order)] for number in range(start, start + count)]
        end = [self.store.manifest.end_of_document]
        return [np.concatenate([end, self.store.document(number)]).astype(np.int64) for number in numbers]


class Padded:
    """The causal objective on one document per row, filled up as a plain script does it.

    Args:
        context: longest row; what is beyond it is cut off.
        whole: fill up to the context, instead of to the longest document of the batch.
    """

    def __init__(self, context: int, whole: bool) -> None:
        self.context, self.whole = context, whole
        self.loss = Causal(context, isolate=False).loss

    def encode(self, rows: Sequence[np.ndarray], streams: Any, progress: float) -> Batch:
        """Lay documents out as rows; padding is on the right, so a causal model needs no mask for it."""
        kept = [row[: self.context + 1] for row in rows]
        length = self.context if self.whole else max(len(row) for row in kept) - 1
        inputs = np.zeros((len(kept), length), dtype=np.int64)
        targets = np.full((len(kept), length), IGNORED, dtype=np.int64)
        for number, row in enumerate(kept):
            inputs[number, : len(row) - 1], targets[number, : len(row) - 1] = row[:-1], row[1:]
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), weight=float((targets != IGNORED).sum()))


def spec_of(settings: Settings) -> Any:
    """Return the shape, with the vocabulary of the text."""
    return replace(shape_of(settings["shape"], settings["context"]), vocabulary=settings["vocabulary"])


def lavra(settings: Settings, turns: Turns, *, compiled: bool, padding: Padded | None = None) -> None:
    """lavra's training, packed with isolation, or the same with padded rows."""
    from lavra.training.batches import BatchSource

    load_compiler()
    config, machine = lavra_request(settings | {"compile": compiled}, "adamw", isolate=True)
    spec = spec_of(settings)
    data = dataset_of(Path(settings["store"]), spec.vocabulary)
    memory.begin()
    job = lavra_job(config, machine, spec, data)
    job.build()
    plan, trainer = job.plan, job.trainer
    if padding is not None:
        trainer.objective = padding
        trainer.batches.close()
        trainer.batches = BatchSource(
            Documents(data.prepared.train),
            padding,
            global_batch_size=plan.global_batch_size,
            micro_batch_size=plan.micro_batch_size,
            steps=plan.steps,
            seed=0,
        )
    while True:
        if not turns.step_done(trainer.run_step().targets):
            break
    trainer.batches.close()


def plain_script(settings: Settings, turns: Turns) -> None:
    """A plain fine-tuning script: `Trainer` in bf16, `DataCollatorWithPadding`, labels where there is no padding."""
    from transformers import AutoModelForCausalLM, DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer

    store = TokenStore.open(Path(settings["store"]))
    limit = settings["context"]
    rows = [{"input_ids": ids[:limit].tolist()} for ids in Documents(store).rows(0, len(store))]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(settings["tokenizer"]) / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    pad = DataCollatorWithPadding(tokenizer)

    def collate(chosen: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(chosen)
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}

    arguments = training_arguments(settings, bf16=True)
    memory.begin()
    model = AutoModelForCausalLM.from_config(hub_config(spec_of(settings)))
    learned = [0.0]

    def count(_: Any, given: Any, named: dict[str, Any]) -> None:
        learned[0] = float((named["labels"][:, 1:] != IGNORED).sum())

    model.register_forward_pre_hook(count, with_kwargs=True)
    Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,  # pyright: ignore[reportArgumentType]
        data_collator=collate,
        callbacks=[in_turn(turns, lambda: learned[0])],
    ).train()


SIDES: dict[str, Callable[[Settings, Turns], None]] = {
    "packed": lambda settings, turns: lavra(settings, turns, compiled=True),
    "packed, not compiled": lambda settings, turns: lavra(settings, turns, compiled=False),
    "padded to context": lambda settings, turns: lavra(
        settings, turns, compiled=True, padding=Padded(settings["context"], whole=True)
    ),
    "padded to longest": lambda settings, turns: lavra(
        settings, turns, compiled=False, padding=Padded(settings["context"], whole=False)
    ),
    "Trainer, to longest": plain_script,
}
"""To the longest is not compiled: every batch has another length, and the compiler would begin anew for each."""


def run(settings: Settings, turns: Turns) -> None:
    """Run the side that the settings name."""
    SIDES[settings["side"]](settings, turns)


if __name__ == "__main__":
    serve(run)
