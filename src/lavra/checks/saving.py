"""Checks of saving: a saved model computes the same logits, and a resumed run computes the same weights."""

from __future__ import annotations

from pathlib import Path

import torch

from lavra.checks.base import CheckContext, CheckResult, Storage
from lavra.checks.gradients import check_tied, listed
from lavra.checks.sandbox import InTurn, restored, train_on
from lavra.core.disk.scratch import scratch_folder
from lavra.core.units import show_size
from lavra.models.protocols import IGNORED, Batch, eval_mode
from lavra.training.acceleration.temporary_weights import full_precision, lively
from lavra.training.checkpoints.checkpoints import CheckpointStore
from lavra.training.trainer import Trainer

_STEPS = 2  # steps of the resumed training, and the step after which it is interrupted
_STOP = 1
_TOLERANCE = 1e-5
"""Largest difference of logits that should be equal, relative to the largest logit."""
_COMPARED = 64  # positions whose logits are compared


def check_saving(check_context: CheckContext) -> list[CheckResult]:
    """Check that the model computes the same logits after saving and after export, and that tied tensors stay tied.

    Args:
        check_context: Training set-up to check.

    Returns:
        A result named `save_and_load`, and one named `export` if the model can be exported.
    """
    expected = f"the same logits to {_TOLERANCE:g} after saving and loading"
    if check_context.storage is None:
        told = "it is not known how this model is saved"
        remedy = "compare its logits before and after saving yourself"
        return [CheckResult("save_and_load", "warn", told, expected, remedy)]
    difference, size, tied = _round_trip(check_context, check_context.storage)
    measured = f"logits differ by {difference:.1e} of the largest logit ({size} written); {tied.measured}"
    well = difference <= _TOLERANCE and tied.verdict == "ok"
    remedy = "" if well else tied.remedy or "a weight is not saved, or is loaded into the wrong place"
    results = [CheckResult("save_and_load", "ok" if well else "fail", measured, f"{expected}; {tied.expected}", remedy)]
    if check_context.export is not None:
        difference, size, _ = _round_trip(check_context, check_context.export)
        measured = f"logits differ by {difference:.1e} of the largest logit ({size} written)"
        well = difference <= _TOLERANCE
        remedy = "" if well else "the export changes the model: check its table of names, transpositions and padding"
        expected = f"the same logits to {_TOLERANCE:g} after export and import"
        results.append(CheckResult("export", "ok" if well else "fail", measured, expected, remedy))
    return results


def _round_trip(check_context: CheckContext, storage: Storage) -> tuple[float, str, CheckResult]:
    """Save and load the model; return the relative difference of logits, the size written, and the check of tying."""
    batch = check_context.encoded
    with (
        full_precision(check_context.trainer),
        lively(check_context.trainer, frozen=False),
        eval_mode(check_context.model),
        torch.no_grad(),
        scratch_folder() as temporary,
    ):
        folder = Path(temporary) / "model"
        storage.save(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        loaded = storage.load(folder).eval()
        before, after = (_some_logits(model, batch) for model in (check_context.model, loaded))
        tied = check_tied(loaded, check_context.tied, "save_and_load")  # pyright: ignore[reportArgumentType]
    difference = float((before - after).abs().max() / before.abs().max().clamp(min=1e-30))
    return difference, show_size(size), tied


def _some_logits(model: object, batch: Batch) -> torch.Tensor:
    """Return (tokens, vocabulary) logits at the last positions that have a target, which excludes padding."""
    asked = (batch.targets != IGNORED).nonzero()[-_COMPARED:]
    features = model.features(batch)[asked[:, 0], asked[:, 1]]  # pyright: ignore[reportAttributeAccessIssue]
    return model.head(features).float()  # pyright: ignore[reportAttributeAccessIssue]


def check_resume(check_context: CheckContext) -> list[CheckResult]:
    """Check that training that is interrupted and resumed from a checkpoint ends with the same weights, bit for bit.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `resume`; on a GPU a difference is a warning, since kernels there may not be deterministic.
    """
    trainer = check_context.trainer
    batches = [
        [check_context.encode(check_context.source.rows(number * check_context.rows, check_context.rows))]
        for number in range(_STEPS)
    ]
    with restored(trainer), scratch_folder() as folder:
        train_on(trainer, check_context.objective, batches)
        trainer.updates = [*trainer.updates, InTurn(trainer)]
        store = CheckpointStore(Path(folder))
        while trainer.step < _STEPS:
            trainer.run_step()
            if trainer.step == _STOP:
                store.save(_STOP, trainer.tensors(), trainer.state(), background=False)
        whole = {name: weight.detach().clone() for name, weight in trainer.master_weights.weights.items()}
        checkpoint = store.latest()
        assert checkpoint is not None
        trainer.restore(checkpoint.load, checkpoint.state)
        _train(trainer, _STEPS)
        other = [
            name for name, weight in trainer.master_weights.weights.items() if not torch.equal(weight, whole[name])
        ]
    measured = f"{len(whole) - len(other)} of {len(whole)} tensors equal"
    expected = f"{_STEPS} steps = {_STOP} step, a checkpoint, and {_STEPS - _STOP} step more, bit for bit"
    if not other:
        return [CheckResult("resume", "ok", measured, expected)]
    exact = trainer.device.type == "cpu"
    remedy = "a part of the training state is not saved" if exact else "this device may not be deterministic"
    measured += f"; different: {listed(other)}"
    return [CheckResult("resume", "fail" if exact else "warn", measured, expected, remedy)]


def _train(trainer: Trainer, steps: int) -> None:
    while trainer.step < steps:
        trainer.run_step()
