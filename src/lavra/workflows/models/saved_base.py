"""The base model, saved in the folder of its run, so that the run depends on no other folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.building import building_folder
from lavra.core.errors import InputError
from lavra.data.token_store.prepare import TOKENIZER
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import write_companions
from lavra.models.hf.folders import open_hf_model, write_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.building import build_decoder
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import SPECIFICATION, load_decoder, save_decoder, weights_to_save
from lavra.models.transforms.apply import apply_transforms, load_learned_weights
from lavra.models.transforms.base import ModelTransform
from lavra.tasks.table import find_task
from lavra.training.plan import Plan
from lavra.workflows.models.task_head import give_head, own_weights, write_head

BASE = "base"
"""Name of the folder of the base model in a run."""

LATER = ("certificate.json", "doc2query.json")
"""Files that are added to the folder of a model after it was written."""


def save_base(run: Path, model: Decoder | HFModel, tokenizer: Tokenizer, folder: Path | None) -> None:
    """Save the base model, with its tokenizer, in the folder of a run.

    Args:
        run: The folder of the run.
        model: The model, as training will start with it.
        tokenizer: The tokenizer of the model.
        folder: The folder that the model was read from, whose tokenizer files and settings are copied; None where it
            has none.
    """
    write_model(run / BASE, model, tokenizer, folder)


def write_model(
    out: Path,
    model: Decoder | HFModel,
    tokenizer: Tokenizer,
    folder: Path | None,
    weights: dict[str, torch.Tensor] | None = None,
    task: tuple[str, dict[str, Any]] | None = None,
) -> None:
    """Write a model and its tokenizer as a folder that `open_model` opens, completely or not at all.

    Args:
        out: The folder to write; an existing one is replaced.
        model: The model: lavra's own decoder or a model of `transformers`.
        tokenizer: The tokenizer of the model.
        folder: The folder whose tokenizer files, chat template and generation settings are copied; None for none.
        weights: Weights by name to write instead of those of the model, such as the fp32 master weights of a model that
            computes in bf16.
        task: The name and the facts of the task whose head the model has; None for a model without a head.
    """
    with building_folder(out, ours=True, kind="model", later=LATER) as building:
        own = None if weights is None else own_weights(weights)
        if isinstance(model, Decoder):
            save_decoder(building, model, own_weights(weights_to_save(model)) | (own or {}))
        else:
            write_hf_model(building, model, weights=own)
        if task is not None:
            write_head(building, model, weights or {}, *task)
        write_companions(building, tokenizer, folder, ours=isinstance(model, Decoder))


def companions_folder(run: Path, data: Path) -> Path:
    """Return the folder that holds the tokenizer files and settings of a run's model.

    Args:
        run: The folder of the run.
        data: The folder of the prepared text or examples.

    Returns:
        The folder of the base model; that of the data's tokenizer for a model trained from scratch.
    """
    return run / BASE if (run / BASE).is_dir() else data / TOKENIZER


def initial_model(plan: Plan, run: Path | None) -> Decoder | HFModel:
    """Return the model of a plan before its transforms: with random weights, or the saved base model.

    Args:
        plan: The plan of the run.
        run: The folder of the run, in which the base model is saved; None for training from scratch.

    Raises:
        InputError: If the saved base model is gone.
    """
    if plan.base is None:
        assert plan.model is not None
        return build_decoder(plan.model, plan.seed)
    assert run is not None
    folder = run / BASE
    if not folder.is_dir():
        raise InputError(f"the base model of the run is gone: {folder}", "restore the folder")
    return load_decoder(folder) if (folder / SPECIFICATION).exists() else open_hf_model(folder)


def finish_model(model: Decoder | HFModel, plan: Plan) -> list[ModelTransform]:
    """Give a model of `initial_model` the transforms of a plan and the head of its task, in place.

    Args:
        model: The model.
        plan: The plan of the run.

    Returns:
        The transforms that were applied.
    """
    transforms = apply_transforms(model, plan.transforms, plan.seed)
    give_head(model, find_task(plan.task), plan.facts, plan.seed)
    return transforms


def model_with(
    plan: Plan, run: Path, weights: dict[str, torch.Tensor], place: str
) -> tuple[Decoder | HFModel, list[ModelTransform]]:
    """Return the model of a plan with trained weights, as a checkpoint holds them, and its transforms.

    Args:
        plan: The plan of the run.
        run: The folder of the run.
        weights: The trained weights by name.
        place: Where the weights come from, for messages.

    Raises:
        CorruptFile: If the weights are not those of the model; the message names `place`.
    """
    model = initial_model(plan, run)
    transforms = finish_model(model, plan)
    load_learned_weights(model, {name: weight.cpu() for name, weight in weights.items()}, place)
    return model, transforms
