"""The proof that an encoder of texts and an exported folder of sentence-transformers give the same vectors."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import LavraError
from lavra.models import sentence_reference
from lavra.models.certificate import TOLERANCE, Proof


@dataclass(frozen=True)
class VectorCertificate(Proof):
    """The result of comparing vectors with those of a folder of sentence-transformers.

    Attributes:
        modules: Names of the modules that sentence-transformers opened, joined by " → ".
        texts: Number of texts, over all kinds.
        kinds: Kinds of texts, each with its own prompt.
        dimensions: Size of a vector.
        largest_difference: Largest absolute difference between two numbers of a vector.
        largest_number: Largest absolute number of a vector.
        least_cosine: Least cosine between two vectors of one text.
        sentence_transformers: Version of sentence-transformers.
        transformers: Version of `transformers`.
        torch: Version of torch.
        missing: Empty: sentence-transformers refuses a folder in which something is missing.
        unexpected: Empty, as `missing`.
        lost: Empty: the prompts of all kinds are compared by the vectors.
    """

    modules: str
    texts: int
    kinds: tuple[str, ...]
    dimensions: int
    largest_difference: float
    largest_number: float
    least_cosine: float
    sentence_transformers: str
    transformers: str
    torch: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        """Largest difference between two numbers that is allowed."""
        return TOLERANCE * max(1.0, self.largest_number)

    @property
    def holds(self) -> bool:
        """Whether both give the same vectors."""
        return self.complete and self.largest_difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"certificate: {'the same vectors' if self.holds else 'NOT the same vectors'} in sentence-transformers "
            f"{self.sentence_transformers} ({self.modules})\n"
            f"  the vectors of {self.texts} texts, read as {', '.join(self.kinds)}, differ by at most "
            f"{self.largest_difference:.2e} (allowed {self.tolerance:.2e}); least cosine {self.least_cosine:.6f}"
        )


def demand_sentence_transformers() -> None:
    """Raise an error unless sentence-transformers is installed.

    Raises:
        LavraError: If it is not.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise LavraError(
            "an exported folder is opened by sentence-transformers to compare the vectors, and it is not installed",
            "pip install 'lavra[dense]'",
        )


def certify_vectors(
    ours: Mapping[str, NDArray[np.float32]], folder: Path, texts: Mapping[str, Sequence[str]]
) -> VectorCertificate:
    """Compare vectors with those of a folder that sentence-transformers opens in a fresh process.

    Args:
        ours: The vectors of the texts of each kind, (texts, dimensions).
        folder: Folder of sentence-transformers. Its model computes in float32.
        texts: The texts of each kind.

    Raises:
        LavraError: If the other process fails; the message has the last line of its output.
    """
    from safetensors.numpy import load_file

    with scratch_folder() as temporary:
        request, out = Path(temporary) / "texts.json", Path(temporary) / "vectors.safetensors"
        write_json(request, {kind: list(some) for kind, some in texts.items()})
        command = [
            sys.executable,
            "-P",
            str(sentence_reference.__file__),
            str(folder.resolve()),
            str(request),
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it ended without a word"]
            raise LavraError(
                f"sentence-transformers could not run the model in {folder}: {last[0]}", "report this with the model"
            )
        theirs, found = load_file(out), read_json(Path(f"{out}.json"))
    one, other = (np.concatenate([side[kind] for kind in texts]).astype(np.float64) for side in (ours, theirs))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return VectorCertificate(
        modules=" → ".join(found["modules"]),
        texts=len(one),
        kinds=tuple(texts),
        dimensions=one.shape[1],
        largest_difference=float(np.abs(one - other).max()),
        largest_number=float(np.abs(other).max()),
        least_cosine=float(((one * other).sum(1) / np.maximum(lengths, 1e-12)).min()),
        sentence_transformers=found["sentence_transformers"],
        transformers=found["transformers"],
        torch=found["torch"],
    )
