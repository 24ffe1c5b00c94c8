"""Proving a training set-up right: `lavra check`, and the shorter form at the start of a training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lavra.checks.base import Storage, Subject
from lavra.checks.battery import FULL, QUICK, run_checks
from lavra.checks.report import Report
from lavra.core.errors import InputError
from lavra.core.files import write_json
from lavra.core.progress import say
from lavra.core.run_folder import RunFolder, is_run
from lavra.data.order import WindowPlace
from lavra.data.packing import Window
from lavra.data.packing import cut as cut_window
from lavra.data.prepare import Prepared, open_prepared
from lavra.data.store import TokenStore
from lavra.data.window_source import WindowSource
from lavra.models.decoder import Decoder
from lavra.models.families.exporting import export_decoder
from lavra.models.families.importing import import_decoder
from lavra.models.families.registry import family_for
from lavra.models.store import load_decoder, save_decoder
from lavra.planning.plan import Plan
from lavra.recipes.assembly import Assembly, assemble
from lavra.recipes.config import TrainConfig
from lavra.recipes.decide import draft_model, first_plan
from lavra.recipes.text import data_folder, request_of
from lavra.training.batches import Ranks
from lavra.training.checkpoints import CheckpointStore
from lavra.training.devices import choose_device, use_threads

CHECKS = "checks.json"
_MOST_SECONDS, _BUDGET_SHARE = 9.0, 0.03
_ROWS = 4
_COMPUTE = {"cpu": 1.2e10, "cuda": 1e13, "mps": 5e11}
"""Parameters times tokens of the batch that checks work on: below a second's work."""

_SHORTEST, _LONGEST = 32, 512


def check(config: TrainConfig) -> Report:
    """Run the whole battery on a run, or on text and the model that would be trained on it.

    Args:
        config: as for training; its data may be one run folder, whose own request, text and weights are then taken.

    Raises:
        InputError: if the text, the run or the request is wrong.
    """
    if not config.data:
        raise InputError("nothing to check was given", "lavra check RUN, or lavra check DATA --model gpt2-124m")
    if len(config.data) == 1 and is_run(Path(config.data[0])):
        return _check_run(RunFolder(config.data[0]))
    return _check_text(config)


def check_before_training(assembly: Assembly, plan: Plan, data: Prepared, run: RunFolder) -> None:
    """Run the short form on a trainer at its first step, which it leaves as it is, and write `checks.json`.

    It takes at most 9 seconds, and at most 3 % of a time budget; checks that do not fit are left out.

    Raises:
        CheckFailed: if a check failed.
    """
    allowed = _MOST_SECONDS
    if plan.budget_seconds is not None:
        allowed = min(allowed, _BUDGET_SHARE * plan.budget_seconds)
    report = _checked(make_subject(assembly, plan, data, quick=True), QUICK, allowed)
    write_json(run.path / CHECKS, report.to_json())
    say(report.summary())
    run.log(report.summary())
    for result in report.results:
        if result.verdict == "warn":
            say(f"warning: {result.name}: {result.measured} (expected: {result.expected}); {result.remedy}")
    report.raise_if_failed(str(run.path / CHECKS))


def make_subject(
    assembly: Assembly, plan: Plan, data: Prepared, *, loaded: bool = False, quick: bool = False
) -> Subject:
    """Return an assembled training as the subject of checks, with rows short enough for the machine.

    Args:
        assembly: the trainer at its first step.
        plan: what was decided.
        data: the token stores.
        loaded: the weights come from a trained model.
        quick: shorter rows, for the short form.
    """
    trainer, model = assembly.trainer, assembly.model
    tokens = int(_COMPUTE.get(trainer.device.type, 1.2e10) / plan.parameters / (2 if quick else 1))
    rows = _ROWS if tokens >= _ROWS * 2 * _SHORTEST else 2
    length = min(plan.context, _LONGEST // (4 if quick else 1), max(_SHORTEST, tokens // rows))
    end = data.train.manifest.end_of_document
    return Subject(
        trainer,
        replace(trainer.objective, context=length),  # pyright: ignore[reportArgumentType, reportCallIssue]
        WindowSource(data.train, length, plan.seed),
        rows=rows,
        mixed_rows=_rows_at_ends(data.train, length),
        must_learn=(end,),
        loaded=loaded,
        tied=plan.model.tied,
        storage=Storage(lambda folder: save_decoder(folder, model), partial(load_decoder, device=trainer.device)),
        export=_export(model, data, trainer.device),
        data=data,
        tokens_per_second=plan.probe.get("tokens_per_second"),
    )


def _export(model: Decoder, data: Prepared, device: torch.device) -> Storage | None:
    """Return the way through the Hugging Face format, where one of its families expresses the model."""
    try:
        family_for(model.spec)
    except InputError:
        return None
    end = data.tokenizer.end_of_document

    def save(folder: Path) -> None:
        export_decoder(folder, model, {"bos_token_id": end, "eos_token_id": end})

    return Storage(save, lambda folder: import_decoder(folder).model.to(device))


def _rows_at_ends(store: TokenStore, length: int) -> list[Window]:
    """Return windows that hold the end of a document: of the shortest, the longest and one in the middle."""
    offsets = store.offsets.astype(int)
    chosen = sorted({0, len(store) // 2, max(0, len(store) - 2)})
    starts = [max(0, int(offsets[number + 1]) - 1 - length // 2) for number in chosen]
    length = min(length, store.manifest.tokens)
    return [cut_window(store, WindowPlace(0, start % store.manifest.tokens, length)) for start in starts]


def _checked(subject: Subject, checks: Sequence[Any], seconds: float | None) -> Report:
    # Rows are shorter than in training: compiled blocks would be compiled again for them.
    eager = torch.compiler.set_stance("force_eager")
    with eager if subject.trainer.device.type != "mps" else nullcontext():
        return run_checks(subject, checks, seconds=seconds)


def _check_run(run: RunFolder) -> Report:
    config = request_of(run)
    if not run.plan:
        raise InputError(f"{run.path} was stopped before its plan was made", "check its text: lavra check DATA")
    plan = replace(Plan.from_json(run.plan, str(run.path / "plan.json")), compile=False)
    device = choose_device(config.machine.device)
    use_threads(plan.threads)
    data = open_prepared(data_folder(config, run.path))
    assembly = assemble(config, plan, data, None, device, Ranks())
    checkpoint = CheckpointStore(run.checkpoints).latest()
    if checkpoint is not None:
        assembly.trainer.masters.load(checkpoint.load("masters"))
    try:
        return _checked(make_subject(assembly, plan, data, loaded=checkpoint is not None), FULL, None)
    finally:
        assembly.trainer.batches.close()


def _check_text(config: TrainConfig) -> Report:
    from lavra.recipes.train import measured_machine, training_text

    device = choose_device(config.machine.device)
    machine = measured_machine(config, device)
    with tempfile.TemporaryDirectory(prefix="lavra-check-") as folder:
        data = training_text(config, Path(folder), machine)
        spec = draft_model(config, machine, data.train.manifest.bytes)
        plan = replace(first_plan(config, machine, spec, data, Ranks()), compile=False)
        expected = {"tokens_per_second": machine.expected_flops / plan.flops_per_token}
        plan = replace(plan, probe=expected)
        assembly = assemble(config, plan, data, None, device, Ranks())
        say(f"model: {plan.parameters:,} parameters, {plan.precision} on {plan.device}")
        try:
            return _checked(make_subject(assembly, plan, data), FULL, None)
        finally:
            assembly.trainer.batches.close()
