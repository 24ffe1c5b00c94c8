"""Our decoder into a folder that `transformers` opens, in whichever family expresses it exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lavra.core.files import write_json
from lavra.models.decoder import Decoder
from lavra.models.families.family import part, widened
from lavra.models.families.importing import CONFIG
from lavra.models.families.registry import family_for
from lavra.models.families.tensor_source import SAFETENSORS
from lavra.models.spec import DecoderSpec
from lavra.models.store import weights_to_save

GENERATION_CONFIG = "generation_config.json"

SpecialIds = dict[str, int | list[int] | None]
"""`bos_token_id`, `eos_token_id` and `pad_token_id`."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        family: its `model_type`.
        spec: of the model in the folder: the same function, perhaps with gains of one, biases of zero, or a head of its
            own beside an embedding whose norm was worked into it.
    """

    family: str
    spec: DecoderSpec


def export_decoder(folder: Path, model: Decoder, ids: SpecialIds, preferred: str | None = None) -> Exported:
    """Write `config.json`, `generation_config.json` and `model.safetensors`.

    The vocabulary is written without padding rows, a tied head is flagged and written once, and gains and biases that
    the family has and the model has not are written as ones and zeros.

    Args:
        folder: made if it is not there; written by the caller's rules of atomicity.
        model: what to write, in its own precision.
        ids: the special tokens.
        preferred: `model_type` to take if it can express the model.

    Raises:
        InputError: if no family expresses the model exactly; names the options.
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
    write_json(folder / CONFIG, {**config, **special, "torch_dtype": kind})
    write_json(folder / GENERATION_CONFIG, {name: value for name, value in special.items() if value is not None})
    return Exported(family.name, target)


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give each tensor a memory of its own, as the format asks."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
