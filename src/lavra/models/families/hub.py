"""Models of the Hugging Face hub: downloaded by their names, their files only, never their code."""

from __future__ import annotations

import re
from pathlib import Path

from lavra.core.errors import InputError

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


def hub_folder(name: str) -> Path:
    """Download a model's configuration, tokenizer and weights, or find them in the cache; return their folder.

    Raises:
        InputError: if the hub has no such model, keeps it behind a licence, or cannot be reached.
    """
    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        try:
            files = list_repo_files(name)
            kind = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
            patterns = [*_SMALL_FILES, kind]
        except (OfflineModeIsEnabled, ConnectionError):
            patterns = [*_SMALL_FILES, "*.safetensors", "*.bin"]
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name} cannot be had from the hub: {reason}",
            "check the name and the connection; for a gated model, accept its licence and run `hf auth login`",
        ) from error
