"""The tokenizer's files in a folder that `transformers` opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavra.core.files import read_json, write_atomically, write_json

TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATES = ("*.jinja", "additional_chat_templates/*.jinja")
_SPECIAL_TOKENS = "special_tokens_map.json"
_FILES = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    _SPECIAL_TOKENS,
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    *TEMPLATES,
)
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def has_tokenizer(folder: Path) -> bool:
    """Say whether the folder of a model holds a tokenizer too."""
    return any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a model's tokenizer as it is, chat template included; a pointer to code of its own is left out."""
    copy_files(source, target, _FILES)


def copy_files(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy the files of a tokenizer that have one of these names."""
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            place = target / path.relative_to(source)
            if path.name == TOKENIZER_CONFIG:
                settings = read_json(path)
                settings.pop("auto_map", None)
                write_json(place, settings)
            else:
                write_atomically(place, path.read_bytes())


def named_tokens(folder: Path) -> dict[str, str]:
    """Return the special tokens that a tokenizer's configuration names, by their roles (`eos_token`)."""
    config: dict[str, Any] = {}
    for name in (_SPECIAL_TOKENS, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            found = read_json(folder / name)
            config |= found if isinstance(found, dict) else {}
    tokens = {role: config[role] for role in _ROLES if config.get(role)}
    return {role: token["content"] if isinstance(token, dict) else token for role, token in tokens.items()}


def special_ids(config: dict[str, Any]) -> dict[str, int | list[int] | None]:
    """Return the ids of the special tokens that a model's configuration names."""
    return {name: config[name] for name in _SPECIAL if config.get(name) is not None}
