"""Frozen features and a linear head: a candidate between the linear model on words and the whole network.

The features of a pretrained model are computed once. A head on them is then fitted in seconds, compared with the linear
model by cross-validation inside the training rows, and measured on the validation rows. Where it is better than the
network in the end, as with few labels or little time, it is delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lavra.config.transforms import TransformConfig
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted, show_duration
from lavra.evaluation.labels.comparison import compare
from lavra.evaluation.labels.metrics import METRICS, metric_value
from lavra.evaluation.labels.predictions import Predictions
from lavra.evaluation.labels.predictions_file import read_predictions, write_predictions
from lavra.models.heads import ATTRIBUTE, SequenceHead
from lavra.models.pooling import Pooling
from lavra.tasks.base import Trained
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.tasks.linear_baseline import LINEAR, read_baseline
from lavra.workflows.labels.choice import FROZEN, difference
from lavra.workflows.labels.inner_rows import InnerRows, Predict, inner_rows
from lavra.workflows.labels.linear_head import fitted, head_targets
from lavra.workflows.labels.quality_forecast import FOLDS, linear_predict
from lavra.workflows.models.saved_base import companions_folder, finish_model, initial_model, write_model
from lavra.workflows.training.job_parts import JobParts

_PREDICTIONS = "predictions.parquet"
_HEAD = "head.safetensors"
_RECORD = "choice.json"

_JUDGED = 2000
"""Most training rows on which the head and the linear model are cross-validated."""

_SHARE = 0.04
"""Share of a time budget that predicting the validation rows may take."""


@dataclass(frozen=True)
class Features:
    """Vectors of training texts.

    Attributes:
        numbers: Numbers of the texts in the store of the training rows.
        vectors: What the head makes of the features of each, (n, width) in float32.
        seconds: Seconds that a text took.
    """

    numbers: list[int]
    vectors: torch.Tensor
    seconds: float


def can_stay_frozen(job: JobParts) -> bool:
    """Return whether frozen features with a linear head are a candidate in a run.

    They are not for a fold, whose rows choose nothing, nor for a run with transforms or without validation rows.

    Args:
        job: The training job.
    """
    asked, data = job.config, job.dataset
    whole = asked.deliver != "last" and job.plan.transforms == TransformConfig()
    return job.run is not None and whole and isinstance(data, LabelledDataset) and not data.trained_on_all


def frozen_pooling(job: JobParts, head: SequenceHead) -> Pooling:
    """Return the pooling of a candidate with frozen features: the mean where the request leaves it open for an encoder.

    What the first token says of a text is little before the model was tuned.

    Args:
        job: The training job.
        head: The head of the network.
    """
    is_open = job.config.head.pooling == "auto" and job.plan.facts["head"].get("kind") == "encoder"
    return "mean" if is_open else head.options["pooling"]


def frozen_head(head: SequenceHead, pooling: Pooling) -> SequenceHead:
    """Return a head like another one, with weights of its own that are yet to be fitted.

    Args:
        head: The other head.
        pooling: How the features of a document become one vector.
    """
    found = SequenceHead(head.width, **{**head.options, "pooling": pooling})
    found.load_state_dict(head.state_dict(), strict=False)
    weight = next(head.output.parameters())
    return found.to(device=weight.device, dtype=weight.dtype).eval()


def keep_frozen(job: JobParts, found: Features, head: SequenceHead, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Compare a head on frozen features with the linear model, measure it on the validation rows, and keep it.

    Args:
        job: The training job before its first step.
        found: The features of training texts, as the head pools them.
        head: The head, which gets the weights.
        weight: Weight that was fitted to the features.
        bias: Its bias.
    """
    task, data, run, budget = job.task, job.dataset, job.run, job.plan.budget_seconds
    assert isinstance(task, LabelledTextTask)
    assert isinstance(data, LabelledDataset)
    assert run is not None
    rows = len(data.prepared.validation)
    if budget is not None and found.seconds * rows > _SHARE * budget:
        needed = show_duration(found.seconds * rows)
        log(f"frozen features are no candidate: to predict {counted(rows, 'validation text')} would take {needed}")
        return
    folder = run.path / FROZEN
    folder.mkdir(exist_ok=True)
    record = {"pooling": head.options["pooling"], **_judged(job, task, data, found)}
    table = _predicted(job, task, head, weight, bias, folder)
    metric = METRICS[task.kind][0]
    log(f"a linear head on frozen features: {metric.replace('_', ' ')} {metric_value(table, metric):.3f}")
    write_predictions(folder / _PREDICTIONS, table)
    write_json(folder / _RECORD, record)


def _judged(job: JobParts, task: LabelledTextTask, data: LabelledDataset, found: Features) -> dict[str, Any]:
    """Return how the head compares with the linear model inside training rows, after saying it."""
    facts, run = job.plan.facts, job.run
    baseline = None if run is None else read_baseline(run.path / LINEAR)
    rows = [data.prepared.train.labels(number) for number in found.numbers[:_JUDGED]]
    known = np.flatnonzero(~np.isnan(task.targets(facts, rows)).any(axis=1)).tolist()
    try:
        inner = inner_rows(task, facts, [rows[row] for row in known], FOLDS, job.plan.seed) if known else None
    except InputError:  # too few groups, or copies of one text
        inner = None
    if baseline is None or inner is None:
        return {}
    bias = getattr(job.model, ATTRIBUTE).output.bias is not None
    head = inner.out_of_fold(_head_predict(task, facts, inner, found.vectors[known], bias=bias))
    linear = inner.out_of_fold(linear_predict(inner, facts, baseline[0].strength, job.plan.seed))
    compared = compare(linear, head, METRICS[task.kind][0], seed=job.plan.seed)
    told = difference(compared, "of a linear head on frozen features", "of the linear model on words")
    log(f"cross-validated on {counted(len(inner.rows), 'training row')}: {told}")
    return {"inside_training_rows": compared.to_json()}


def _head_predict(
    task: LabelledTextTask, facts: Mapping[str, Any], inner: InnerRows, vectors: torch.Tensor, *, bias: bool
) -> Predict:
    targets = head_targets(task, facts, inner.rows)

    def predict(learned: Any, asked: Any) -> Any:
        weight, shift = fitted(vectors[learned], targets[learned], task.outputs, bias=bias)
        return np.asarray(task.probabilities(facts, (vectors[asked] @ weight.T + shift).double()))

    return predict


def _predicted(
    job: JobParts,
    task: LabelledTextTask,
    head: SequenceHead,
    weight: torch.Tensor,
    bias: torch.Tensor,
    folder: Path,
) -> Predictions:
    """Return what the model with a fitted head says of the validation rows; the head is written into a folder."""
    from safetensors.torch import save_file

    output, before = head.output, getattr(job.model, ATTRIBUTE)
    assert isinstance(output, nn.Linear)
    with torch.no_grad():
        output.weight.copy_(weight)
        if output.bias is not None:
            output.bias.copy_(bias)
    save_file({name: one.float().cpu().contiguous() for name, one in head.state_dict().items()}, folder / _HEAD)
    setattr(job.model, ATTRIBUTE, head)
    try:
        with torch.no_grad(), job.trainer.eval_mode():
            return task.predictions(Trained(job.model, job.trainer.objective, job.dataset, job.plan, job.device))
    finally:
        setattr(job.model, ATTRIBUTE, before)


def frozen_predictions(run: Path) -> Predictions | None:
    """Return what the head on frozen features says of the validation rows of a run; None where it is no candidate.

    Args:
        run: The folder of the run.
    """
    return read_predictions(run / FROZEN / _PREDICTIONS) if (run / FROZEN / _RECORD).exists() else None


def frozen_record(run: Path) -> dict[str, Any]:
    """Return as `frozen` what is recorded of the head on frozen features in a run; nothing where it is no candidate.

    Args:
        run: The folder of the run.
    """
    return {FROZEN: read_json(run / FROZEN / _RECORD)} if (run / FROZEN / _RECORD).exists() else {}


def deliver_frozen(job: JobParts, out: Path) -> None:
    """Write the base model with the head on its frozen features as the model of a run.

    Args:
        job: The training job.
        out: The folder of the model, which is replaced.
    """
    from safetensors.torch import load_file

    pooling = read_json(job.home / FROZEN / _RECORD)["pooling"]
    facts = {**job.plan.facts, "head": {**job.plan.facts["head"], "pooling": pooling}}
    model = initial_model(job.plan, job.home)
    finish_model(model, replace(job.plan, facts=facts))
    getattr(model, ATTRIBUTE).load_state_dict(load_file(job.home / FROZEN / _HEAD))
    files = companions_folder(job.home, job.dataset.folder)
    write_model(out, model, job.dataset.tokenizer, files, None, (job.plan.task, facts))
