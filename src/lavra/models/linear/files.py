"""The files of a linear model: `linear.safetensors` holds its numbers, and `linear.json` everything else.

The model opens without its training data, and gives the same probabilities to the bit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.errors import CorruptFile, InputError
from lavra.models.linear.features import Features
from lavra.models.linear.model import LinearModel
from lavra.models.linear.solvers import needed
from lavra.text.tfidf import TfIdf

FORMAT = 1
"""Version of the files' layout."""

DESCRIPTION, NUMBERS = "linear.json", "linear.safetensors"
"""Names of the two files."""

_AGAIN = "train the model again, or bring the folder back from a copy"


def save_linear(folder: Path, model: LinearModel) -> None:
    """Write a model into a folder, as two files; the description, which names the other's hash, comes last.

    Args:
        folder: The folder, which is made where it is missing.
        model: The model.
    """
    from safetensors.numpy import save

    features = model.features
    content = save(
        {
            "weights": model.weights,
            "biases": model.biases,
            "idf": features.tfidf.idf,
            "pair_means": features.means,
            "pair_scales": features.scales,
        }
    )
    write_atomically(folder / NUMBERS, content)
    write_json(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "kind": model.kind,
            "classes": list(model.classes),
            "pairs": features.pairs,
            "spread": model.spread,
            "strength": model.strength,
            "chosen_from": [[strength, loss] for strength, loss in model.chosen_from.items()],
            "notes": list(model.notes),
            "hash": _hash(content),
            "words": features.tfidf.words,
            "ngrams": features.tfidf.ngrams,
        },
    )


def is_linear(folder: Path) -> bool:
    """Return whether a folder holds a linear model."""
    return (folder / DESCRIPTION).is_file()


def load_linear(folder: Path) -> LinearModel:
    """Return the model in a folder.

    Args:
        folder: A folder that `save_linear` wrote.

    Raises:
        CorruptFile: If a file is missing, damaged, or of another model than the other file.
        InputError: If another version of lavra wrote it, or SciPy is not installed.
    """
    needed("scipy.sparse")
    told = read_json(folder / DESCRIPTION)
    version = told.get("format") if isinstance(told, dict) else None
    if version is not None and version != FORMAT:
        raise InputError(f"{folder} has the layout {version!r} of another version of lavra", "train the model again")
    try:
        content = (folder / NUMBERS).read_bytes()
        if _hash(content) != told["hash"]:
            raise CorruptFile(f"{folder / NUMBERS} is damaged, or belongs to another {DESCRIPTION}", _AGAIN)
        return _model(told, content)
    except OSError as error:
        raise CorruptFile(f"{folder / NUMBERS} cannot be read: {error.strerror}", _AGAIN) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{folder / DESCRIPTION} is damaged: {type(error).__name__} {error}", _AGAIN) from error


def _model(told: dict[str, Any], content: bytes) -> LinearModel:
    from safetensors.numpy import load

    numbers = load(content)
    tfidf = TfIdf(told["words"], told["ngrams"], numbers["idf"])
    features = Features(tfidf, bool(told["pairs"]), numbers["pair_means"], numbers["pair_scales"])
    weights, biases = numbers["weights"], numbers["biases"]
    if len(tfidf.idf) != len(tfidf) or weights.shape != (len(features), len(biases)):
        raise ValueError(f"{len(features)} features have {weights.shape} weights")
    spread = float(told["spread"])
    if not math.isfinite(spread) or not np.isfinite(weights).all():
        raise ValueError("a number is not finite")
    return LinearModel(
        kind=told["kind"],
        classes=tuple(told["classes"]),
        features=features,
        weights=weights,
        biases=biases,
        spread=spread,
        strength=float(told["strength"]),
        chosen_from={float(strength): float(loss) for strength, loss in told["chosen_from"]},
        notes=tuple(told["notes"]),
    )


def _hash(content: bytes) -> str:
    import xxhash

    return xxhash.xxh3_64_hexdigest(content)
