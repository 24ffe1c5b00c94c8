"""Import of a Hugging Face folder as our decoder, without ever running code from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lavra.core.disk.files import read_json
from lavra.core.errors import CorruptFile, InputError
from lavra.models.families.family import Family, join
from lavra.models.families.files import TensorSource, open_tensors
from lavra.models.families.registry import family_of
from lavra.models.families.rules import Config
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import decoder_from
from lavra.models.spec import DecoderSpec

CONFIG = "config.json"


@dataclass(frozen=True)
class Imported:
    """A model that was read from a Hugging Face folder.

    Attributes:
        model: Decoder of our own that computes the same logits.
        family: `model_type` of the family.
        folder: Folder that it was read from.
        notes: Sentences about the import that a user should know.
    """

    model: Decoder
    family: str
    folder: Path
    notes: tuple[str, ...] = ()


def is_hugging_face_folder(path: Path) -> bool:
    """Return whether a path is a folder with the configuration of a model of `transformers`.

    Args:
        path: Any path.
    """
    return (path / CONFIG).is_file()


def import_decoder(folder: Path, dtype: torch.dtype = torch.float32) -> Imported:
    """Return a decoder-only model of one of the known families.

    Dropout is not imported, because it belongs to a training run, which sets its own.

    Args:
        folder: Folder with `config.json` and the weights.
        dtype: Type of the weights in memory.

    Raises:
        InputError: If the family or one of its options is unknown, or tensors are missing or left over.
        CorruptFile: If a file is truncated or does not fit its configuration.
    """
    config = read_config(folder)
    family = family_of(config, str(folder))
    spec = family.read_spec(config)
    notes = []
    longest = config.get("max_position_embeddings") or spec.context
    if spec.context < longest:
        notes.append(
            f"its attention sees {spec.context} tokens back, so it is used with windows of {spec.context} tokens, "
            f"not of {longest}; within them it is the same model"
        )
    source = open_tensors(folder)
    tensors = _FamilyTensors(family, source)
    spec, note = _settle_tie(family, spec, tensors)
    tensors.require_all(spec)
    weights = join(family, spec, tensors.get, dtype, str(source.place))
    model = decoder_from(spec, weights, str(source.place))
    return Imported(model, family.name, folder, (*notes, *note, *([family.note] if family.note else [])))


def read_config(folder: Path) -> Config:
    """Return the content of the `config.json` of a folder.

    Args:
        folder: Hugging Face folder.

    Raises:
        InputError: If there is none, or the weights are quantised.
        CorruptFile: If the file does not parse.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} holds no model ({CONFIG} is missing)", "give a folder made by save_pretrained")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CorruptFile(f"{folder / CONFIG} is no model configuration", "copy the model again")
    if config.get("quantization_config"):
        raise InputError(f"the weights in {folder} are quantised", "give the model they were made from")
    return config


class _FamilyTensors:
    """The tensors of a file by their names without the prefix of the family, which some files leave out."""

    def __init__(self, family: Family, source: TensorSource) -> None:
        self.family, self.source = family, source
        bare = family.prefix.rpartition(".")[0].rpartition(".")[2] + "."  # OPT's first files: decoder.…
        self.names = {name.removeprefix(family.prefix).removeprefix(bare): name for name in source.names}

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str) -> torch.Tensor:
        return self.source.get(self.names[name])

    def require_all(self, spec: DecoderSpec) -> None:
        """Raise an error where the file lacks tensors or has unknown ones."""
        expected = {part for _, theirs, _ in self.family.expected_names(spec) for part in theirs}
        place, title = self.source.place, self.family.title
        absent = sorted(expected - set(self.names))
        if absent:
            raise InputError(
                f"{place} lacks {len(absent)} tensors of a {title} of this shape: {_some(absent)}",
                "copy the model again; a model for another task than writing text has no head",
            )
        spare = {f"{self.family.head}.weight"} if spec.tied else set()
        unknown = sorted(name for name in set(self.names) - expected - spare if not self.family.is_ignored(name))
        if unknown:
            raise InputError(
                f"{place} has {len(unknown)} tensors that no {title} of this shape has: {_some(unknown)}",
                "merge adapters into the model first; extra modules are not read",
            )


def _settle_tie(family: Family, spec: DecoderSpec, tensors: _FamilyTensors) -> tuple[DecoderSpec, tuple[str, ...]]:
    """Return the specification as the file has it, in which a head that differs from the embedding is not tied.

    `transformers` 5 decides in the same way.
    """
    head = f"{family.head}.weight"
    embedding = next(line.theirs[0] for line in family.names if line.ours == "embedding") + ".weight"
    if not spec.tied or head not in tensors:
        return spec, ()
    if embedding not in tensors:
        tensors.names[embedding] = tensors.names[head]
        return spec, ()
    if torch.equal(tensors.get(head), tensors.get(embedding)):
        return spec, ()
    note = "config.json ties the head to the embedding, but the file has two different matrices; both were kept"
    return replace(spec, tied=False), (note,)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
