"""Models that are not a Hugging Face folder, converted to one: an adapter of `peft` with its base, and a GGUF file.

The folder is temporary and removed when the program ends. An ordinary model can be read from it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lavra.core.disk.files import read_json
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.models.families.companions import copy_tokenizer, has_tokenizer
from lavra.models.families.importing import CONFIG, read_config
from lavra.models.hf.kinds import automatic_class, choose_kind, quietly
from lavra.models.reference import attention_options

ADAPTER_CONFIG = "adapter_config.json"
"""Name of the configuration file of an adapter of `peft`."""

_MAGIC = b"GGUF"
"""First bytes of every GGUF file."""


def adapter_base(folder: Path) -> str | None:
    """Return the name of the base model of an adapter, or None where the folder holds no adapter.

    Args:
        folder: Folder that may hold an adapter.

    Raises:
        InputError: If the adapter does not name its base model.
    """
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / CONFIG).is_file():
        return None
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{folder} is an adapter that does not say of which model", f"name it in {ADAPTER_CONFIG}")
    beside = folder.parent / Path(base).name  # a run that was moved with its adapter and its base
    return str(beside) if not Path(base).exists() and Path(base).is_absolute() and beside.is_dir() else base


@cache
def folder_of_adapter(adapter: Path, base: Path) -> Path:
    """Return a folder with the base model into whose weights an adapter of `peft` is merged.

    Args:
        adapter: Folder of the adapter.
        base: Hugging Face folder of the base model.

    Raises:
        InputError: If `peft` is not installed or cannot open the adapter, or the adapter cannot be merged.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError(f"{adapter} is an adapter, and needs peft to be read", "pip install peft") from error
    kind = choose_kind(read_config(base), base)
    settings = peft.PeftConfig.from_pretrained(str(adapter))
    if settings.is_prompt_learning:
        raise InputError(
            f"{adapter} is an adapter of kind {settings.peft_type}, which cannot be worked into a model's weights",
            "use it with peft itself, or take an adapter such as LoRA",
        )
    try:
        with quietly(), torch.no_grad():
            model: Any = automatic_class(kind).from_pretrained(
                str(base),
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                **attention_options(str(base)),
            )
            merged: Any = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
            folder = temporary_folder("adapter")
            merged.save_pretrained(folder)
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise InputError(
            f"the adapter {adapter} does not fit {base}: {_first_line(error)}",
            "give it the base that it was trained on",
        ) from error
    copy_tokenizer(adapter if has_tokenizer(adapter) else base, folder)
    log(f"{adapter}: an adapter ({settings.peft_type}) over {base}, worked into its weights")
    return folder


def gguf_file(path: Path) -> Path | None:
    """Return the GGUF file that a path is or contains, recognised by its first bytes, or None where there is none.

    Args:
        path: File or folder.

    Raises:
        InputError: If a folder holds several GGUF files.
    """
    if path.is_file():
        return path if _is_gguf(path) else None
    if not path.is_dir() or (path / CONFIG).is_file():
        return None
    found = sorted(file for file in path.glob("*.gguf") if _is_gguf(file))
    if len(found) > 1:
        raise InputError(f"{path} holds {len(found)} GGUF files", f"name one of them, such as {found[0]}")
    return found[0] if found else None


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@cache
def folder_of_gguf(file: Path) -> Path:
    """Return a folder with the model and the tokenizer of a GGUF file, whose weights are dequantised.

    Args:
        file: GGUF file.

    Raises:
        InputError: If the package `gguf` is not installed, or `transformers` cannot read the model.
    """
    try:
        import gguf  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{file} is a GGUF file, and needs the package gguf to be read", "pip install lavra[gguf]"
        ) from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with quietly():
            tokenizer: Any = AutoTokenizer.from_pretrained(**where)
            model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, **_plain_weights())
            folder = temporary_folder("gguf")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except Exception as error:  # the reader raises many kinds for what it does not know
        raise InputError(
            f"transformers cannot read {file}: {_first_line(error)}",
            "take the model's safetensors, or a GGUF file of a family that transformers reads (Llama, Qwen, Gemma, …)",
        ) from error
    log(f"{file}: read with its weights as they are after quantisation; {file.stat().st_size / 1e6:,.0f} MB")
    return folder


def _plain_weights() -> dict[str, Any]:
    """Return the options with which `transformers` dequantises a GGUF file, where it would keep the weights packed."""
    import transformers

    config: Any = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def temporary_folder(what: str) -> Path:
    """Return a new folder that is removed when the program ends.

    Args:
        what: What it is for, which becomes part of its name.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"lavra-{what}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
