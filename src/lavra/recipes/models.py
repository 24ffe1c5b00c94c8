"""Opening a model by where it is: a run folder, one of its checkpoints, or a folder that holds a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lavra.data.prepare import open_prepared

from lavra.core.configuration import from_toml
from lavra.core.errors import InputError
from lavra.core.run_folder import RunFolder, is_run
from lavra.data.tokenizer import Tokenizer
from lavra.models.decoder import Decoder
from lavra.models.store import SPECIFICATION, decoder_from, load_decoder
from lavra.planning.plan import Plan
from lavra.recipes.config import TrainConfig
from lavra.training.checkpoints import Checkpoint, CheckpointStore
from lavra.training.devices import choose_device


@dataclass(frozen=True)
class OpenModel:
    """A model ready to be used.

    Attributes:
        model: in evaluation mode, with fp32 weights, on the device.
        tokenizer: its own.
        place: what was opened, in words.
        run: the run that it comes from, if it does.
    """

    model: Decoder
    tokenizer: Tokenizer
    place: str
    run: RunFolder | None


def open_model(location: str, device: str = "auto") -> OpenModel:
    """Open a model.

    Args:
        location: a run folder (its finished model, or its last checkpoint), a checkpoint of a run, or a model folder.
        device: where it goes.

    Raises:
        InputError: if there is no model at `location`.
        Damaged: if its files are.
    """
    path, where = Path(location), choose_device(device)
    if is_run(path):
        run = RunFolder(path)
        if (path / "model" / SPECIFICATION).exists() and run.status == "finished":
            return _from_folder(path / "model", where, run)
        return _from_checkpoint(run, None, where)
    if path.parent.name == "checkpoints" and is_run(path.parent.parent):
        return _from_checkpoint(RunFolder(path.parent.parent), path, where)
    if (path / SPECIFICATION).exists():
        return _from_folder(path, where, None)
    known = "a run folder, one of its checkpoints, or a folder with model.json"
    raise InputError(f"there is no model at {location}", f"give {known}; `lavra runs` lists the runs")


def _from_folder(folder: Path, device: torch.device, run: RunFolder | None) -> OpenModel:
    model = load_decoder(folder, device).eval()
    return OpenModel(model, Tokenizer.load(folder), str(folder), run)


def _from_checkpoint(run: RunFolder, folder: Path | None, device: torch.device) -> OpenModel:
    checkpoint = CheckpointStore(run.checkpoints).latest() if folder is None else Checkpoint.open(folder)
    if checkpoint is None:
        raise InputError(f"{run.path} has no model yet", f"train it first: lavra resume {run.path}")
    plan = Plan.from_json(run.plan, str(run.path / "plan.json"))
    config = from_toml(TrainConfig, run.config, str(run.path / "config.toml"))
    averaged = next((name for name in ("ema", "swa") if name in checkpoint.groups), None)
    weights = checkpoint.load(averaged or "masters")
    place = f"{run.path}, checkpoint of step {checkpoint.step}"
    model = decoder_from(plan.model, weights, place).to(device).eval()
    from lavra.recipes.train import data_folder

    return OpenModel(model, open_prepared(data_folder(config, run.path)).tokenizer, place, run)
