"""Export of our decoder as a folder that `transformers` opens, in a family that expresses it exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.files import write_json
from lavra.models.families.companions import GENERATION_CONFIG
from lavra.models.families.family import part, widened
from lavra.models.families.files import SAFETENSORS
from lavra.models.families.importing import CONFIG
from lavra.models.families.registry import family_for
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import weights_to_save
from lavra.models.spec import DecoderSpec

SpecialIds = dict[str, int | list[int] | None]
"""Ids of the special tokens under `bos_token_id`, `eos_token_id` and `pad_token_id`."""


@dataclass(frozen=True)
class Exported:
    """The model that was written.

    Attributes:
        family: `model_type` of its family.
        spec: Specification of the written model. It computes the same function, but may have gains of one, biases of
            zero, or a head of its own beside an embedding into which the norm was merged.
    """

    family: str
    spec: DecoderSpec


def export_decoder(
    folder: Path,
    model: Decoder,
    ids: SpecialIds,
    preferred: str | None = None,
    *,
    carried: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Exported:
    """Write `config.json`, `model.safetensors` and, for a model that writes text, `generation_config.json`.

    The vocabulary is written without padding rows, and a tied head is written once. Gains and biases that the family
    has and the model lacks are written as ones and zeros.

    Args:
        folder: Folder to write into, which is made where it does not exist. The caller takes care of atomicity.
        model: Decoder to write, in its own precision.
        ids: Ids of the special tokens.
        preferred: `model_type` of the family to use if it can express the model.
        carried: Part of the base model's configuration that does not concern the computation. It is written where the
            family is the same.
        generation: Settings of generation to write; None writes the special tokens, with a padding token for batches.

    Raises:
        InputError: If no family expresses the model exactly; the message names the options.
    """
    from safetensors.torch import save_file

    spec = model.spec
    family, target = family_for(spec, preferred)
    weights = {name: weight.cpu() for name, weight in weights_to_save(model).items()}
    tensors = part(family, target, widened(weights, spec, target))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_unshared(tensors), folder / SAFETENSORS, metadata={"format": "pt"})
    kind = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    special: SpecialIds = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **ids}
    config = family.write_config(replace(target, dropout=spec.dropout))
    special |= {"pad_token_id": target.decoder_start} if _start(target) else {}  # it is shifted in before the targets
    same = carried if carried is not None and family.name == preferred else {}
    named = {name: value for name, value in special.items() if value is not None or name not in config}
    write_json(folder / CONFIG, {**same, **config, **named, "torch_dtype": kind})
    if spec.architecture == "encoder":
        return Exported(family.name, target)
    settings = generation or {**_padding(special), **_named(special), **_start(target)}
    write_json(folder / GENERATION_CONFIG, dict(settings))
    return Exported(family.name, target)


def _padding(special: SpecialIds) -> SpecialIds:
    """Return the padding token for batches of generation, which is the end token, because no row goes on after it.

    It is not written into `config.json`: `transformers` would not train the embedding of a padding token named there.
    """
    end = special["eos_token_id"]
    return {"pad_token_id": end} if isinstance(end, int) else {}


def _start(spec: DecoderSpec) -> SpecialIds:
    """Return the token with which the decoder of an encoder-decoder begins."""
    return {"decoder_start_token_id": spec.decoder_start} if spec.architecture == "encoder-decoder" else {}


def _named(special: SpecialIds) -> SpecialIds:
    return {name: value for name, value in special.items() if value is not None}


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies of the tensors that share no memory, as the safetensors format demands."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
