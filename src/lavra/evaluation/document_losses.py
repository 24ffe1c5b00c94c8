"""The loss of every document that was measured, kept so that two models can be compared on the same documents."""

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
from lavra.core.errors import Damaged
from lavra.evaluation.intervals import FEWEST_DOCUMENTS, Estimate, ratio_estimates
from lavra.evaluation.significance import randomisation_test

DOCUMENT_LOSSES = "document_losses.json"
"""The file of a run folder that holds those of its final evaluation."""

_FORMAT = 1


@dataclass(frozen=True)
class DocumentLosses:
    """The loss of each measured document of one text.

    Attributes:
        text: fingerprint of the text of which these are documents; see `text_fingerprint`.
        tokenizer: fingerprint of the tokenizer; losses per token compare only where it is the same.
        numbers: (documents,) the number of each document in that text, growing.
        bytes: (documents,) UTF-8 bytes of the original.
        nll: (documents,) negative log-likelihood in nats, the end of the document included.
    """

    text: str
    tokenizer: str
    numbers: NDArray[np.int64]
    bytes: NDArray[np.int64]
    nll: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.numbers)

    def save(self, path: Path) -> None:
        """Write the losses as JSON, atomically."""
        lists = {"documents": self.numbers.tolist(), "bytes": self.bytes.tolist(), "nats": self.nll.tolist()}
        values = {"format_version": _FORMAT, "text": self.text, "tokenizer": self.tokenizer, **lists}
        write_atomically(path, one_line(values) + "\n")

    @classmethod
    def load(cls, path: Path) -> DocumentLosses:
        """Read losses back.

        Raises:
            Damaged: if the file is missing, does not parse, or was written by a later version.
        """
        values = read_json(path)
        try:
            if values["format_version"] != _FORMAT:
                raise Damaged(f"{path} has format version {values['format_version']}, and this lavra reads {_FORMAT}")
            lists = (values["documents"], values["bytes"], values["nats"])
            if len({len(one) for one in lists}) != 1:
                raise Damaged(f"{path} is damaged: its lists differ in length")
            numbers, sizes = (np.asarray(one, dtype=np.int64) for one in lists[:2])
            nll = np.asarray(lists[2], dtype=np.float64)
            if not (numbers.ndim == sizes.ndim == nll.ndim == 1 and (np.diff(numbers) > 0).all() and (sizes > 0).all()):
                raise Damaged(f"{path} is damaged: its lists are not those of documents")
            return cls(str(values["text"]), str(values["tokenizer"]), numbers, sizes, nll)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Damaged(f"{path} is damaged: {error!r}") from error


def text_fingerprint(fingerprints: Iterable[str]) -> str:
    """Return one fingerprint of a text from those of its sources, in order; no tokenizer plays a part in it."""
    return xxhash.xxh3_128_hexdigest("\n".join(fingerprints).encode())


@dataclass(frozen=True)
class LossComparison:
    """One model against another on the documents that both were measured on.

    Attributes:
        documents: in common.
        bytes: of these documents.
        difference: bits per byte of the other model less those of the first, with its bootstrap interval over
            documents; below zero the other is better.
        better: documents that the other model predicts better.
        worse: documents that it predicts worse.
        p_randomisation: two-sided p-value of the paired randomisation test over documents.
    """

    documents: int
    bytes: int
    difference: Estimate
    better: int
    worse: int
    p_randomisation: float

    @property
    def enough(self) -> bool:
        """Whether there are documents enough to tell anything from chance."""
        return self.documents >= FEWEST_DOCUMENTS

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        names = ("documents", "bytes", "better", "worse", "p_randomisation")
        return {"difference": self.difference.to_json(), **{name: getattr(self, name) for name in names}}


def why_not_comparable(one: DocumentLosses, other: DocumentLosses) -> str | None:
    """Return why two measurements cannot be compared document by document, or None where they can."""
    if one.text != other.text:
        return "they were measured on different held-out text"
    if not len(np.intersect1d(one.numbers, other.numbers)):
        return "they were measured on different documents of the held-out text"
    if not (np.isfinite(one.nll).all() and np.isfinite(other.nll).all()):
        return "a document's loss is not a number"
    return None


def compare_losses(one: DocumentLosses, other: DocumentLosses, *, seed: int = 0) -> LossComparison:
    """Compare two models on the documents that both were measured on (`why_not_comparable` gives None).

    Documents are the unit: the tokens of one document are no independent witnesses. Bits per byte are a ratio of sums,
    and both models share the bytes, so that exchanging the models on a document flips the sign of its difference in
    nats: the randomisation test of the sums is the test of the difference of the ratios.
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
