"""Rows that are given to a model with a head, made ready as its training rows were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lavra.core.disk.files import write_json
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.data.examples.encoding import ExampleEncoder
from lavra.data.examples.labelled import LabelReader
from lavra.data.examples.prepare import PreparedExamples
from lavra.data.examples.rows import ExampleRow
from lavra.data.examples.writer import ExampleWriter
from lavra.data.readers.rows import BadRows
from lavra.data.token_store.prepare import REPORT, TOKENIZER, TRAIN
from lavra.models.protocols import device_of
from lavra.tasks.base import Task, Trained
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.table import find_task
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.optimizers.schedules import Schedule
from lavra.training.plan import Plan
from lavra.workflows.models.open import OpenModel

_ROWS_AT_ONCE = 1024
"""Rows that are encoded at once."""


def task_of(opened: OpenModel) -> tuple[Task, LabelReader]:
    """Return the task of a model with a head, and what reads its rows.

    Args:
        opened: The model.

    Raises:
        InputError: If it has no head for labels.
    """
    if opened.task is None:
        raise InputError(
            f"{opened.place} predicts text and has no head for labels",
            "train one on rows with labels: lavra train DATA --from MODEL",
        )
    name, facts = opened.task
    task = find_task(name)
    return task, task.reader_from(facts["columns"])


@contextmanager
def given_rows(opened: OpenModel, rows: Iterable[ExampleRow], bad_rows: BadRows, seed: int = 0) -> Iterator[Trained]:
    """Make rows ready for a model with a head, in a temporary folder, for the length of the block.

    Args:
        opened: The model.
        rows: The rows, as the reader of the task returns them.
        bad_rows: Is filled with what cannot be used.
        seed: Seed of the bootstrap intervals of whatever is measured.

    Yields:
        The model with the rows as its validation data. Each keeps its number among those given as the label `row`.

    Raises:
        InputError: If no row can be used.
    """
    task, reader = task_of(opened)
    assert opened.task is not None
    with scratch_folder() as home:
        plan = _plan(opened, seed)
        folder = home / TRAIN
        encoder = ExampleEncoder(opened.tokenizer, "labelled", bad_rows, context=plan.context, reader=reader)
        count = _write(folder, encoder, rows)
        if encoder.cut.summary(count, plan.context, plan.context):
            log(encoder.cut.summary(count, plan.context, plan.context))
        opened.tokenizer.save(home / TOKENIZER)
        write_json(home / REPORT, {"kind": "labelled", "context": plan.context, "columns_read": reader.to_json()})
        store = PreparedExamples.of_one(home, folder)
        dataset = LabelledDataset(store)
        plan = replace(plan, context=dataset.context or plan.context)
        objective = task.objective(plan, opened.model, dataset)
        run = None if opened.run is None else opened.run.path
        yield Trained(opened.model, objective, dataset, plan, device_of(opened.model), run=run)


def _write(folder: Path, encoder: ExampleEncoder, rows: Iterable[ExampleRow]) -> int:
    """Write the store of the rows, and return how many there were."""
    number, iterator = 0, iter(rows)
    with ExampleWriter(folder, encoder.tokenizer, "labelled") as writer:
        while batch := list(islice(iterator, _ROWS_AT_ONCE)):
            for row, parts in zip(batch, encoder.encode_parts(batch), strict=True):
                for part in parts:
                    labels = {**(part.labels or {}), "row": number}
                    writer.add(row.group, [row.prompt], part.tokens, part.learned, None, part.learned_bytes, labels)
                number += 1
        if not writer.examples:
            raise InputError("no row can be used", encoder.bad_rows.remedy() or "give rows with text")
    return number


def _plan(opened: OpenModel, seed: int) -> Plan:
    """Return the plan of the run of a model, or for a model without its run what predicting needs of one."""
    assert opened.task is not None
    name, facts = opened.task
    if opened.run is not None:
        plan = Plan.from_json(opened.run.plan, str(opened.run.path / "plan.json"))
        return replace(plan, seed=seed)
    return Plan(
        model=None,
        parameters=0,
        context=min(opened.model.context, facts["head"].get("context", opened.model.context)),
        batch_tokens=1,
        global_batch_size=1,
        micro_batch_size=1,
        steps=0,
        tokens=0,
        epochs=0.0,
        device="cpu",
        precision="fp32",
        compile=False,
        threads=1,
        optimizer=OptimizerOptions(),
        schedule=Schedule(),
        seed=seed,
        isolate=facts["head"].get("isolate", False),
        label_smoothing=0.0,
        max_grad_norm=0.0,
        validation_rows=0,
        validate_every=1,
        checkpoint_every=1,
        evaluation_tokens=0,
        flops_per_token=0.0,
        task=name,
        objective=name,
        facts=facts,
    )
