"""How well a passage answers a query, by a teacher: raw scores, which differ by margins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lavra.core.disk.run_folder import is_run
from lavra.core.errors import InputError
from lavra.core.progress import Progress, quiet
from lavra.search.expansion.cache import ExpansionCache, key_of_content
from lavra.search.expansion.query_generator import fingerprint_of, weights_fingerprint
from lavra.search.experiment import sentence_models
from lavra.search.experiment.sentence_models import kind_of, open_sentence_model
from lavra.training.devices import choose_device
from lavra.vectors.protocols import TextEncoder
from lavra.workflows.embeddings.measure import trained_task
from lavra.workflows.embeddings.open_encoder import open_encoder
from lavra.workflows.labels.labeller import linear_at
from lavra.workflows.labels.pair_model import PairModel

COSINE_SCALE = 20.0
"""Number by which the cosines of an encoder are multiplied, so that they spread as raw scores do. It is one over the
temperature of MarginMSE: a pupil that learns the margins has the cosines of its teacher."""

_SCORED_AT_ONCE = 512
"""Pairs whose scores are stored together."""


class Teacher(Protocol):
    """Says how well a passage answers a query, as a raw score: differences of scores mean the same everywhere."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything on which a score depends besides the pair."""
        ...

    def raw_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the score of each pair, (pairs,); higher is better.

        Args:
            pairs: Queries with passages.
        """
        ...


class CrossEncoderTeacher:
    """A cross-encoder of sentence-transformers, without the activation that would flatten the differences.

    Args:
        folder: The folder of the model; nothing is downloaded.
        device: Device that computes: auto, cpu, cuda or mps.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._model = open_sentence_model(folder, "cross-encoder", choose_device(device))
        self.fingerprint = fingerprint_of("cross-encoder, raw", weights_fingerprint(self._model.model))

    def raw_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the score of each pair; see `Teacher`."""
        return np.asarray(sentence_models.pair_scores(self._model, pairs, raw=True), dtype=np.float64)


class EncoderTeacher:
    """An encoder of texts: the cosine of query and passage, times `COSINE_SCALE`.

    Args:
        encoder: Makes the vectors.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.fingerprint = fingerprint_of("cosines", encoder.fingerprint)

    def raw_scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the score of each pair; see `Teacher`."""
        queries = self._encoder.encode([query for query, _ in pairs], kind="query").astype(np.float64)
        passages = self._encoder.encode([passage for _, passage in pairs], kind="passage")
        return COSINE_SCALE * (queries * passages).sum(1)


def open_teacher(location: str, device: str = "auto") -> Teacher:
    """Open what says how well a passage answers a query.

    Args:
        location: A folder with a cross-encoder of sentence-transformers; a run on pairs of texts with labels or scores;
            or an encoder of texts, as `open_encoder` opens it.
        device: Device that computes: auto, cpu, cuda or mps.

    Raises:
        InputError: If there is no such model, or it was trained for labels of something else than pairs.
    """
    path = Path(location)
    if not is_run(path) and kind_of(path) == "cross-encoder":
        return CrossEncoderTeacher(path, device)
    if linear_at(location) is None and trained_task(path) in (None, "embedding"):
        return EncoderTeacher(open_encoder(location, device=device))
    try:
        return PairModel(location, device)
    except InputError as error:
        raise InputError(f"{location} cannot teach: {error.message}", error.remedy) from error


def teacher_scores(
    teacher: Teacher, pairs: Sequence[tuple[str, str]], cache: ExpansionCache, between: Callable[[], None]
) -> dict[tuple[str, str], float]:
    """Return the teacher's score of each pair, not a number where it has none.

    Args:
        teacher: The teacher.
        pairs: Queries with passages.
        cache: The cache, which is asked before anything is computed.
        between: Is called between blocks of pairs, whose scores are in the cache then; it may raise an error to stop.
    """
    name, found = teacher.fingerprint, dict[tuple[str, str], float]()
    different = list(dict.fromkeys(pairs))
    with Progress("scoring by the teacher", len(different), "pairs") as progress:
        computed = False
        for start in range(0, len(different), _SCORED_AT_ONCE):
            between()
            keys = {key_of_content("raw", name, *pair): pair for pair in different[start : start + _SCORED_AT_ONCE]}
            known = cache.get(list(keys))
            missing = {key: pair for key, pair in keys.items() if key not in known}
            if missing:
                with quiet(computed):  # what the teacher cuts off is said of the first pairs, and not again and again
                    made = teacher.raw_scores(list(missing.values())).tolist()
                new = {key: score if math.isfinite(score) else None for key, score in zip(missing, made, strict=True)}
                cache.put(new)
                known |= new
                computed = True
            found |= {keys[key]: math.nan if score is None else score for key, score in known.items()}
            done = start + len(keys)
            if computed:
                progress.update(done)
            else:
                progress.start_from(done)
    return found
