"""Fine-tuning through our trainer and through the `Trainer` of transformers: the same curve from the same beginning.

Ours packs examples and documents into rows; theirs has each in a padded row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch

import hf_models as tiny
from lavra.core.seeds import row_streams
from lavra.data.examples.encoding import ExampleEncoder
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.store import ExampleSource, Kind, PackedRow
from lavra.data.examples.writer import ExampleWriter
from lavra.data.packing import WindowSource
from lavra.data.readers.rows import BadRows
from lavra.data.token_store.writer import StoreWriter
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.data.tokenizers.word_boundaries import Words
from lavra.models.hf.model import HFModel
from lavra.models.protocols import IGNORED
from lavra.objectives.completion import Completion
from lavra.objectives.mlm import MaskedLM, mask_token_of
from lavra.objectives.seq2seq import Seq2Seq
from lavra.training.batches import BatchSource
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.trainer import Trainer
from lavra.training.updates import Clip
from little_tokenizers import TEXTS, byte_level, unigram, wordpiece

STEPS = 50
ROWS = 3
RATE = 2e-3
CONTEXT = 64
BETAS = (0.9, 0.95)
EPSILON = 1e-10


def examples(folder: Path, tokenizer: Tokenizer, kind: Kind, seed: int) -> ExampleSource:
    """Topics of Python's documentation, their first words to read and the following ones to write, packed."""
    rows = []
    for number, text in enumerate(sorted(topics.values(), key=len)):
        words = text.split()[: 8 + number % 9]
        rows.append(ExampleRow("topics", str(number), " ".join(words[:-3]), " ".join(words[-3:]), " "))
    encoder = ExampleEncoder(tokenizer, kind, BadRows(), context=CONTEXT, source_context=CONTEXT)
    with ExampleWriter(folder / "examples", tokenizer, kind) as writer:
        for row, one in zip(rows, encoder.encode(rows), strict=True):
            if one is not None:
                writer.add("topics", [row.prompt], one.tokens, one.learned, one.source, one.learned_bytes)
    source = ExampleSource(writer.opened(), CONTEXT, CONTEXT if kind == "encoder-decoder" else None, seed)
    assert max(len(row.examples) for row in source.rows(0, STEPS * ROWS)) > 1
    return source


def windows(folder: Path, tokenizer: Tokenizer, seed: int) -> WindowSource:
    with StoreWriter(folder / "store", tokenizer, begin=tokenizer.bos) as writer:
        for text in TEXTS[:24]:
            writer.add("topics", text[:400], np.array(tokenizer.encode(text[:400])))
    return WindowSource(writer.opened(), CONTEXT, seed)


def padded(rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filling] * (longest - len(row))] for row in rows])


def batch_of_pairs(rows: Sequence[PackedRow]) -> dict[str, torch.Tensor]:
    """A step's examples as transformers wants them, each a row; a decoder's labels are shifted by its model."""
    found = [example for row in rows for example in row.examples]
    labels = padded([np.where(one.learned, one.tokens, IGNORED).tolist() for one in found], IGNORED)
    read = [one.tokens.tolist() if one.source is None else one.source.tolist() for one in found]
    mask = padded([[1] * len(one) for one in read], 0)
    return {"input_ids": padded(read, tiny.PAD), "attention_mask": mask, "labels": labels}


def batch_of_masks(objective: MaskedLM, rows: Sequence[Any], seed: int, first: int) -> dict[str, torch.Tensor]:
    """A step's windows as transformers wants them, each document's part a row, hidden as ours hides it."""
    batch = objective.encode(rows, row_streams(seed, "encode", first=first), first / (STEPS * ROWS))
    assert batch.document_ids is not None
    inputs, labels = [], []
    for row in range(len(rows)):
        for segment in range(int(batch.document_ids[row].max()) + 1):
            part = batch.document_ids[row] == segment
            inputs.append(batch.inputs[row, part].tolist())
            labels.append(batch.targets[row, part].tolist())
    mask = padded([[1] * len(one) for one in inputs], 0)
    return {"input_ids": padded(inputs, tiny.PAD), "attention_mask": mask, "labels": padded(labels, IGNORED)}


def theirs(model: Any, batches: list[dict[str, torch.Tensor]], folder: Path) -> list[float]:
    """The losses of the `Trainer` of transformers."""
    import transformers

    losses: list[float] = []

    class Recording(transformers.Trainer):
        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
            return loss

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(batches)  # pyright: ignore[reportArgumentType]

    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1, learning_rate=RATE, weight_decay=0.0,
        adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPSILON, lr_scheduler_type="linear", warmup_steps=0,
        max_grad_norm=1.0, save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    dataset: Any = batches
    Recording(model, arguments, data_collator=lambda items: items[0], train_dataset=dataset).train()
    return losses


def ours(model: HFModel, objective: Any, source: Any, seed: int) -> list[float]:
    trainer = Trainer(
        model.train(),
        objective,
        BatchSource(source, objective, global_batch_size=ROWS, micro_batch_size=1, steps=STEPS, seed=seed),
        optimizer=OptimizerOptions(name="adamw", learning_rate=RATE, betas=BETAS),
        schedule=Schedule(shape="linear", warmup_steps=0, min_lr_ratio=0.0),
        precision="fp32",
        device=torch.device("cpu"),
        steps=STEPS,
        updates=[Clip(1.0)],
    )
    losses = [trainer.run_step().loss for _ in range(STEPS)]
    trainer.batches.close()
    return losses


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "tokenizer", "options"),
    [
        ("gpt2", byte_level, {"n_positions": CONTEXT + 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
        ("t5", unigram, {"dropout_rate": 0.0}),
        ("bert", wordpiece, {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
    ],
)
def test_fifty_steps_follow_the_curve_of_transformers(
    name: str, tokenizer: Any, options: dict[str, Any], tmp_path: Path
):
    seed, tokenizer = 7, tokenizer()
    plain = tiny.plain_model(name, vocab_size=tokenizer.vocabulary_size, **options)
    kind = tiny.FAMILIES[name][0]
    model = HFModel(deepcopy(plain), kind)
    if kind == "encoder":
        source = windows(tmp_path, tokenizer, seed)
        objective: Any = MaskedLM(CONTEXT, mask_token_of(tokenizer), Words.of(tokenizer), rate=0.3, final_rate=0.15)
        batches = [batch_of_masks(objective, source.rows(n * ROWS, ROWS), seed, n * ROWS) for n in range(STEPS)]
    else:
        source = examples(tmp_path, tokenizer, kind, seed)
        objective = Completion(CONTEXT) if kind == "decoder" else Seq2Seq(CONTEXT, CONTEXT, model.decoder_inputs)
        batches = [batch_of_pairs(source.rows(n * ROWS, ROWS)) for n in range(STEPS)]
    expected = theirs(plain.train(), batches, tmp_path / "out")
    found = ours(model, objective, source, seed)
    assert expected[-1] < expected[0] - 0.3  # it did learn
    assert len(found) == len(expected) == STEPS
    apart = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    print(f"{name}: from {expected[0]:.4f} to {expected[-1]:.4f}, at most {apart:.1e} apart")
    assert apart < 1e-3
