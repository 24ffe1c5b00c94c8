"""What the model that is trained says of its vectors: pooling, normalisation, prompts and the longest text."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lavra.config.embedding import EmbeddingConfig
from lavra.core.disk.files import read_json
from lavra.core.disk.run_folder import is_run
from lavra.models.families.files import hub_folder, hub_name
from lavra.vectors.reading import KINDS, Prompts
from lavra.vectors.sentence_folder import SentenceFolder, is_sentence_folder, read_sentence_folder
from lavra.workflows.embeddings.open_encoder import known_prompts
from lavra.workflows.models.task_head import HEAD_FILE


def settings_of(location: str | None) -> SentenceFolder | None:
    """Return what a model says of its vectors; None for a model that was not made for vectors, or for no model.

    A folder of sentence-transformers says it in its own files, and a model that lavra trained for vectors beside its
    head. Of other models the prompts of a family that is known by its name are returned.

    Args:
        location: The location of the model that is trained.
    """
    if location is None:
        return None
    folder = _folder(location)
    if folder is None:
        return None
    if (folder / HEAD_FILE).is_file():
        record: Any = read_json(folder / HEAD_FILE)
        return _of_facts(folder, record["facts"]) if record["task"] == "embedding" else None
    if is_sentence_folder(folder):
        found = read_sentence_folder(folder)
        return found if found.prompts else replace(found, prompts=_prompts_of_family(folder.resolve().name))
    prompts = _prompts_of_family(folder.resolve().name)
    return SentenceFolder(folder, folder, prompts=prompts) if prompts else None


@cache
def _prompts_of_family(name: str) -> Prompts:
    """Return the prompts of a family of models that is known by its name, which are said once."""
    return known_prompts(name)


def _of_facts(folder: Path, facts: dict[str, Any]) -> SentenceFolder:
    head, asked = facts["head"], facts["embedding"]
    pooling = head["pooling"] if asked["pooling"] == "auto" else asked["pooling"]
    return SentenceFolder(
        folder,
        folder,
        pooling=pooling,
        normalise=asked["normalise"],
        prompts=facts["prompts"],
        longest=head["context"],
    )


def _folder(location: str) -> Path | None:
    """Return the folder with the files of a model; None where there is none yet."""
    path = Path(location)
    if is_run(path):
        path = path / "model"
    if path.is_dir():
        return path
    name = None if Path(location).exists() else hub_name(location)
    return None if name is None else hub_folder(name)


def prompts_of(asked: EmbeddingConfig, settings: SentenceFolder | None) -> dict[str, str]:
    """Return what is put before the texts of each kind: what the request says, else what the model says.

    Args:
        asked: The options of the request.
        settings: What the model says.
    """
    found = {} if settings is None else dict(settings.prompts)
    for kind in KINDS:
        given = getattr(asked, f"{kind}_prompt")
        if given is not None:
            found[kind] = given
    return {kind: text for kind, text in found.items() if text}
