"""Static vectors: a text is the mean of the vectors of its tokens, so that thousands of texts a second are embedded.

The folder of such a model is one of sentence-transformers (`StaticEmbedding`), which that library opens to the same
vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from lavra.core.errors import CorruptFile
from lavra.core.progress import Progress
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.vectors.fingerprints import fingerprint
from lavra.vectors.protocols import TextKind
from lavra.vectors.reading import Prompts
from lavra.vectors.sentence_folder import write_about, write_modules

WEIGHTS = "model.safetensors"
TABLE = "embedding.weight"
"""Names of the file of the table, and of the table in it."""

_TEXTS_AT_ONCE = 8192
"""Texts that are tokenised together."""


class StaticEncoder:
    """An encoder of texts (see `TextEncoder`) with one vector for each token.

    Args:
        table: Vector of each token, (vocabulary, size) float32.
        tokenizer: The tokenizer.
        prompts: What is put before the texts of each kind.
        normalise: Whether the vectors of texts have length 1.
        dimensions: Number of the first numbers of a vector that are kept; None keeps all.

    Attributes:
        table: Vector of each token, (vocabulary, dimensions).
        tokenizer: The tokenizer.
        dimensions: Size of a vector.
        fingerprint: Names everything that the vectors depend on.
        longest: None: every token of a text counts.
        precision: Type of the numbers.

    Examples:
        >>> tokenizer = Tokenizer.train(["a rosa e o rosto da rosa", "a rosa rosa"], vocabulary_size=260)
        >>> encoder = StaticEncoder(torch.ones(260, 4), tokenizer)
        >>> encoder.encode(["a rosa"]).tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """

    longest: int | None = None
    precision = "fp32"

    def __init__(
        self,
        table: torch.Tensor,
        tokenizer: Tokenizer,
        *,
        prompts: Prompts | None = None,
        normalise: bool = True,
        dimensions: int | None = None,
    ) -> None:
        self.table = table[:, :dimensions].float().contiguous()
        self.tokenizer, self.prompts, self.normalise = tokenizer, dict(prompts or {}), normalise
        self.dimensions = self.table.shape[1]
        about = {"static": True, "tokenizer": tokenizer.fingerprint, "prompts": self.prompts, "normalise": normalise}
        self.fingerprint = fingerprint(about, [(TABLE, self.table)])

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, kind: TextKind = "text") -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of the texts, in their order; of an empty text it is zero.

        Args:
            texts: Texts, without the prompt of their kind.
            kind: What the texts are.
        """
        prompt = self.prompts.get(kind, "")
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        with Progress("embedding", len(texts), "texts") as progress:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                some = [prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
                vectors[start : start + len(some)] = self._means(self.tokenizer.encode_many(some))
                progress.advance(len(some))
        return vectors

    def _means(self, ids: Sequence[np.ndarray]) -> NDArray[np.float32]:
        lengths = np.array([len(one) for one in ids], np.int64)
        offsets = torch.from_numpy(np.concatenate([[0], lengths[:-1].cumsum()]))
        flat = torch.from_numpy(np.concatenate(ids).astype(np.int64))
        means = F.embedding_bag(flat, self.table, offsets, mode="mean")
        return (F.normalize(means, dim=-1) if self.normalise else means).numpy()

    def save(self, folder: Path) -> None:
        """Write a folder that `read_static` and sentence-transformers open; the caller takes care of atomicity.

        Args:
            folder: Folder to write into.
        """
        from safetensors.torch import save_file

        write_modules(folder, [("StaticEmbedding", ""), *([("Normalize", "1_Normalize")] if self.normalise else [])])
        write_about(folder, self.prompts, normalise=self.normalise)
        save_file({TABLE: self.table}, folder / WEIGHTS)
        self.tokenizer.save(folder)


def read_static(
    folder: Path, *, prompts: Prompts | None = None, normalise: bool = True, dimensions: int | None = None
) -> StaticEncoder:
    """Return the static vectors in a folder.

    Args:
        folder: Folder with the table and the tokenizer.
        prompts: What is put before the texts of each kind.
        normalise: Whether the vectors of texts have length 1.
        dimensions: Number of the first numbers of a vector that are kept; None keeps all.

    Raises:
        InputError: If there is no tokenizer.
        CorruptFile: If the table cannot be read, or has fewer rows than the tokenizer has tokens.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptFile(f"{path} cannot be read: {error}", "copy the model again") from error
    tokenizer = Tokenizer.load(folder)
    table = tensors[TABLE] if TABLE in tensors else _of_model2vec(tensors, path)
    if len(table) < tokenizer.vocabulary_size:
        raise CorruptFile(
            f"{path} has {len(table):,} vectors, and the tokenizer beside it {tokenizer.vocabulary_size:,} tokens",
            "copy the model again",
        )
    return StaticEncoder(table, tokenizer, prompts=prompts, normalise=normalise, dimensions=dimensions)


def _of_model2vec(tensors: dict[str, torch.Tensor], path: Path) -> torch.Tensor:
    """Return the table of a file of model2vec, which may give several tokens one row, and each row a weight."""
    if "embeddings" not in tensors:
        raise CorruptFile(f"{path} holds no {TABLE}", "give a folder of static vectors")
    table = tensors["embeddings"].float()
    table = table[tensors["mapping"].long()] if "mapping" in tensors else table
    return table * tensors["weights"].float()[:, None] if "weights" in tensors else table
