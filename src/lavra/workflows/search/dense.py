"""The dense side of search: opening the encoder of an index, and the model that ranks the results anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lavra.config.search import NO_VECTORS, DenseConfig
from lavra.core.disk.run_folder import is_run
from lavra.core.errors import InputError
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.index import Index
from lavra.search.reranking import Reranker
from lavra.search.searcher import RERANKED, Mode, Searcher
from lavra.vectors.protocols import TextEncoder

if TYPE_CHECKING:
    import torch


def vectorizer_for(index: Index | None, wanted: DenseConfig | None, device: str = "auto") -> Vectorizer | None:
    """Return what makes the vectors of an index: the encoder that is asked for, or that of the index.

    Args:
        index: The index as it is; None for a new one.
        wanted: What is asked for; None for the vectors that the index has.
        device: Device of the encoder: auto, cpu, cuda or mps.

    Returns:
        The vectorizer, None for an index without vectors. The encoder of the index is opened only when it is needed.

    Raises:
        InputError: If the index has vectors of another model, or there is no encoder for the form that is asked for.
    """
    asked = wanted or DenseConfig()
    held = index.dense_settings if index is not None else None
    if asked.model == NO_VECTORS:
        return None
    if not asked.model and held is None:
        if asked.store or asked.method:
            raise InputError("there are no vectors to store or to search", "name their encoder: --dense MODEL")
        return None
    if not asked.model:
        assert held is not None
        assert index is not None
        settings, place = _changed(held, asked), index.folder
        return Vectorizer(settings, lambda: encoder_of(settings, place, device=device))
    encoder = open_encoder(asked.model, device)
    settings = DenseSettings(_location(asked.model), encoder.fingerprint, encoder.dimensions)
    if held is not None and index is not None:
        if index.vectors is not None:  # before any document is read
            held.check_model(encoder.fingerprint, asked.model, index.folder)
        settings = replace(settings, store=held.store, method=held.method)
    return Vectorizer(_changed(settings, asked), lambda: encoder)


def searcher_for(
    index: Index,
    mode: Mode | Literal["auto"] = "auto",
    *,
    dense: str = "",
    dense_weight: float | None = None,
    rerank: str = "",
    rerank_depth: int = RERANKED,
    device: str = "auto",
) -> Searcher:
    """Return what searches an index as it is asked for.

    Args:
        index: The index.
        mode: How it is searched; "auto" is "hybrid" for an index with vectors, else "lexical".
        dense: The location of the encoder, where it is not that of the index.
        dense_weight: Weight of the vectors in a hybrid search; None fuses by reciprocal ranks.
        rerank: The location of a model that ranks the first results anew; an empty string for none.
        rerank_depth: Number of results that it reads.
        device: Device of the models: auto, cpu, cuda or mps.

    Raises:
        InputError: If the index has no vectors where they are asked for, or a model cannot be opened.
    """
    if mode == "auto":
        mode = "lexical" if index.vectors is None else "hybrid"
    if dense_weight is not None and mode != "hybrid":
        raise InputError(f"--dense-weight has no part in --mode {mode}", "leave it out, or give --mode hybrid")
    encoder = None
    if mode != "lexical" and index.vectors is not None:
        encoder = encoder_of(index.vectors.settings, index.folder, dense, device=device)
    return Searcher(
        index,
        mode,
        encoder,
        weight=dense_weight,
        reranker=open_reranker(rerank, device) if rerank else None,
        rerank_depth=rerank_depth,
    )


def encoder_of(settings: DenseSettings, place: Path, location: str = "", *, device: str = "auto") -> TextEncoder:
    """Open the encoder of the vectors of an index.

    Args:
        settings: The settings of the vectors.
        place: The folder of the index, for messages.
        location: The location of the encoder where it has moved; that of the settings by default.
        device: Device that holds it and computes: auto, cpu, cuda or mps.

    Raises:
        InputError: If it cannot be opened, or is another model.
    """
    try:
        encoder = open_encoder(location or settings.model, device)
    except InputError as error:
        if location:
            raise
        raise InputError(
            f"the encoder of the vectors of {place} cannot be opened: {error.message}",
            "say where it is with --dense MODEL, or do without the vectors: `lavra search --mode lexical`, "
            "`lavra index --dense none`",
        ) from error
    settings.check_model(encoder.fingerprint, location or settings.model, place)
    return encoder


def open_encoder(location: str, device: str = "auto") -> TextEncoder:
    """Open an encoder of texts.

    Args:
        location: Its location.
        device: Device that holds it and computes: auto, cpu, cuda or mps.
    """
    from lavra.workflows.embeddings import open_encoder as encoders  # torch takes seconds; words alone need none of it

    return encoders.open_encoder(location, device=device)


def open_reranker(location: str, device: str = "auto") -> Reranker:
    """Open a model that scores a passage for a query.

    Args:
        location: A folder with a cross-encoder of sentence-transformers, or a run of lavra that was trained on pairs of
            texts with labels or scores.
        device: Device that holds it and computes: auto, cpu, cuda or mps.

    Raises:
        InputError: If there is no such model.
    """
    from lavra.search.experiment.sentence_models import kind_of
    from lavra.search.reranking import CrossEncoderReranker

    if not is_run(Path(location)) and kind_of(Path(location)) == "cross-encoder":
        return CrossEncoderReranker(Path(location), _device(device))
    from lavra.workflows.search.pair_reranker import PairReranker

    return PairReranker(location, device)


def _changed(settings: DenseSettings, asked: DenseConfig) -> DenseSettings:
    return replace(settings, store=asked.store or settings.store, method=asked.method or settings.method)


def _location(model: str) -> str:
    """Return the location of a model by which it is found again from another folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _device(name: str) -> torch.device:
    from lavra.training.devices import choose_device  # torch takes seconds to import, and searching needs none of it

    return choose_device(name)
