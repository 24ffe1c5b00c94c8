"""The head of a pretrained model is fitted on the frozen features first, so that tuning begins with a head that knows.

A head with random weights pulls the features of a pretrained model apart in the first steps. One that was fitted on
them does not (LP-FT, Kumar et al. 2022, arXiv 2202.10054), and is already a classifier in the shortest budget. With
thousands of labels it was worse here (see the lab notebook), so it is the default for few.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.progress import Progress, log
from lavra.core.seeds import row_streams
from lavra.core.units import counted, show_duration
from lavra.models.heads import ATTRIBUTE, SequenceHead
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.tasks.labelled_text import LabelledTextTask
from lavra.workflows.training.job_parts import JobParts

_SHARE = 0.06
"""Share of a time budget in which features may be computed; those of the first rows, in the order of the run, count."""

_MOST = 20_000
"""Most texts whose features are computed."""

_FEW = 500
"""Training texts below which the head is fitted first; with many, tuning from random weights ended better here."""

_FEWEST = 8
"""Fewest texts for each output on which a head is fitted."""

_PENALTY = 20.0
"""Sum of squares of the weights on standardised features, as a weight in the summed loss."""

_STEPS = 200
_ROWS_AT_ONCE = 16


def fit_head(job: JobParts) -> None:
    """Fit the linear head of a base model on the features of the training texts, with everything else frozen.

    Nothing is done for a model from scratch, for another task than one label for each text, or where the time budget
    does not suffice for enough texts.

    Args:
        job: The training job before its first step; the master weights of the head are changed.
    """
    task, data, head = job.task, job.dataset, getattr(job.model, ATTRIBUTE, None)
    if job.base is None or not isinstance(task, LabelledTextTask) or not isinstance(data, LabelledDataset):
        return
    asked = job.config.head.probe
    wanted = len(data.prepared.train) < _FEW if asked is None else asked
    if not wanted or type(head) is not SequenceHead or not isinstance(head.output, nn.Linear):
        return
    began = time.monotonic()
    numbers, vectors = _features(job, head)
    if len(numbers) < _FEWEST * head.output.out_features:
        return
    store = data.prepared.train
    rows = [store.labels(number) for number in numbers]
    targets = _targets(task, job.plan.facts, rows)
    known = ~torch.isnan(targets).any(-1)
    weight, bias = fitted(vectors[known], targets[known], task.outputs)
    master = job.trainer.master_weights
    with torch.no_grad():
        master.weights[f"{ATTRIBUTE}.output.weight"].copy_(weight)
        if f"{ATTRIBUTE}.output.bias" in master.weights:
            master.weights[f"{ATTRIBUTE}.output.bias"].copy_(bias)
    master.copy_to_model()
    taken = show_duration(time.monotonic() - began)
    log(f"the head begins fitted on the frozen features of {counted(len(numbers), 'text')} ({taken})")


def _features(job: JobParts, head: SequenceHead) -> tuple[list[int], torch.Tensor]:
    """Return the numbers of training texts, and the (n, width) vectors that the head makes of them, in float32."""
    plan, trainer = job.plan, job.trainer
    assert isinstance(job.dataset, LabelledDataset)
    source = job.dataset.source(plan)
    end = float("inf") if plan.budget_seconds is None else time.monotonic() + _SHARE * plan.budget_seconds
    numbers, found = list[int](), list[torch.Tensor]()
    most = min(_MOST, len(job.dataset.prepared.train))
    with trainer.eval_mode(), torch.no_grad(), Progress("features of the texts", most, "texts") as progress:
        for first in range(0, source.rows_per_epoch, _ROWS_AT_ONCE):
            rows = source.rows(first, min(_ROWS_AT_ONCE, source.rows_per_epoch - first))
            batch = trainer.objective.encode(rows, row_streams(0, "probe", first=first), 1.0).to(job.device)
            found.append(head.pooled(job.model.features(batch), batch).float().cpu())
            numbers += batch.documents
            progress.update(min(most, len(numbers)))
            if len(numbers) >= most or time.monotonic() > end:
                break
    return numbers, torch.cat(found)


def _targets(task: LabelledTextTask, facts: Mapping[str, Any], rows: list[dict[str, Any]]) -> torch.Tensor:
    """Return what the head should give for each row, (rows, outputs): probabilities, or values in its units."""
    targets = task.targets(facts, rows)
    if task.outputs == "values":
        targets = (targets - facts["mean"]) / facts["deviation"]
    return torch.from_numpy(np.asarray(targets, np.float32))


def fitted(vectors: torch.Tensor, targets: torch.Tensor, outputs: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias of the linear layer that best gives the targets, with a small penalty.

    Args:
        vectors: Features, (n, width).
        targets: Probabilities of classes or labels, or values, (n, outputs).
        outputs: What the outputs are, see `lavra.objectives.classify.Outputs`.

    Returns:
        The weight, (outputs, width), and the bias, (outputs,).

    Examples:
        >>> weight, bias = fitted(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [3.0]]), "values")
        >>> weight.shape, bias.shape
        (torch.Size([1, 1]), torch.Size([1]))
    """
    mean, spread = vectors.mean(0), vectors.std(0, correction=0).clamp_min(1e-6)
    scaled = (vectors - mean) / spread
    layer = nn.Linear(vectors.shape[1], targets.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        given = layer(scaled)
        if outputs == "classes":
            value = F.cross_entropy(given, targets, reduction="sum")
        elif outputs == "labels":
            value = F.binary_cross_entropy_with_logits(given, targets, reduction="sum")
        else:
            value = (given - targets).square().sum()
        total = (value + _PENALTY * layer.weight.square().sum()) / len(vectors)
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        weight = layer.weight / spread
        return weight, layer.bias - weight @ mean
