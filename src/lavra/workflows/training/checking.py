"""What the checks look at in a training job, and their short form before the first step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavra.checks.base import CheckContext, Storage, Store
from lavra.checks.suite import QUICK, Report, run_checks
from lavra.core.errors import InputError
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import family_for
from lavra.models.hf.folders import open_hf_model, save_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import WEIGHTS
from lavra.models.transforms.apply import learned_weights, load_learned_weights
from lavra.objectives.wrapping import Wrapper
from lavra.tasks.datasets import Dataset, ExampleDataset, TextDataset
from lavra.training.precision import TYPES
from lavra.workflows.models.saved_base import model_with
from lavra.workflows.training.job_parts import JobParts

CHECKS = "checks.json"
"""Name of the file in the run's folder to which the checks before training are written."""

_MOST_SECONDS = 9.0
"""Most seconds that the short form may take, and most share of a time budget."""
_BUDGET_SHARE = 0.03

_ROWS = 4
"""Sequences of the batch that the checks compute."""

_COMPUTE = {"cpu": 1.2e10, "cuda": 1e13, "mps": 5e11}
"""Parameters times tokens of that batch, by device: small enough for one pass to take less than a second."""

_SHORTEST = 32
"""Shortest and longest sequences of that batch, in tokens."""
_LONGEST = 512


def quick_checks(context: CheckContext, budget_seconds: float | None) -> Report:
    """Run the short form of the checks: at most 9 seconds, and at most 3 % of a time budget.

    Checks that do not fit into that time are left out, and the summary counts them.

    Args:
        context: What the checks look at.
        budget_seconds: The time budget of the run; None for a run without one.
    """
    allowed = _MOST_SECONDS if budget_seconds is None else min(_MOST_SECONDS, _BUDGET_SHARE * budget_seconds)
    return checked(context, QUICK, allowed)


def checked(context: CheckContext, checks: Sequence[Any], seconds: float | None) -> Report:
    """Run checks with nothing compiled: their sequences are shorter than those of training, and compiled blocks would
    be compiled again for each new length.

    Args:
        context: What the checks look at.
        checks: The checks.
        seconds: The time that they may take; None for as long as they need.
    """
    compilation = context.trainer.compilation
    with nullcontext() if compilation is None else compilation.eagerly():
        return run_checks(context, checks, seconds=seconds)


def check_context(job: JobParts, *, loaded: bool = False, quick: bool = False) -> CheckContext:
    """Return what the checks look at: a training job, with sequences that are short enough for the machine.

    Args:
        job: The job, which has been built.
        loaded: Whether the weights come from a trained model, so that the first loss is not that of a random one.
        quick: Whether sequences are shorter, for the short form.

    Returns:
        The context of the checks.
    """
    trainer, plan, data = job.trainer, job.plan, job.dataset
    tokens = int(_COMPUTE.get(trainer.device.type, 1.2e10) / plan.parameters / (2 if quick else 1))
    rows = _ROWS if tokens >= _ROWS * 2 * _SHORTEST else 2
    longest = min(plan.context, _LONGEST // (4 if quick else 1), max(_SHORTEST, tokens // rows))
    sample = data.rows_to_check(plan, longest)
    objective = trainer.objective if sample.context == plan.context else _shorter(trainer.objective, sample.context)
    return CheckContext(
        trainer,
        objective,
        sample.source,
        rows=rows,
        token_targets=job.task.rows != "labelled",
        causal=job.task.causal,
        mixed_rows=sample.mixed,
        must_learn=job.task.must_learn(data.tokenizer),
        frozen=job.frozen | (job.model.unused if isinstance(job.model, HFModel) else frozenset()),
        first_loss=job.task.first_loss(plan.facts),
        loaded=loaded or plan.base is not None,
        tied=job.model.tied,
        storage=_storage(job),
        export=_export(job),
        data=data.prepared if isinstance(data, TextDataset) else None,
        stores=_stores(data),
        tokenizer=data.tokenizer,
        tokens_per_second=plan.probe.get("tokens_per_second"),
    )


def _shorter(objective: Any, context: int) -> Any:
    """Return an objective, and those inside it, for sequences of another length."""
    if isinstance(objective, Wrapper):
        return replace(objective, inner=_shorter(objective.inner, context))
    return replace(objective, context=context)


def _stores(data: Dataset) -> tuple[Store, ...]:
    prepared = data.prepared if isinstance(data, TextDataset | ExampleDataset) else None
    return () if prepared is None else (prepared.train, prepared.validation)


def _storage(job: JobParts) -> Storage:
    """Return how the trained weights are saved as in a checkpoint, and loaded into a model of the plan again.

    A base model is copied and not read again, since it may be large: what was trained comes from the file all the same.
    """
    plan, model, device = job.plan, job.model, job.trainer.device

    def save(folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.cpu().contiguous() for name, weight in learned_weights(model).items()}
        save_file(weights, folder / WEIGHTS)

    def load(folder: Path) -> Decoder | HFModel:
        from safetensors.torch import load_file

        weights = load_file(folder / WEIGHTS)
        if plan.base is None:
            loaded, _ = model_with(plan, job.home, weights, str(folder))
        else:
            loaded = copy.deepcopy(model)
            for parameter in loaded.parameters():
                if parameter.requires_grad:  # nothing of it may stand in for a weight that the file lacks
                    parameter.data.fill_(float("nan"))
            load_learned_weights(loaded, weights, str(folder))
        loaded = loaded.to(device).eval()
        for parameter in loaded.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():  # kept in the working precision alone
                parameter.data = parameter.data.to(TYPES[plan.precision]).float()
        return loaded

    return Storage(save, load)


def _export(job: JobParts) -> Storage | None:
    """Return how the model is saved and loaded as a Hugging Face folder; None where no architecture expresses it."""
    model, device, data = job.model, job.trainer.device, job.dataset
    if job.plan.transforms.adapter.kind != "none" or hasattr(model, "task_head"):
        return None
    if not isinstance(model, Decoder):
        return Storage(lambda folder: save_hf_model(folder, model), lambda folder: open_hf_model(folder).to(device))
    try:
        family_for(model.spec)
    except InputError:
        return None
    ids = {"bos_token_id": data.tokenizer.document_bos, "eos_token_id": data.tokenizer.end_of_document}

    def save(folder: Path) -> None:
        export_decoder(folder, model, {**ids})

    return Storage(save, lambda folder: import_decoder(folder).model.to(device))
