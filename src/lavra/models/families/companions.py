"""The files of a model beside its weights, which are carried from the base model into the model that is written.

These are the files of the tokenizer with the chat template, the settings of generation, and the parts of `config.json`
that do not concern the computation (ids of special tokens, labels, notes). What training did not change is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.progress import log
from lavra.data.tokenizers.files import built_by_transformers
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.importing import CONFIG
from lavra.models.reference import ATTENTION_KEYS

# The files of a tokenizer in a folder that `transformers` opens.

TOKENIZER_CONFIG = "tokenizer_config.json"
"""Name of the configuration of a tokenizer."""

TEMPLATES = ("*.jinja", "additional_chat_templates/*.jinja")
"""Names of chat templates."""

_SPECIAL_TOKENS = "special_tokens_map.json"
"""Name of the file in which older tokenizers keep their special tokens."""

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
    """Return whether the folder of a model also holds a tokenizer.

    Args:
        folder: Folder of a model.
    """
    return any(True for pattern in _VOCABULARIES for _ in folder.glob(pattern))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer of a model with its chat template; a reference to code of its own is left out.

    Args:
        source: Folder to copy from.
        target: Folder to copy into.
    """
    copy_files(source, target, _FILES)


def copy_files(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy files of a tokenizer; a reference to code in its configuration is left out.

    Args:
        source: Folder to copy from.
        target: Folder to copy into.
        patterns: Globs of the names of the files.
    """
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
    """Return the special tokens that the configuration of a tokenizer names, by their roles, such as `eos_token`.

    Args:
        folder: Folder of a tokenizer.
    """
    config: dict[str, Any] = {}
    for name in (_SPECIAL_TOKENS, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            found = read_json(folder / name)
            config |= found if isinstance(found, dict) else {}
    tokens = {role: config[role] for role in _ROLES if config.get(role)}
    return {role: token["content"] if isinstance(token, dict) else token for role, token in tokens.items()}


def special_ids(config: dict[str, Any]) -> dict[str, int | list[int] | None]:
    """Return the ids of the special tokens that the configuration of a model names.

    Args:
        config: Content of `config.json`.

    Examples:
        >>> special_ids({"eos_token_id": 2, "vocab_size": 10})
        {'eos_token_id': 2}
    """
    return {name: config[name] for name in _SPECIAL if config.get(name) is not None}


# The configuration and the settings of generation.

GENERATION_CONFIG = "generation_config.json"
"""Name of the file with the settings of generation."""

ORIGIN = "origin.json"
"""Name of the file that keeps the `config.json` of the base model beside our own specification."""

_COMPUTED = frozenset(
    {
        "architectures",
        "model_type",
        "auto_map",
        "_name_or_path",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "quantization_config",
        "rope_scaling",
        "rope_parameters",
        "layer_types",
        "max_window_layers",
        "sliding_window",
        "use_sliding_window",
        *ATTENTION_KEYS,
    }
)
"""Keys of a configuration that are not carried over, because they describe the computation or the file's origin."""


def read_origin(folder: Path | None) -> dict[str, Any]:
    """Return the configuration that a model had in `transformers`; empty where it was never a model of `transformers`.

    Args:
        folder: Folder of a model, or None.
    """
    for name in (ORIGIN, CONFIG):
        if folder is not None and (folder / name).is_file():
            found = read_json(folder / name)
            return found if isinstance(found, dict) else {}
    return {}


def carried_config(folder: Path | None) -> dict[str, Any]:
    """Return the part of a model's configuration that does not concern the computation, to be written with the model.

    Args:
        folder: Folder of a model, or None.
    """
    return {key: value for key, value in read_origin(folder).items() if key not in _COMPUTED}


def generation_settings(folder: Path | None) -> dict[str, Any]:
    """Return the settings of generation of a model: temperature, tokens that end a text, and so on.

    Args:
        folder: Folder of a model, or None.
    """
    if folder is None or not (folder / GENERATION_CONFIG).is_file():
        return {}
    found = read_json(folder / GENERATION_CONFIG)
    return found if isinstance(found, dict) else {}


def ends_of_texts(folder: Path | None, vocabulary: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the ids and the strings with which a generated text ends, by the settings of a model.

    As in `transformers`, `generation_config.json` decides, and the configuration of the model where there is no such
    file. Ids that are outside the vocabulary are left out, with a message.

    Args:
        folder: Folder of a model, or None.
        vocabulary: Number of tokens that the model can predict.
    """
    settings = generation_settings(folder) or read_origin(folder)
    named, strings = settings.get("eos_token_id"), settings.get("stop_strings")
    ids = named if isinstance(named, list) else [] if named is None else [named]
    good = [one for one in ids if type(one) is int and 0 <= one < vocabulary]
    if len(good) < len(ids):
        odd = ", ".join(str(one) for one in ids if one not in good)
        log(f"{folder}: eos_token_id names {odd}, which the vocabulary of {vocabulary:,} tokens lacks; left out")
    strings = strings if isinstance(strings, list) else [strings]
    return tuple(good), tuple(one for one in strings if isinstance(one, str) and one)


def write_companions(target: Path, tokenizer: Tokenizer, source: Path | None, *, ours: bool) -> None:
    """Write a tokenizer and the other files beside the weights into a folder; the caller takes care of atomicity.

    Args:
        target: Folder to write into, with or without the weights.
        tokenizer: Tokenizer that the model has now.
        source: Folder of the base model; None for a model that was trained from scratch.
        ours: Whether the weights are in our format, so that the configuration of `transformers` is kept as
            `origin.json`.
    """
    moved = write_tokenizer(target, tokenizer, source)
    settings = moved_ids(generation_settings(source), moved)
    if settings:
        write_json(target / GENERATION_CONFIG, settings)
    origin = moved_ids(read_origin(source), moved)
    if ours and origin:
        write_json(target / ORIGIN, origin)


def write_tokenizer(target: Path, tokenizer: Tokenizer, source: Path | None) -> tuple[Tokenizer, Tokenizer] | None:
    """Write a tokenizer: the files of the base model where it is the same, or else its own with the roles of the base.

    Args:
        target: Folder to write into.
        tokenizer: Tokenizer that the model has now.
        source: Folder of the base model, or None.

    Returns:
        The old and the new tokenizer where ids have changed their meaning; None where they have not.
    """
    old = Tokenizer.load(source) if source is not None and has_tokenizer(source) else None
    if source is None or old is None:
        tokenizer.save(target)
        return None
    if old.fingerprint == tokenizer.fingerprint:
        copy_tokenizer(source, target)
        built = built_by_transformers(source)
        if built is not None:  # the new folder may not tell of which type of model the older files are
            built.save_pretrained(target)
        return None
    tokenizer.save(target)
    _carry_roles(target, tokenizer, source)
    return old, tokenizer


def _carry_roles(target: Path, tokenizer: Tokenizer, source: Path) -> None:
    """Give a new tokenizer the special tokens and the chat template of the old one, as far as it has the tokens."""
    known = tokenizer.inner.get_vocab(with_added_tokens=True)
    settings = read_json(target / TOKENIZER_CONFIG)
    roles = {role: token for role, token in named_tokens(source).items() if token in known and role != "eos_token"}
    write_json(target / TOKENIZER_CONFIG, {**settings, **roles})
    old = read_json(source / TOKENIZER_CONFIG) if (source / TOKENIZER_CONFIG).is_file() else {}
    lost = [token for token in template_tokens(source) if token not in known]
    if lost:
        log(f"the chat template was not taken over: the new vocabulary has no {', '.join(lost[:3])}")
        return
    copy_files(source, target, TEMPLATES)
    if old.get("chat_template"):
        write_json(
            target / TOKENIZER_CONFIG, {**read_json(target / TOKENIZER_CONFIG), "chat_template": old["chat_template"]}
        )


def template_tokens(folder: Path | None) -> list[str]:
    """Return the special tokens of a tokenizer that occur in its chat templates, in the order of their ids.

    Args:
        folder: Folder of a tokenizer, or None.
    """
    if folder is None or not has_tokenizer(folder):
        return []
    settings = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    text = json.dumps(settings.get("chat_template") or "", ensure_ascii=False)
    text += "".join(path.read_text(encoding="utf8") for path in sorted(folder.glob("*.jinja")))
    added = Tokenizer.load(folder).inner.get_added_tokens_decoder()
    return [token.content for _, token in sorted(added.items()) if token.special and token.content in text]


def moved_ids(settings: dict[str, Any], moved: tuple[Tokenizer, Tokenizer] | None) -> dict[str, Any]:
    """Return settings with the ids of special tokens translated to another tokenizer.

    Args:
        settings: Settings of generation or a configuration.
        moved: Old and new tokenizer; None where the ids have not changed.
    """
    from lavra.models.transforms.vocabulary import new_id_of

    if moved is None:
        return settings
    old, new = moved

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return list(dict.fromkeys(place(one) for one in value))
        plain = isinstance(value, int) and not isinstance(value, bool)
        return new_id_of(value, old, new) if plain else value

    changed = {key: place(value) if key.endswith("_token_id") else value for key, value in settings.items()}
    return {**changed, "vocab_size": new.vocabulary_size} if "vocab_size" in changed else changed


def lost_companions(folder: Path, source: Path | None) -> tuple[str, ...]:
    """Return the settings that an exported folder states differently from the base model, for the certificate.

    The chat template, the special tokens, the settings of generation and the ids in `config.json` are compared.
    """
    if source is None:
        return ()
    from lavra.data.examples.chats import ChatTemplate

    lost = []
    templates = [ChatTemplate.load(each) for each in (source, folder)]
    if templates[0] is not None and (templates[1] is None or templates[1].text != templates[0].text):
        lost.append("chat template")
    pairs = [
        (named_tokens(source), named_tokens(folder), ""),
        (generation_settings(source), generation_settings(folder), "generation_config "),
        (_ids(read_origin(source)), _ids(read_origin(folder)), "config "),
    ]
    for before, after, where in pairs:
        lost += [f"{where}{key}" for key, value in before.items() if value is not None and after.get(key) != value]
    return tuple(lost)


def _ids(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.endswith("_token_id")}
