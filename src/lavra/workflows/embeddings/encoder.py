"""The encoder for Python: what makes vectors of texts, as `mteb` and other benchmarks call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.vectors.protocols import TextEncoder, TextKind
from lavra.vectors.reading import Prompts
from lavra.workflows.embeddings.open_encoder import open_encoder

_KINDS: dict[str, TextKind] = {"query": "query", "document": "passage", "passage": "passage", "corpus": "passage"}
"""Kinds of texts by what benchmarks call them."""


class Encoder:
    """Makes vectors of texts with any model that lavra opens; `mteb.evaluate(lavra.Encoder(MODEL), tasks)` works.

    The model's own prompts are put before queries and before passages, as it was trained.

    Args:
        model_name: The location of the model, as for `open_encoder`.
        revision: Not used: a model is what lies at its location.
        device: Device that computes: auto, cpu, cuda, cuda:1 or mps.
        precision: Type of the weights: auto, fp32, bf16 or fp16.
        dimensions: Number of the first numbers of a vector that are kept; None keeps what the model says.
        prompts: What is put before the texts of each kind, in place of the model's own prompts.
        others: Not used: benchmarks give models settings that only some have.

    Attributes:
        name: The location of the model.
        inner: What makes the vectors.

    Examples:
        >>> import lavra
        >>> encoder = lavra.Encoder("runs/encoder")                       # doctest: +SKIP
        >>> encoder.encode(["a boat on a river", "a ship"]).shape         # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        dimensions: int | None = None,
        prompts: Prompts | None = None,
        **others: Any,
    ) -> None:
        self.name, self.revision = str(model_name), revision
        self.inner: TextEncoder = open_encoder(
            self.name, device=device or "auto", precision=precision, dimensions=dimensions, prompts=prompts
        )

    def encode(self, inputs: Iterable[Any], *, prompt_type: Any = None, **others: Any) -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of texts, in their order.

        Args:
            inputs: Texts; or batches of a benchmark, which are mappings with a list of texts as `text`.
            prompt_type: What the texts are: "query", "document" or "passage", or a member of `mteb.types.PromptType`;
                None for texts that are compared with their like.
            others: Not used: the size of a batch is chosen here.

        Raises:
            InputError: If there is no such type, or a batch has no texts.
        """
        name = getattr(prompt_type, "value", prompt_type)
        if name is not None and name not in _KINDS:
            raise InputError(f"there is no type of prompt {name!r}", f"choose one of {', '.join(_KINDS)}, or None")
        return self.inner.encode(_texts(inputs), kind="text" if name is None else _KINDS[name])

    def encode_queries(self, queries: Sequence[str], **others: Any) -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of queries.

        Args:
            queries: The queries.
            others: Not used.
        """
        return self.encode(queries, prompt_type="query")

    def encode_corpus(self, corpus: Any, **others: Any) -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of documents.

        Args:
            corpus: Texts, or mappings with `title` and `text`, or one mapping with a list of each.
            others: Not used.
        """
        if isinstance(corpus, Mapping):
            titles = corpus.get("title") or [""] * len(corpus["text"])
            corpus = [{"title": title, "text": text} for title, text in zip(titles, corpus["text"], strict=True)]
        texts = [one if isinstance(one, str) else _joined(one) for one in corpus]
        return self.encode(texts, prompt_type="document")

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Return the (first, second) cosines of all pairs of vectors.

        Args:
            embeddings1: Vectors, (first, dimensions) or (dimensions,).
            embeddings2: Vectors, (second, dimensions) or (dimensions,).
        """
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Return the (pairs,) cosines of vectors with those of the same number.

        Args:
            embeddings1: Vectors, (pairs, dimensions).
            embeddings2: Vectors, (pairs, dimensions).
        """
        return (_unit(embeddings1) * _unit(embeddings2)).sum(1)

    @property
    def mteb_model_meta(self) -> Any:
        """What `mteb` is to know of the model, under which it keeps results; None without that package."""
        try:
            from mteb.models.model_meta import ModelMeta  # pyright: ignore[reportMissingImports]
        except ImportError:
            return None
        known: dict[str, Any] = {
            **dict.fromkeys(ModelMeta.model_fields),
            "name": f"lavra/{self.name.strip('/').replace('/', '_')}",
            "revision": self.inner.fingerprint,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
            "embed_dim": self.inner.dimensions,
            "max_tokens": self.inner.longest,
        }
        needed = {name for name, field in ModelMeta.model_fields.items() if field.is_required()}
        return ModelMeta(**{name: value for name, value in known.items() if value is not None or name in needed})


def _texts(inputs: Iterable[Any]) -> list[str]:
    """Return the texts of a list, or of the batches of a benchmark."""
    found: list[str] = []
    for one in [inputs] if isinstance(inputs, str) else inputs:
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, Mapping) and "text" in one:
            found += [one["text"]] if isinstance(one["text"], str) else one["text"]
        else:
            raise InputError(f"a {type(one).__name__} is no text, and no batch of texts", "give strings")
    return found


def _joined(document: Mapping[str, Any]) -> str:
    """Return the title and the text of a document as one text."""
    return " ".join(part for name in ("title", "text") if (part := str(document.get(name) or "").strip()))


def _unit(vectors: ArrayLike) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, np.finfo(np.float32).tiny)
