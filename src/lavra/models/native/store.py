"""A decoder on disk: `model.json` (its specification) and `model.safetensors` (its weights), never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lavra.core.configuration import from_table
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile, InputError
from lavra.models.native.building import decoder_of
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec

SPECIFICATION = "model.json"
"""Names of the files of a decoder."""
WEIGHTS = "model.safetensors"

FORMAT = 2
"""Version of the format of `model.json`."""


def weights_to_save(model: Decoder) -> dict[str, torch.Tensor]:
    """Return the weights of a decoder by name, without a tied head, which is the embedding.

    Args:
        model: Decoder to save.
    """
    weights = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    if model.spec.tied:
        weights.pop("output.weight", None)  # named_parameters leaves out duplicates; this also holds without that
    return weights


def save_decoder(folder: Path, model: Decoder, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write a decoder into a folder.

    Args:
        folder: Folder to write into, which is made where it does not exist. The caller takes care of atomicity.
        model: Decoder whose specification is written.
        weights: Weights to write in place of those of the decoder, such as the fp32 master weights of a bf16 model.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    saved = weights_to_save(model) if weights is None else weights
    save_file({name: weight.detach().cpu().contiguous() for name, weight in saved.items()}, folder / WEIGHTS)
    write_json(folder / SPECIFICATION, {"format": FORMAT, "decoder": model.spec.to_dict()})


def read_spec(folder: Path) -> DecoderSpec:
    """Return the specification of the decoder in a folder.

    Args:
        folder: Folder of a decoder.

    Raises:
        InputError: If the folder holds no decoder.
        CorruptFile: If the file does not parse, or has another format version.
    """
    path = folder / SPECIFICATION
    if not path.exists():
        raise InputError(
            f"{folder} holds no model ({SPECIFICATION} is missing)", "give a run folder or an exported model"
        )
    record: Any = read_json(path)
    values = record if isinstance(record, dict) else {}
    if values.get("format") != FORMAT:
        raise CorruptFile(f"{path} has format {values.get('format')}, not {FORMAT}", "update lavra")
    if not isinstance(values.get("decoder"), dict):
        raise CorruptFile(f"{path} is no specification of a decoder", "copy the model again, or export it again")
    return from_table(DecoderSpec, values["decoder"], str(path))


def load_decoder(folder: Path, device: torch.device | str = "cpu") -> Decoder:
    """Return the decoder in a folder, in the type in which its weights were saved.

    Args:
        folder: Folder of a decoder.
        device: Device that shall hold the decoder.

    Raises:
        InputError: If the folder holds no decoder.
        CorruptFile: If the weights are truncated or do not fit the specification.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    spec = read_spec(folder)
    path = folder / WEIGHTS
    try:
        weights = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise CorruptFile(f"{path} cannot be read: {error}", "copy the model again, or export it again") from error
    return decoder_from(spec, weights, str(path)).to(device)


def decoder_from(spec: DecoderSpec, weights: dict[str, torch.Tensor], place: str) -> Decoder:
    """Return a decoder with the given weights, which must be exactly those of its specification.

    Args:
        spec: Shape of the decoder.
        weights: Weights by name.
        place: File or folder that the weights come from, for the error message.

    Raises:
        CorruptFile: If a weight is missing, unknown, or of another shape.
    """
    model = decoder_of(spec)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    odd = sorted(set(expected) ^ set(weights))
    wrong = sorted(name for name in set(expected) & set(weights) if expected[name] != weights[name].shape)
    if odd or wrong:
        raise CorruptFile(
            f"{place} does not fit its specification: {', '.join((odd + wrong)[:5])}", "copy the model again"
        )
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]
    return model
