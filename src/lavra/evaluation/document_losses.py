"""The loss of every evaluated document, kept so that two models can be compared on the same documents."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from lavra.core.disk.files import read_json, write_atomically
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import CorruptFile
from lavra.evaluation.intervals import FEWEST_DOCUMENTS, Estimate, ratio_estimates
from lavra.evaluation.significance import randomisation_test

DOCUMENT_LOSSES = "document_losses.json"
"""Name of the file in a run folder that holds the document losses of the final evaluation."""

_FORMAT = 1
"""Version of the file's format."""


@dataclass(frozen=True)
class DocumentLosses:
    """The loss of each evaluated document of one text.

    Attributes:
        text: Fingerprint of the text that the documents belong to; see `text_fingerprint`.
        tokenizer: Fingerprint of the tokenizer. Losses per token can be compared only where it is the same.
        numbers: Number of each document in the text, (documents,), in increasing order.
        bytes: UTF-8 bytes of each original document, (documents,).
        nll: Negative log-likelihood of each document in nats, (documents,), its end-of-document token included.
    """

    text: str
    tokenizer: str
    numbers: NDArray[np.int64]
    bytes: NDArray[np.int64]
    nll: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)

    def save(self, path: Path) -> None:
        """Write the losses to a JSON file, atomically.

        Args:
            path: File to write; one that exists is replaced.
        """
        lists = {"documents": self.numbers.tolist(), "bytes": self.bytes.tolist(), "nats": self.nll.tolist()}
        values = {"format_version": _FORMAT, "text": self.text, "tokenizer": self.tokenizer, **lists}
        write_atomically(path, one_line(values) + "\n")

    @classmethod
    def load(cls, path: Path) -> DocumentLosses:
        """Return the losses that `save` wrote.

        Args:
            path: File to read.

        Raises:
            CorruptFile: If the file is missing, does not parse, or was written by a later version.
        """
        values = read_json(path)
        try:
            if values["format_version"] != _FORMAT:
                raise CorruptFile(
                    f"{path} has format version {values['format_version']}, and this lavra reads {_FORMAT}"
                )
            lists = (values["documents"], values["bytes"], values["nats"])
            if len({len(one) for one in lists}) != 1:
                raise CorruptFile(f"{path} is damaged: its lists differ in length")
            numbers, sizes = (np.asarray(one, dtype=np.int64) for one in lists[:2])
            nll = np.asarray(lists[2], dtype=np.float64)
            if not (numbers.ndim == sizes.ndim == nll.ndim == 1 and (np.diff(numbers) > 0).all() and (sizes > 0).all()):
                raise CorruptFile(f"{path} is damaged: its lists are not those of documents")
            return cls(str(values["text"]), str(values["tokenizer"]), numbers, sizes, nll)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptFile(f"{path} is damaged: {error!r}") from error


def text_fingerprint(fingerprints: Iterable[str]) -> str:
    """Return one fingerprint of a text that is made of several sources.

    Args:
        fingerprints: Fingerprint of the text of each source, in order. The tokenizer plays no part in them, so that
            models with different tokenizers can be compared on the same text.

    Examples:
        >>> text_fingerprint(["one", "two"]) == text_fingerprint(["two", "one"])
        False
    """
    return xxhash.xxh3_128_hexdigest("\n".join(fingerprints).encode())


@dataclass(frozen=True)
class LossComparison:
    """One model against another on the documents that both were evaluated on.

    Attributes:
        documents: Number of documents that both models were evaluated on.
        bytes: UTF-8 bytes of these documents.
        difference: Bits per byte of the other model minus those of the first, with a bootstrap interval over
            documents. Below zero, the other model is better.
        better: Number of documents that the other model predicts better.
        worse: Number of documents that the other model predicts worse.
        p_randomisation: Two-sided p-value of the paired randomisation test over documents.
    """

    documents: int
    bytes: int
    difference: Estimate
    better: int
    worse: int
    p_randomisation: float

    @property
    def enough(self) -> bool:
        """Whether there are enough documents to tell a difference from chance."""
        return self.documents >= FEWEST_DOCUMENTS

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        names = ("documents", "bytes", "better", "worse", "p_randomisation")
        return {"difference": self.difference.to_json(), **{name: getattr(self, name) for name in names}}


def why_not_comparable(one: DocumentLosses, other: DocumentLosses) -> str | None:
    """Return why two models cannot be compared document by document, as a clause, or None where they can be.

    Args:
        one: Document losses of the first model.
        other: Document losses of the other model.

    Examples:
        >>> losses = DocumentLosses("text", "tokenizer", np.array([0]), np.array([9]), np.array([3.0]))
        >>> why_not_comparable(losses, losses) is None
        True
    """
    if one.text != other.text:
        return "they were measured on different validation texts"
    if not len(np.intersect1d(one.numbers, other.numbers)):
        return "they were measured on different documents of the validation text"
    if not (np.isfinite(one.nll).all() and np.isfinite(other.nll).all()):
        return "a document's loss is not a number"
    return None


def compare_losses(one: DocumentLosses, other: DocumentLosses, *, seed: int = 0) -> LossComparison:
    """Compare two models on the documents that both were evaluated on.

    The unit of the bootstrap and of the test is the document, because the losses of tokens in one document are not
    independent. Bits per byte are a ratio of sums whose denominator both models share. Exchanging the models on a
    document therefore flips the sign of its difference in nats, and the randomisation test on the sum of differences
    is the test on the difference of the ratios.

    Args:
        one: Document losses of the first model.
        other: Document losses of the other model, for which `why_not_comparable` returns None.
        seed: Seed of the bootstrap and of the randomisation test.

    Examples:
        >>> numbers, sizes, nll = np.arange(6), np.full(6, 10), np.linspace(20.0, 30.0, 6)
        >>> first = DocumentLosses("text", "tokenizer", numbers, sizes, nll)
        >>> second = DocumentLosses("text", "tokenizer", numbers, sizes, nll - 1.0)
        >>> found = compare_losses(first, second)
        >>> found.better, round(found.difference.value, 3)
        (6, -0.144)
    """
    _, mine, theirs = np.intersect1d(one.numbers, other.numbers, return_indices=True)
    sizes, nats = one.bytes[mine], other.nll[theirs] - one.nll[mine]
    per_byte = ratio_estimates(nats, {"bytes": sizes}, seed=seed)["bytes"]
    return LossComparison(
        documents=len(mine),
        bytes=int(sizes.sum()),
        difference=per_byte.through(lambda value: value / math.log(2)),
        better=int((nats < 0).sum()),
        worse=int((nats > 0).sum()),
        p_randomisation=randomisation_test(nats, seed=seed),
    )
