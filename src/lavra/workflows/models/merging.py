"""Merging a trained adapter into the weights of its model, with a comparison of the logits before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lavra.core.disk.building import building_folder
from lavra.core.errors import CheckFailed, InputError
from lavra.core.progress import log
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.protocols import Batch
from lavra.models.transforms.adapters import Adapter
from lavra.models.transforms.apply import MergeCheck, merge_transforms
from lavra.models.transforms.base import ModelTransform
from lavra.models.transforms.peft_files import save_adapter
from lavra.models.transforms.prefix import Prefix
from lavra.tasks.table import find_task
from lavra.training.plan import Plan
from lavra.workflows.models.saved_base import BASE, model_with, write_model

ADAPTER = "adapter"
"""Name of the folder in a run that `peft` opens on top of the base model of the run."""


def write_merged(
    run: Path, out: Path, plan: Plan, weights: Mapping[str, torch.Tensor], tokenizer: Tokenizer, batch: Batch
) -> MergeCheck | None:
    """Write the trained model with its adapter merged, and the adapter by itself where `peft` can open it.

    Args:
        run: The folder of the run.
        out: The folder of the model to write.
        plan: The plan of the run.
        weights: The trained weights by name, in fp32.
        tokenizer: The tokenizer of the model.
        batch: Sequences on which the logits are compared before and after.

    Returns:
        How far the merged model is from the trained one; None for an adapter that cannot be merged (a prefix), which is
        kept by itself.

    Raises:
        CheckFailed: If the logits of the merged model differ from those of the trained one.
    """
    model, transforms = model_with(plan, run, dict(weights), str(run))
    model.eval()
    _write_adapter(run, model, transforms)

    def logits(module: nn.Module) -> torch.Tensor:
        assert isinstance(module, Decoder | HFModel)
        return module.head(module.features(batch))

    try:
        check = merge_transforms(model, transforms, logits)
    except InputError as error:
        log(f"the adapter was not merged: {error.message}; the last checkpoint of the run is the model")
        return None
    if not check.holds:
        raise CheckFailed(
            f"the merged model differs from the trained one: logits by {check.largest_difference:.2e}",
            f"the adapter is whole in {run / ADAPTER}, and in the last checkpoint of the run; report this",
        )
    kept = find_task(plan.task).keeps_head
    write_model(out, model, tokenizer, run / BASE, task=(plan.task, plan.facts) if kept else None)
    log(f"adapter merged: logits differ by at most {check.largest_difference:.1e} from those of the trained model")
    return check


def model_for_use(plan: Plan, run: Path, weights: dict[str, torch.Tensor], place: str) -> Decoder | HFModel:
    """Return the model of a plan with trained weights, its adapter merged where that can be done.

    Args:
        plan: The plan of the run.
        run: The folder of the run.
        weights: The trained weights by name.
        place: Where the weights come from, for messages.

    Raises:
        CorruptFile: If the weights are not those of the model; the message names `place`.
    """
    model, transforms = model_with(plan, run, weights, place)
    if plan.transforms.adapter.kind != "prefix":
        with torch.no_grad():
            for edit in reversed(transforms):
                edit.merge(model)
    return model


def _write_adapter(run: Path, model: nn.Module, transforms: list[ModelTransform]) -> None:
    adapter = next((edit for edit in transforms if isinstance(edit, Adapter | Prefix)), None)
    if adapter is None or not isinstance(model, HFModel):
        return
    try:
        with building_folder(run / ADAPTER, ours=True, kind="adapter") as building:
            save_adapter(building, model, adapter, str((run / BASE).resolve()))
    except InputError as error:
        log(f"no adapter for peft was written: {error.message}")
