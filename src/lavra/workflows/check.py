"""Checking a training set-up: `lavra check`, and the shorter form at the start of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lavra.checks.base import CheckContext, Storage, Store
from lavra.checks.suite import FULL, QUICK, Report, run_checks
from lavra.config.training import TrainConfig
from lavra.core.disk.files import write_json
from lavra.core.disk.run_folder import RunFolder, is_run
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import family_for
from lavra.models.hf.folders import open_hf_model, save_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import WEIGHTS
from lavra.models.transforms.apply import learned_weights
from lavra.planning.plan import Plan
from lavra.training.batches import DistributedInfo
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.devices import choose_device, use_threads
from lavra.training.precision import TYPES
from lavra.workflows.datasets.dataset import Dataset, ExampleDataset, TextDataset, open_dataset
from lavra.workflows.datasets.preparation import measured_machine, opened_base, training_dataset
from lavra.workflows.datasets.text import data_folder, request_of
from lavra.workflows.models.saved_base import build_model, model_with
from lavra.workflows.training.autoconfig import autoconfig, draft_model
from lavra.workflows.training.build import TrainingJob, build_training_job

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


def check(config: TrainConfig) -> Report:
    """Run all checks on a run, or on text and the model that would be trained on it.

    Args:
        config: The request, as for training. Its data may be the folder of one run, whose own request, text and weights
            are then checked.

    Returns:
        The report, with a verdict, what was measured and what was expected for each check.

    Raises:
        InputError: If the text, the run or the request cannot be used.
    """
    if not config.data:
        raise InputError("nothing to check was given", "lavra check RUN, or lavra check DATA --model gpt2-124m")
    if len(config.data) == 1 and is_run(Path(config.data[0])):
        return _check_run(RunFolder(config.data[0]))
    return _check_text(config)


def check_before_training(job: TrainingJob, plan: Plan, data: Dataset, run: RunFolder) -> None:
    """Run the short form of the checks before the first step, and write `checks.json`.

    It takes at most 9 seconds, and at most 3 % of a time budget; checks that do not fit into that time are left out,
    and the summary counts them.

    Args:
        job: The trainer at its first step, which is left unchanged.
        plan: The plan of the run.
        data: The training data.
        run: The folder of the run, which gets `checks.json` and a line in `events.log`.

    Raises:
        CheckFailed: If a check failed.
    """
    allowed = _MOST_SECONDS
    if plan.budget_seconds is not None:
        allowed = min(allowed, _BUDGET_SHARE * plan.budget_seconds)
    report = _checked(make_check_context(job, plan, data, quick=True), QUICK, allowed)
    write_json(run.path / CHECKS, report.to_json())
    log(report.summary())
    run.log(report.summary())
    for result in report.results:
        if result.verdict == "warn":
            log(f"warning: {result.name}: {result.measured} (expected: {result.expected}); {result.remedy}")
    report.raise_if_failed(str(run.path / CHECKS))


def make_check_context(
    job: TrainingJob, plan: Plan, data: Dataset, *, loaded: bool = False, quick: bool = False
) -> CheckContext:
    """Return what the checks look at: a training job, with sequences that are short enough for the machine.

    Args:
        job: The trainer at its first step.
        plan: The plan of the run.
        data: The training data.
        loaded: Whether the weights come from a trained model, so that the first loss is not that of a random one.
        quick: Whether sequences are shorter, for the short form.

    Returns:
        The context of the checks.
    """
    trainer = job.trainer
    tokens = int(_COMPUTE.get(trainer.device.type, 1.2e10) / plan.parameters / (2 if quick else 1))
    rows = _ROWS if tokens >= _ROWS * 2 * _SHORTEST else 2
    longest = min(plan.context, _LONGEST // (4 if quick else 1), max(_SHORTEST, tokens // rows))
    sample = data.rows_to_check(plan, longest)
    shorter = {} if sample.context == plan.context else {"context": sample.context}
    return CheckContext(
        trainer,
        replace(trainer.objective, **shorter),  # pyright: ignore[reportArgumentType, reportCallIssue]
        sample.source,
        rows=rows,
        causal=plan.objective != "mlm",
        mixed_rows=sample.mixed,
        must_learn=() if plan.objective == "mlm" else (data.tokenizer.end_of_document,),
        frozen=_meant_to_be_frozen(job, plan),
        loaded=loaded or plan.base is not None,
        tied=_tied(job.model),
        storage=_storage(job, plan),
        export=_export(job, plan, data),
        data=data.prepared if isinstance(data, TextDataset) else None,
        stores=_stores(data),
        tokenizer=data.tokenizer,
        tokens_per_second=plan.probe.get("tokens_per_second"),
    )


def _stores(data: Dataset) -> tuple[Store, ...]:
    prepared = data.prepared if isinstance(data, TextDataset | ExampleDataset) else None
    return () if prepared is None else (prepared.train, prepared.validation)


def _tied(model: Decoder | HFModel) -> bool:
    """Say whether the head is meant to be the embedding."""
    return model.spec.tied if isinstance(model, Decoder) else model.tied


def _meant_to_be_frozen(job: TrainingJob, plan: Plan) -> frozenset[str]:
    """Return the parameters that are frozen on purpose: by a transform of the plan, or because the model does not use
    them. Any other parameter without a gradient is a mistake that the checks report."""
    if not plan.transforms.freeze and plan.transforms.adapter.kind == "none":
        return job.model.unused if isinstance(job.model, HFModel) else frozenset()
    fresh = build_model(plan, job.home)
    return frozenset(name for name, weight in fresh.named_parameters() if not weight.requires_grad)


def _storage(job: TrainingJob, plan: Plan) -> Storage:
    """Return how the trained weights are saved as in a checkpoint, and loaded into the model of the plan again."""
    model, device = job.model, job.trainer.device

    def save(folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.cpu().contiguous() for name, weight in learned_weights(model).items()}
        save_file(weights, folder / WEIGHTS)

    def load(folder: Path) -> Decoder | HFModel:
        from safetensors.torch import load_file

        loaded = model_with(plan, job.home or folder, load_file(folder / WEIGHTS), str(folder)).to(device).eval()
        for parameter in loaded.parameters():
            if not parameter.requires_grad and parameter.is_floating_point():  # kept in the working precision alone
                parameter.data = parameter.data.to(TYPES[plan.precision]).float()
        return loaded

    return Storage(save, load)


def _export(job: TrainingJob, plan: Plan, data: Dataset) -> Storage | None:
    """Return how the model is saved and loaded as a Hugging Face folder; None where no architecture expresses it."""
    model, device = job.model, job.trainer.device
    if plan.transforms.adapter.kind != "none":
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


def _checked(check_context: CheckContext, checks: Sequence[Any], seconds: float | None) -> Report:
    # Sequences are shorter than in training: compiled blocks would be compiled again for each new length.
    compilation = check_context.trainer.compilation
    with nullcontext() if compilation is None else compilation.eagerly():
        return run_checks(check_context, checks, seconds=seconds)


def _check_run(run: RunFolder) -> Report:
    config = request_of(run)
    if not run.plan:
        raise InputError(f"{run.path} was stopped before its plan was made", "check its text: lavra check DATA")
    plan = replace(Plan.from_json(run.plan, str(run.path / "plan.json")), compile=False)
    device = choose_device(config.machine.device)
    use_threads(plan.threads)
    data = open_dataset(data_folder(config, run.path))
    job = build_training_job(config, plan, data, None, device, DistributedInfo(), run.path)
    checkpoint = CheckpointStore(run.checkpoints).latest()
    if checkpoint is not None:
        job.trainer.master_weights.load(checkpoint.load("master_weights"))
    try:
        return _checked(make_check_context(job, plan, data, loaded=checkpoint is not None), FULL, None)
    finally:
        job.trainer.batches.close()


def _check_text(config: TrainConfig) -> Report:
    device = choose_device(config.machine.device)
    machine = measured_machine(config, device)
    with scratch_folder() as folder:
        home = Path(folder)
        base = opened_base(config, device, home)
        data = training_dataset(config, home, machine, base)
        model = base or draft_model(config, machine, data.bytes)
        plan = replace(autoconfig(config, machine, model, data, DistributedInfo()), compile=False)
        expected = {"tokens_per_second": machine.expected_flops / plan.flops_per_token}
        plan = replace(plan, probe=expected)
        job = build_training_job(config, plan, data, None, device, DistributedInfo(), home)
        log(f"model: {plan.parameters:,} parameters, {plan.precision} on {plan.device}")
        try:
            return _checked(make_check_context(job, plan, data), FULL, None)
        finally:
            job.trainer.batches.close()
