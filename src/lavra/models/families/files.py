"""The files of a Hugging Face folder: downloaded by the model's name, and their tensors read one at a time; never any
code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.disk.files import read_json
from lavra.core.errors import CorruptFile, InputError
from lavra.core.network import why_no_hub

if TYPE_CHECKING:
    import torch

SAFETENSORS = "model.safetensors"
BIN = "pytorch_model.bin"
_AGAIN = "copy or download the model again"

Getter = Callable[[str], "torch.Tensor"]


class TensorSource:
    """The tensors of a folder by name. Files are memory-mapped, so that only the tensors read take memory.

    Attributes:
        names: Names of all tensors.
        place: File of the tensors, or the index of several files, for error messages.
    """

    def __init__(self, place: Path, getters: dict[str, Getter]) -> None:
        self.place = place
        self._getters = getters
        self.names = frozenset(getters)

    def get(self, name: str) -> torch.Tensor:
        """Return a tensor.

        Args:
            name: Name of the tensor.

        Raises:
            KeyError: If there is no tensor of that name.
        """
        return self._getters[name](name)


def open_tensors(folder: Path) -> TensorSource:
    """Return the tensors of a Hugging Face folder, from safetensors files where there are both kinds.

    Args:
        folder: Hugging Face folder.

    Raises:
        InputError: If there are no weights, a shard is missing, or a `.bin` file holds code.
        CorruptFile: If a file is truncated, or the index names tensors that a file lacks.
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
        raise CorruptFile(f"{index} is no index of weights", _AGAIN)
    shards: dict[str, dict[str, Getter]] = {}
    for file in sorted(set(places.values())):
        path = index.parent / Path(file).name  # a shard lies beside its index, whatever the index says
        if not path.is_file():
            raise InputError(f"{path} is missing; {index.name} names it", _AGAIN)
        shards[file] = opened(path)
    for name, file in places.items():
        if name not in shards[file]:
            raise CorruptFile(f"{index.parent / file} has no tensor {name}, which {index.name} says it has", _AGAIN)
    return {name: shards[file][name] for name, file in places.items()}


def _open_safetensors(path: Path) -> dict[str, Getter]:
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CorruptFile(f"{path} cannot be read: {error}", _AGAIN) from error
    return dict.fromkeys(handle.keys(), handle.get_tensor)


def _open_bin(path: Path) -> dict[str, Getter]:
    tensors = _load_bin(path)
    if not isinstance(tensors, dict):
        raise CorruptFile(f"{path} holds no tensors by name", _AGAIN)
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
        raise CorruptFile(f"{path} cannot be read: {error}", _AGAIN) from error


WELL_KNOWN = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "opt-125m": "facebook/opt-125m",
    "opt-350m": "facebook/opt-350m",
    "opt-1.3b": "facebook/opt-1.3b",
    "pythia-70m": "EleutherAI/pythia-70m",
    "pythia-160m": "EleutherAI/pythia-160m",
    "pythia-410m": "EleutherAI/pythia-410m",
    "bloom-560m": "bigscience/bloom-560m",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B-Base",
    "tinyllama-1.1b": "TinyLlama/TinyLlama_v1.1",
}
"""Name on the Hugging Face hub of each model that has a well-known short name."""

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL_FILES = ("*.json", "merges.txt", "vocab.txt", "*.model", "*.jinja")


def hub_name(location: str) -> str | None:
    """Return the name on the hub that a location stands for, or None if it stands for none.

    Where `owner` is a folder here, `owner/name` is a mistyped path and is not looked for on the hub.

    Args:
        location: `hf:owner/name`, `owner/name`, or a well-known name.

    Examples:
        >>> hub_name("hf:owner/name")
        'owner/name'
    """
    explicit = location.startswith("hf:")
    name = location.removeprefix("hf:")
    if name.lower() in WELL_KNOWN:
        return WELL_KNOWN[name.lower()]
    if not _NAME.fullmatch(name) or (not explicit and Path(name).parent.is_dir()):
        return None
    return name


def hub_folder(name: str, *, weights: bool = True) -> Path:
    """Return the folder of a model of the hub, which is downloaded where the cache does not hold it.

    Args:
        name: Name on the hub, `owner/name`.
        weights: Whether to download the weights and not only the configuration and the tokenizer.

    Raises:
        InputError: If the hub has no such model, its licence must be accepted first, or the hub cannot be reached.
    """
    reason = why_no_hub()
    if reason is not None:
        return _kept_folder(name, reason, weights)
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        patterns: list[str] = [*_SMALL_FILES]
        if weights:
            files = list_repo_files(name)
            patterns.append("*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin")
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
        parts = _module_files(folder) if weights else []
        return Path(snapshot_download(name, allow_patterns=parts)) if parts else folder
    except Exception as error:  # the library raises many kinds, its HTTP client's own among them
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} cannot be had from the hub: {said}",
            "check the name and the connection; for a gated model, accept its licence and run `hf auth login`",
        ) from error


def _module_files(folder: Path) -> list[str]:
    """Return patterns of the files of the modules that a folder of sentence-transformers keeps in folders of theirs."""
    path = folder / "modules.json"
    modules = read_json(path) if path.is_file() else []
    places = [str(one.get("path") or "").strip("/") for one in modules if isinstance(one, dict)]
    return [f"{place}/{file}" for place in places if place for file in ("*.json", "*.safetensors")]


def _kept_folder(name: str, reason: str, weights: bool) -> Path:
    """Return the folder of a model that was downloaded earlier.

    Raises:
        InputError: If there is none.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception as error:
        raise InputError(
            f"there is no folder {name}, and the Hugging Face hub cannot be reached ({reason})",
            "check the spelling of the path, or connect once: what was downloaded is kept and used without a network",
        ) from error
    if weights and not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        raise InputError(
            f"of {name} only the small files were downloaded, and the Hugging Face hub cannot be reached ({reason})",
            "connect once more",
        )
    return folder
