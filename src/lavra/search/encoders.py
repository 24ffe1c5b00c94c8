"""Opening what makes vectors of texts: the one place that knows which library is behind it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.progress import log
from lavra.search.experiment.sentence_models import open_sentence_model
from lavra.vectors.protocols import TextEncoder, TextKind

if TYPE_CHECKING:
    import torch

_AT_ONCE = 32
"""Number of texts in a batch."""

_E5 = re.compile(r"(?:^|[^a-z0-9])e5(?:[^a-z0-9]|$)", re.IGNORECASE)
"""Matches the name of a model of the E5 family, whose folders do not say which prefixes they were trained with."""

_E5_PREFIXES: dict[TextKind, str] = {"query": "query: ", "passage": "passage: ", "text": "query: "}


def open_text_encoder(folder: str | Path, device: torch.device) -> TextEncoder:
    """Open the encoder in a folder.

    Args:
        folder: The folder of a bi-encoder of sentence-transformers.
        device: Device that holds the model and computes.

    Raises:
        InputError: If the folder holds no such encoder, or it cannot be opened.
        LavraError: If sentence-transformers is not installed.
    """
    return SentenceEncoder(open_sentence_model(Path(folder), "bi-encoder", device), Path(folder))


class SentenceEncoder:
    """A bi-encoder of sentence-transformers, by the contract of `TextEncoder`.

    Args:
        model: The model of sentence-transformers.
        folder: The folder from which it was opened.

    Attributes:
        fingerprint: Names weights, tokenizer, pooling and prefixes.
        dimensions: Size of a vector.
        longest: Most tokens of a text that the model reads; None where there is no limit.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self._model = model
        self._prefixes = _prefixes(model, folder)
        self.dimensions = int(model.encode([""], show_progress_bar=False).shape[1])
        length = getattr(model, "max_seq_length", None)
        self.longest = int(length) if length else None
        self.fingerprint = _fingerprint(folder, self._prefixes, self.longest)

    def encode(self, texts: Sequence[str], *, kind: TextKind = "text") -> NDArray[np.float32]:
        """Return (texts, dimensions) float32 vectors of length 1; see `TextEncoder.encode`."""
        prefix = self._prefixes.get(kind, "")
        vectors = self._model.encode(
            [prefix + text for text in texts],
            prompt="",
            batch_size=_AT_ONCE,
            show_progress_bar=False,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.dimensions)


def _prefixes(model: Any, folder: Path) -> dict[TextKind, str]:
    """Return what is put before a text of each kind: the prompts that the model names, or those of its family."""
    named = dict(getattr(model, "prompts", None) or {})
    passage = next((named[name] for name in ("passage", "document", "corpus") if named.get(name)), "")
    query = named.get("query") or ""
    if query or passage:
        return {"query": query, "passage": passage}
    if _E5.search(folder.resolve().name):
        log(f"{folder} names no prefixes; those of E5 are put before the texts (query: and passage:)")
        return _E5_PREFIXES
    return {}


def _fingerprint(folder: Path, prefixes: dict[TextKind, str], longest: int | None) -> str:
    """Return a hash of the files of a model and of how texts are given to it."""
    digest = hashlib.blake2b(repr((sorted(prefixes.items()), longest)).encode(), digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".safetensors", ".json", ".txt", ".model"):
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()
