"""The tensors of a Hugging Face folder, one at a time: safetensors, or `.bin` files without code; in shards or not."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.errors import Damaged, InputError
from lavra.core.files import read_json

if TYPE_CHECKING:
    import torch

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
_AGAIN = "copy or download the model again"

Getter = Callable[[str], "torch.Tensor"]


class TensorSource:
    """The tensors of a folder by name; files are mapped, so that only what is read takes memory.

    Attributes:
        names: of all tensors.
        place: the file, or the index of the files, for messages.
    """

    def __init__(self, place: Path, getters: dict[str, Getter]) -> None:
        self.place = place
        self._getters = getters
        self.names = frozenset(getters)

    def get(self, name: str) -> torch.Tensor:
        """Return a tensor.

        Raises:
            KeyError: if there is none of that name.
        """
        return self._getters[name](name)


def open_tensors(folder: Path) -> TensorSource:
    """Open the weights of a Hugging Face folder; safetensors are taken where there are both kinds.

    Raises:
        InputError: if there are none, a shard is missing, or a `.bin` file holds code.
        Damaged: if a file is truncated or its index names tensors that it lacks.
    """
    for name, opened in ((SAFETENSORS, _open_safetensors), (BIN, _open_bin)):
        if (folder / name).is_file():
            return TensorSource(folder / name, opened(folder / name))
        index = folder / f"{name}.index.json"
        if index.is_file():
            return TensorSource(index, _open_shards(index, opened))
    raise InputError(f"{folder} holds no weights ({SAFETENSORS}, {BIN}, or their shards)", _AGAIN)


def _open_shards(index: Path, opened: Callable[[Path], dict[str, Getter]]) -> dict[str, Getter]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise Damaged(f"{index} is no index of weights", _AGAIN)
    shards: dict[str, dict[str, Getter]] = {}
    for file in sorted(set(places.values())):
        path = index.parent / Path(file).name  # a shard lies beside its index, whatever the index says
        if not path.is_file():
            raise InputError(f"{path} is missing; {index.name} names it", _AGAIN)
        shards[file] = opened(path)
    for name, file in places.items():
        if name not in shards[file]:
            raise Damaged(f"{index.parent / file} has no tensor {name}, which {index.name} says it has", _AGAIN)
    return {name: shards[file][name] for name, file in places.items()}


def _open_safetensors(path: Path) -> dict[str, Getter]:
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} cannot be read: {error}", _AGAIN) from error
    return dict.fromkeys(handle.keys(), handle.get_tensor)


def _open_bin(path: Path) -> dict[str, Getter]:
    tensors = _load_bin(path)
    if not isinstance(tensors, dict):
        raise Damaged(f"{path} holds no tensors by name", _AGAIN)
    return dict.fromkeys(tensors, tensors.__getitem__)


def _load_bin(path: Path) -> Any:
    import torch

    try:
        with path.open("rb") as handle:
            zipped = handle.read(2) == b"PK"  # only the newer of torch's two formats can be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is a pickle that holds more than tensors, and could run code; it was not loaded",
            "take the model's safetensors, or convert it where you trust it",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise Damaged(f"{path} cannot be read: {error}", _AGAIN) from error
