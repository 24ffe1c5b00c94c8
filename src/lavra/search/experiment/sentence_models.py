"""Models of sentence-transformers in a local folder: nothing is downloaded, and no code in the folder is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lavra.core.disk.files import read_json
from lavra.core.errors import InputError, LavraError

if TYPE_CHECKING:
    import torch


def kind_of(folder: Path) -> Literal["cross-encoder", "bi-encoder"] | None:
    """Return the kind of the model in a folder.

    A model with a classification head is a cross-encoder, and so is one whose configuration says so; every other
    encoder is a bi-encoder.

    Args:
        folder: The folder.

    Returns:
        "cross-encoder" or "bi-encoder"; None where the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        return None
    about = folder / "config_sentence_transformers.json"
    if about.is_file() and read_json(about).get("model_type") == "CrossEncoder":
        return "cross-encoder"
    architectures = read_json(folder / "config.json").get("architectures") or []
    if any("ForSequenceClassification" in name for name in architectures):
        return "cross-encoder"
    return "bi-encoder"


def open_sentence_model(folder: Path, kind: Literal["cross-encoder", "bi-encoder"], device: torch.device) -> Any:
    """Open a model of sentence-transformers.

    Args:
        folder: The folder of the model.
        kind: The kind that is wanted.
        device: Device that holds the model and computes.

    Raises:
        InputError: If the folder holds no such model, or it cannot be opened.
        LavraError: If sentence-transformers is not installed.
    """
    if kind_of(folder) != kind:
        raise InputError(
            f"{folder} holds no {kind} of sentence-transformers",
            "give the folder of a model that is on this machine (lavra downloads none)",
        )
    return _opened("CrossEncoder" if kind == "cross-encoder" else "SentenceTransformer", folder, device)


def pair_scores(model: Any, pairs: Sequence[tuple[str, str]], *, raw: bool = False) -> list[float]:
    """Return the score that a cross-encoder gives to each pair of texts: the last of its numbers, where it has several.

    Args:
        model: The cross-encoder of sentence-transformers.
        pairs: Pairs of a query and a passage.
        raw: Whether the scores are those before the model's activation, which flattens their differences.
    """
    if not pairs:
        return []
    from torch import nn

    plain = {"activation_fn": nn.Identity()} if raw else {}
    found = np.asarray(model.predict(list(pairs), show_progress_bar=False, **plain), dtype=np.float64)
    return found.reshape(len(pairs), -1)[:, -1].tolist()


def _opened(name: str, folder: Path, device: torch.device) -> Any:
    try:
        import sentence_transformers
    except ModuleNotFoundError as error:
        raise LavraError("this needs sentence-transformers", "pip install 'lavra[dense]'") from error
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"{folder} has no .safetensors weights", "convert its weights; pickles are not opened")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lavra.models.hf.kinds import quietly

    try:
        with quietly():
            return getattr(sentence_transformers, name)(
                str(folder),
                device=str(device),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be opened by sentence-transformers: {error}", "check its files") from error
