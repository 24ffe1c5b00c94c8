"""The base model, saved in the folder of its run, so that the run depends on no other folder."""

from __future__ import annotations

from pathlib import Path

import torch

from lavra.config.transforms import TransformConfig
from lavra.core.disk.building import building_folder
from lavra.core.errors import InputError
from lavra.data.token_store.prepare import TOKENIZER
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import write_companions
from lavra.models.hf.folders import open_hf_model, write_hf_model
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder, build_decoder
from lavra.models.native.store import SPECIFICATION, decoder_from, load_decoder, save_decoder
from lavra.models.transforms.apply import apply_transforms, load_learned_weights
from lavra.models.transforms.base import ModelTransform
from lavra.planning.plan import Plan

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
) -> None:
    """Write a model and its tokenizer as a folder that `open_model` opens, completely or not at all.

    Args:
        out: The folder to write; an existing one is replaced.
        model: The model: lavra's own decoder or a model of `transformers`.
        tokenizer: The tokenizer of the model.
        folder: The folder whose tokenizer files, chat template and generation settings are copied; None for none.
        weights: Weights by name to write instead of those of the model, such as the fp32 master weights of a model that
            computes in bf16.
    """
    with building_folder(out, ours=True, kind="model", later=LATER) as building:
        if isinstance(model, Decoder):
            save_decoder(building, model, weights)
        else:
            write_hf_model(building, model, weights=weights)
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


def build_model(plan: Plan, run: Path | None) -> Decoder | HFModel:
    """Return the model of a plan as it is before the first step, with its transforms applied.

    Args:
        plan: The plan of the run.
        run: The folder of the run, in which the base model is saved; None for training from scratch.

    Raises:
        InputError: If the saved base model is gone.
    """
    return build_transformed(plan, run)[0]


def build_transformed(plan: Plan, run: Path | None) -> tuple[Decoder | HFModel, list[ModelTransform]]:
    """Return the model of `build_model`, and the transforms that were applied to it.

    Args:
        plan: The plan of the run, as for `build_model`.
        run: The folder of the run, as for `build_model`.

    Raises:
        InputError: If the saved base model is gone.
    """
    model = _untransformed(plan, run)
    return model, apply_transforms(model, plan.transforms, plan.seed)


def _untransformed(plan: Plan, run: Path | None) -> Decoder | HFModel:
    if plan.base is None:
        assert plan.model is not None
        return build_decoder(plan.model, plan.seed)
    assert run is not None
    folder = run / BASE
    if not folder.is_dir():
        raise InputError(f"the base model of the run is gone: {folder}", "restore the folder")
    return load_decoder(folder) if (folder / SPECIFICATION).exists() else open_hf_model(folder)


def model_with(plan: Plan, run: Path, weights: dict[str, torch.Tensor], place: str) -> Decoder | HFModel:
    """Return the model of a plan with trained weights, as a checkpoint holds them.

    Args:
        plan: The plan of the run.
        run: The folder of the run.
        weights: The trained weights by name.
        place: Where the weights come from, for messages.

    Raises:
        CorruptFile: If the weights are not those of the model; the message names `place`.
    """
    if plan.base is None and plan.transforms == TransformConfig():
        assert plan.model is not None
        return decoder_from(plan.model, weights, place)
    model = build_model(plan, run)
    load_learned_weights(model, weights, place)
    return model
