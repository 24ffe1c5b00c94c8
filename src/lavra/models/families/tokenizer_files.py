"""The tokenizer's files in a folder that `transformers` opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lavra.core.files import read_json, write_atomically, write_json

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.jinja",
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def has_tokenizer(folder: Path) -> bool:
    """Say whether the folder of a model holds a tokenizer too."""
    return any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a model's tokenizer as it is, chat template included; a pointer to code of its own is left out."""
    for pattern in _FILES:
        for path in sorted(source.glob(pattern)):
            if path.name == "tokenizer_config.json":
                settings = read_json(path)
                settings.pop("auto_map", None)
                write_json(target / path.name, settings)
            else:
                write_atomically(target / path.name, path.read_bytes())


def special_ids(config: dict[str, Any]) -> dict[str, int | list[int] | None]:
    """Return the ids of the special tokens that a model's configuration names."""
    return {name: config[name] for name in _SPECIAL if config.get(name) is not None}
