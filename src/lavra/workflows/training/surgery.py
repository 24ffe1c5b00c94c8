"""The validation loss of a base model before surgery and right after, on the same text."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from lavra.core.disk.files import write_json
from lavra.models.heads import ATTRIBUTE
from lavra.training.validation import Validation
from lavra.workflows.models.base_model import Base
from lavra.workflows.models.surgery import RECORD, Surgery
from lavra.workflows.training.job_parts import JobParts


def measure_surgery(job: JobParts) -> None:
    """Measure the base model of a job as it came and as it was changed, and record both; nothing without surgery.

    Both are measured on sequences that the model could read before. The model is given back then, because training
    changes the weights that both share.

    Args:
        job: The training job before its first step, on any process.
    """
    base, run = job.base, job.run
    if base is None or base.surgery is None or run is None:
        return
    surgery = base.surgery
    record: dict[str, Any] = {"changes": list(surgery.changes)}
    if (reason := _why_not(job, base, surgery)) is None:
        record |= _losses(job, surgery, 1.0 if base.room is None else base.room.growth)
        length, loss = record["context"], record["validation_loss"]
        run.log(
            f"surgery: {'; '.join(surgery.changes)}; on sequences of {length:,} tokens the validation loss is "
            f"{loss['before']:.4f} before and {loss['after']:.4f} right after"
        )
    else:
        run.log(f"surgery: {'; '.join(surgery.changes)}; the loss before and after is not compared: {reason}")
        record["not_measured"] = reason
    write_json(run.path / RECORD, record)
    job.base = replace(base, surgery=None)


def _why_not(job: JobParts, base: Base, surgery: Surgery) -> str | None:
    """Return why there is no loss that the model had before; None where there is one."""
    if job.validation is None:
        return "there are no validation texts"
    if hasattr(job.model, ATTRIBUTE):
        return "the head of the task is new"
    if base.another_vocabulary:
        return "the vocabulary is another one, too"
    if job.task.rows != "text" and job.plan.context > surgery.before.context:
        return "the examples are those of the longer context"
    return None


def _losses(job: JobParts, surgery: Surgery, growth: float) -> dict[str, Any]:
    """Return the mean validation loss before and after, and the length of the sequences.

    A denoising objective makes `growth` tokens of each token of text.
    """
    plan, before = job.plan, surgery.before
    context = min(plan.context, int(before.context / max(1.0, growth)))
    shorter = replace(plan, context=context)
    rows = math.ceil(plan.validation_rows * plan.context / context)
    found = job.dataset.validation_set(shorter)
    metrics = partial(job.task.metrics, bytes_per_target=found.bytes_per_target)
    validation = Validation(found.source, min(rows, found.rows), metrics)
    objective, size = job.task.objective(shorter, job.model, job.dataset), job.trainer.batches.micro_batch_size
    first = validation.measure(before.eval().to(job.device), objective, size, job.device)
    with job.trainer.eval_mode():
        second = validation.measure(job.trainer.model, objective, size, job.device)
    before.to("cpu")
    return {"context": context, "validation_loss": {"before": first["loss"], "after": second["loss"]}}
