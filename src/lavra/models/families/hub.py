"""Models of the Hugging Face hub: downloaded by their names, their files only, never their code."""

from __future__ import annotations

import re
from pathlib import Path

from lavra.core.errors import InputError
from lavra.core.network import why_no_hub

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
"""Short names → the hub's."""

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL_FILES = ("*.json", "merges.txt", "vocab.txt", "*.model", "*.jinja")


def hub_name(location: str) -> str | None:
    """Return the hub's name for a location, or None if it is none: `hf:owner/name`, `owner/name`, or a well-known name.

    `owner/name` where `owner` is a folder here is a path that was mistyped, and never looked for on the hub.
    """
    explicit = location.startswith("hf:")
    name = location.removeprefix("hf:")
    if name.lower() in WELL_KNOWN:
        return WELL_KNOWN[name.lower()]
    if not _NAME.fullmatch(name) or (not explicit and Path(name).parent.is_dir()):
        return None
    return name


def hub_folder(name: str, *, weights: bool = True) -> Path:
    """Download a model's configuration, tokenizer and weights, or find them in the cache; return their folder.

    Args:
        name: `owner/name`.
        weights: whether the weights are wanted too, and not the small files alone.

    Raises:
        InputError: if the hub has no such model, keeps it behind a licence, or cannot be reached.
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
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except Exception as error:  # the library raises many kinds, its HTTP client's own among them
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} cannot be had from the hub: {said}",
            "check the name and the connection; for a gated model, accept its licence and run `hf auth login`",
        ) from error


def _kept_folder(name: str, reason: str, weights: bool) -> Path:
    """Return the folder where an earlier download left a model.

    Raises:
        InputError: if there is none.
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
