"""The head of tags is fitted on the frozen features of a pretrained model, where a run is too short to learn it.

A new head first has to learn which tags are frequent, and then what each looks like. In a run that does not read every
sentence once, that would take all of its steps. A linear head on the features of some sentences is there in seconds,
and the steps go on from it (LP-FT, Kumar et al. 2022, arXiv 2202.10054).
"""

from __future__ import annotations

import time

import torch

from lavra.core.progress import Progress, log
from lavra.core.seeds import row_streams
from lavra.core.units import counted, show_duration
from lavra.models.heads import ATTRIBUTE, TokenHead
from lavra.models.protocols import IGNORED
from lavra.tasks.labelled_dataset import LabelledDataset
from lavra.workflows.labels.linear_head import fitted
from lavra.workflows.training.job_parts import JobParts

_SHARE = 0.1
"""Share of a time budget in which features may be computed."""
_MOST = 20_000
"""Most words whose features are computed."""
_FEWEST = 20
"""Fewest words for each tag on which a head is fitted."""


def fit_token_head(job: JobParts, head: TokenHead) -> bool:
    """Fit the head of tags on the features of the first training sentences, in the order of the run.

    Nothing is done where the run reads every sentence, unless `head.probe` asks for it, or where the time does not
    suffice for enough words.

    Args:
        job: The training job before its first step; the master weights of the head are changed.
        head: Its head.

    Returns:
        Whether the head was fitted.
    """
    asked, plan = job.config.head.probe, job.plan
    short = plan.budget_seconds is not None and plan.epochs < 1
    if not (short if asked is None else asked):
        return False
    began = time.monotonic()
    vectors, tags = _features(job)
    if len(tags) < _FEWEST * head.output.out_features:
        return False
    targets = torch.nn.functional.one_hot(tags, head.output.out_features).float()
    weight, bias = fitted(vectors, targets, "classes")
    master = job.trainer.master_weights
    with torch.no_grad():
        master.weights[f"{ATTRIBUTE}.output.weight"].copy_(weight)
        master.weights[f"{ATTRIBUTE}.output.bias"].copy_(bias)
    master.copy_to_model()
    taken = show_duration(time.monotonic() - began)
    log(f"the head begins fitted on the frozen features of {counted(len(tags), 'word')} ({taken})")
    return True


def _features(job: JobParts) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features of words with a tag, (n, width), and the number of the tag of each, (n,)."""
    plan, trainer = job.plan, job.trainer
    assert isinstance(job.dataset, LabelledDataset)
    source = job.dataset.source(plan)
    end = float("inf") if plan.budget_seconds is None else time.monotonic() + _SHARE * plan.budget_seconds
    vectors, tags, number = list[torch.Tensor](), list[torch.Tensor](), 0
    with trainer.eval_mode(), torch.no_grad(), Progress("features of the words", _MOST, "words") as progress:
        for first in range(source.rows_per_epoch):
            batch = trainer.objective.encode(source.rows(first, 1), row_streams(0, "probe", first=first), 1.0)
            batch = batch.to(job.device)
            known = batch.targets != IGNORED
            vectors.append(job.model.features(batch)[known].float().cpu())
            tags.append(batch.targets[known].cpu())
            number += len(tags[-1])
            progress.update(min(number, _MOST))
            if number >= _MOST or time.monotonic() > end:
                break
    return torch.cat(vectors), torch.cat(tags)
