"""Models of sentence-transformers in a local folder: nothing is downloaded, and no code in the folder is run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import read_json
from lavra.core.errors import InputError, LavraError

if TYPE_CHECKING:
    import torch

_AT_ONCE = 64
"""Number of texts in a batch."""


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


class Embedder:
    """A bi-encoder, which embeds queries and documents separately.

    Args:
        model: The model of sentence-transformers.
    """

    def __init__(self, model: Any) -> None:
        self.inner = model

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (texts, width) float32 embeddings of length 1, with the model's prompt for queries if it has one."""
        return self._embed(self.inner.encode_query, texts)

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (texts, width) float32 embeddings of length 1, with the model's prompt for documents if it has one."""
        return self._embed(self.inner.encode_document, texts)

    def _embed(self, encode: Any, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = encode(list(texts), batch_size=_AT_ONCE, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(vectors, dtype=np.float32)

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that the model reads, the rest being left out; None where there is no limit."""
        length = getattr(self.inner, "max_seq_length", None)
        return int(length) if length else None


def open_embedder(folder: str | Path, device: torch.device) -> Embedder:
    """Open a bi-encoder of sentence-transformers.

    Args:
        folder: The folder of the model.
        device: Device that holds the model and computes.

    Raises:
        InputError: If the folder holds no bi-encoder, or it cannot be opened.
        LavraError: If sentence-transformers is not installed.
    """
    _check(Path(folder), "bi-encoder")
    return Embedder(_opened("SentenceTransformer", Path(folder), device))


def open_cross_encoder(folder: str | Path, device: torch.device) -> Any:
    """Open a cross-encoder of sentence-transformers.

    Args:
        folder: The folder of the model.
        device: Device that holds the model and computes.

    Raises:
        InputError: If the folder holds no cross-encoder, or it cannot be opened.
        LavraError: If sentence-transformers is not installed.
    """
    _check(Path(folder), "cross-encoder")
    return _opened("CrossEncoder", Path(folder), device)


def _check(folder: Path, kind: str) -> None:
    if kind_of(folder) != kind:
        raise InputError(
            f"{folder} holds no {kind} of sentence-transformers",
            "give the folder of a model that is on this machine (lavra downloads none)",
        )


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
