"""The model that a run began from, in the run's own folder: the run needs nothing from elsewhere ever again."""

from __future__ import annotations

from pathlib import Path

import torch

from lavra.config.transforms import EditConfig
from lavra.core.disk.building import building_folder
from lavra.core.errors import InputError
from lavra.data.token_store.prepare import TOKENIZER
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.companions import write_companions
from lavra.models.hf.folders import open_wrapped, write_wrapped
from lavra.models.hf.model import Wrapped
from lavra.models.native.decoder import Decoder, build_decoder
from lavra.models.native.store import SPECIFICATION, decoder_from, load_decoder, save_decoder
from lavra.models.transforms.apply import apply_edits, load_learned_weights
from lavra.models.transforms.base import ModelEdit
from lavra.planning.plan import Plan

BASE = "base"

LATER = ("certificate.json", "doc2query.json")
"""What is written into a model's folder once the model is there."""


def keep_base(run: Path, model: Decoder | Wrapped, tokenizer: Tokenizer, folder: Path | None) -> None:
    """Write the model to adapt, with its tokenizer, into the run.

    Args:
        run: its folder.
        model: as training will begin with it.
        tokenizer: the model's own.
        folder: that it was read from, whose tokenizer files and settings are carried over; None where it has none.
    """
    write_model(run / BASE, model, tokenizer, folder)


def write_model(
    out: Path,
    model: Decoder | Wrapped,
    tokenizer: Tokenizer,
    folder: Path | None,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model and its tokenizer as a folder that `open_model` opens, whole or not at all.

    Args:
        out: the folder; replaced if it is there.
        model: ours, or a wrapped one.
        tokenizer: the model's own.
        folder: whose tokenizer files, chat template and settings of generation are carried over.
        weights: instead of the model's own, such as the fp32 masters of a model that computes in bf16.
    """
    with building_folder(out, ours=True, kind="model", later=LATER) as building:
        if isinstance(model, Decoder):
            save_decoder(building, model, weights)
        else:
            write_wrapped(building, model, weights=weights)
        write_companions(building, tokenizer, folder, ours=isinstance(model, Decoder))


def companions_folder(run: Path, data: Path) -> Path:
    """Return the folder of a run that holds what belongs to its model beside the weights.

    Args:
        run: its folder.
        data: where its prepared text or examples lie.
    """
    return run / BASE if (run / BASE).is_dir() else data / TOKENIZER


def build_model(plan: Plan, run: Path | None) -> Decoder | Wrapped:
    """Return the model of a plan before its first step, its edits made.

    Args:
        plan: of the run.
        run: its folder, where the model to adapt is kept; not needed for training from nothing.

    Raises:
        InputError: if the kept model is gone.
    """
    return build_edited(plan, run)[0]


def build_edited(plan: Plan, run: Path | None) -> tuple[Decoder | Wrapped, list[ModelEdit]]:
    """Return what `build_model` returns, and the edits that were made to it."""
    model = _unedited(plan, run)
    return model, apply_edits(model, plan.edits, plan.seed)


def _unedited(plan: Plan, run: Path | None) -> Decoder | Wrapped:
    if plan.base is None:
        assert plan.model is not None
        return build_decoder(plan.model, plan.seed)
    assert run is not None
    folder = run / BASE
    if not folder.is_dir():
        raise InputError(f"the model that the run began from is gone: {folder}", "bring the folder back")
    return load_decoder(folder) if (folder / SPECIFICATION).exists() else open_wrapped(folder)


def model_with(plan: Plan, run: Path, weights: dict[str, torch.Tensor], place: str) -> Decoder | Wrapped:
    """Return the model of a plan with learned weights, as a checkpoint holds them.

    Raises:
        Damaged: if the weights are not those of the model; names `place`.
    """
    if plan.base is None and plan.edits == EditConfig():
        assert plan.model is not None
        return decoder_from(plan.model, weights, place)
    model = build_model(plan, run)
    load_learned_weights(model, weights, place)
    return model
