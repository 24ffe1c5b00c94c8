"""The head of a pretrained model is fitted on its frozen features, to begin with, or to be delivered with them.

A head with random weights pulls the features of a pretrained model apart in the first steps. One that was fitted on
them does not (LP-FT, Kumar et al. 2022, arXiv 2202.10054), and is already a classifier in the shortest budget. With
thousands of labels it was worse here (see the lab notebook), so it is the default for few. The base model with such a
head is also a candidate of its own, see `frozen`.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from lavra.core.progress import Progress, log
from lavra.core.seeds import row_streams
from lavra.core.units import counted, show_duration
from lavra.models.heads import ATTRIBUTE, SequenceHead, TokenHead
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.workflows.labels.frozen import Features, can_stay_frozen, frozen_head, frozen_pooling, keep_frozen
from lavra.workflows.labels.linear_head import fitted, head_targets
from lavra.workflows.labels.token_probe import fit_token_head
from lavra.workflows.models.task_head import FEW_TEXTS
from lavra.workflows.training.job_parts import JobParts

_SHARE = 0.06
"""Share of a time budget in which features may be computed; those of the first rows, in the order of the run, count."""

_MOST = 20_000
"""Most texts whose features are computed."""

_UNASKED = 0.18
"""The same where the head does not begin fitted and there is no budget, as a share of the texts that the run trains on;
features take about a third of the time of a step."""

_FEWEST = 8
"""Fewest texts for each output on which a head is fitted."""

_ROWS_AT_ONCE = 16


def fit_head(job: JobParts) -> None:
    """Fit the linear head of a base model on the features of the training texts, with everything else frozen.

    Nothing is done for a model from scratch, for another task than one label for each text or tags of words (see
    `token_probe`), or where the time budget does not suffice for enough texts.

    Args:
        job: The training job before its first step; the master weights of the head are changed.
    """
    task, data, head = job.task, job.dataset, getattr(job.model, ATTRIBUTE, None)
    if job.base is not None and type(head) is TokenHead:
        fit_token_head(job, head)
        return
    if job.base is None or not isinstance(task, LabelledTextTask) or not isinstance(data, LabelledDataset):
        return
    if type(head) is not SequenceHead or not isinstance(head.output, nn.Linear):
        return
    asked = job.config.head.probe
    begins = len(data.prepared.train) < FEW_TEXTS if asked is None else asked
    candidate = can_stay_frozen(job)
    if not begins and not candidate:
        return
    began = time.monotonic()
    timed = begins or job.plan.budget_seconds is not None
    most = _MOST if timed else min(_MOST, round(_UNASKED * job.plan.epochs * len(data.prepared.train)))
    own = frozen_head(head, head.options["pooling"] if begins else frozen_pooling(job, head))
    found = _features(job, own, most)
    if len(found.numbers) < _FEWEST * head.output.out_features:
        return
    store = data.prepared.train
    targets = head_targets(task, job.plan.facts, [store.labels(number) for number in found.numbers])
    known = ~torch.isnan(targets).any(-1)
    has_bias = head.output.bias is not None  # the classes of `transformers` for labels of decoders have none
    weight, bias = fitted(found.vectors[known], targets[known], task.outputs, bias=has_bias)
    if candidate:
        keep_frozen(job, found, own, weight, bias)
    if begins:
        _begin_with(job, weight, bias)
        taken = show_duration(time.monotonic() - began)
        log(f"the head begins fitted on the frozen features of {counted(len(found.numbers), 'text')} ({taken})")


def _begin_with(job: JobParts, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Take weights as those of the head at the first step."""
    master = job.trainer.master_weights
    with torch.no_grad():
        master.weights[f"{ATTRIBUTE}.output.weight"].copy_(weight)
        if f"{ATTRIBUTE}.output.bias" in master.weights:
            master.weights[f"{ATTRIBUTE}.output.bias"].copy_(bias)
    master.copy_to_model()


def _features(job: JobParts, head: SequenceHead, most: int) -> Features:
    """Return the vectors that the head makes of training texts, of at most so many and as far as the time allows."""
    plan, trainer = job.plan, job.trainer
    assert isinstance(job.dataset, LabelledDataset)
    source = job.dataset.source(plan)
    began = time.monotonic()
    end = float("inf") if plan.budget_seconds is None else began + _SHARE * plan.budget_seconds
    numbers, found = list[int](), list[torch.Tensor]()
    most = min(most, len(job.dataset.prepared.train))
    with trainer.eval_mode(), torch.no_grad(), Progress("features of the texts", most, "texts") as progress:
        for first in range(0, source.rows_per_epoch, _ROWS_AT_ONCE):
            rows = source.rows(first, min(_ROWS_AT_ONCE, source.rows_per_epoch - first))
            batch = trainer.objective.encode(rows, row_streams(0, "probe", first=first), 1.0).to(job.device)
            found.append(head.pooled(job.model.features(batch), batch).float().cpu())
            numbers += batch.documents
            progress.update(min(most, len(numbers)))
            if len(numbers) >= most or time.monotonic() > end:
                break
    return Features(numbers, torch.cat(found), (time.monotonic() - began) / max(1, len(numbers)))
