"""Exporting an encoder of texts as static vectors, distilled on the user's text, with the proof of the same vectors."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lavra.core.disk.building import building_folder
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable, was_made_by
from lavra.core.errors import InputError
from lavra.core.progress import Progress, log
from lavra.core.units import counted
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import OnBadRow
from lavra.models.certificate import FILE
from lavra.models.native.decoder import Decoder
from lavra.models.vector_certificate import demand_sentence_transformers
from lavra.vectors.distilling import (
    principal_components,
    sif_weights,
    special_tokens,
    token_frequencies,
    tuned,
)
from lavra.vectors.encoder import NetworkEncoder
from lavra.vectors.static import StaticEncoder
from lavra.workflows.embeddings.open_encoder import EncoderParts, encoder_of, open_parts
from lavra.workflows.export.sentence_transformers import (
    COMPARED_TEXTS,
    VectorExport,
    certified,
    compared_texts,
    read_export,
)
from lavra.workflows.models.static_base import is_static, static_of

DIMENSIONS = 256
"""Size of the vectors where none is asked for, or the width of the model if that is less."""

TUNED_TEXTS = 20_000
"""Most texts whose vectors by the encoder are used to tune those of the tokens."""


def export_static(
    model: str,
    out: str | Path,
    data: list[str],
    *,
    dimensions: int | None = None,
    tune: int = TUNED_TEXTS,
    device: str = "auto",
    text_column: str = "text",
    on_bad_row: OnBadRow = "skip",
    encoding: str | None = None,
    force: bool = False,
) -> VectorExport:
    """Distil an encoder into static vectors (see `lavra.vectors.distilling`), and write them as a folder.

    Of a run that trained static vectors, these are written as they are.

    The folder is opened by `open_encoder`, and by sentence-transformers in a fresh process, whose vectors are compared.

    Args:
        model: The location of the encoder, as for `open_encoder`.
        out: The folder to write.
        data: Locations of texts like those that will be embedded: their tokens are counted, and the vectors tuned on
            them.
        dimensions: Size of the vectors; `DIMENSIONS` if None.
        tune: Most texts on which the vectors are tuned; 0 leaves that out.
        device: Device that computes the vectors of the encoder.
        text_column: Column of the data that holds the text.
        on_bad_row: What to do with rows that cannot be used.
        encoding: Encoding of the files; None recognises it.
        force: Whether an existing folder is replaced.

    Returns:
        What was exported, with the comparison.

    Raises:
        InputError: If there is no such model or no text, or fewer dimensions than asked for.
        CheckFailed: If sentence-transformers gives other vectors.
        LavraError: If sentence-transformers is not installed.
    """
    out = Path(out)
    demand_sentence_transformers()
    check_replaceable(out, force=force or (out / FILE).exists(), inputs=[model, *data])
    parts = open_parts(model)
    if isinstance(parts.model, Decoder) and is_static(parts.model):
        return _as_they_are(parts, parts.model, out, compared_texts(data, text_column, on_bad_row, encoding), force)
    if not data:
        raise InputError(
            "static vectors are weighted by how frequent the tokens of your text are, and no text was given",
            "name text like that which you will embed: --data TEXT…",
        )
    rows = read_rows(data, text_column=text_column, on_bad_row=on_bad_row, encoding=encoding, wanted=())
    texts = list(dict.fromkeys(row.text for row in rows))
    size = dimensions or min(DIMENSIONS, parts.size)
    if not 1 <= size <= parts.size:
        raise InputError(
            f"{model} makes vectors of {parts.size:,} dimensions, not of {size:,}", f"choose 1 to {parts.size}"
        )
    # The static vectors have no prompts: a mean over tokens would only be shifted by them.
    request = one_line([version("lavra"), "static", parts.fingerprint(parts.size), size, tune, len(texts), texts[:100]])
    if not force and was_made_by(out, request):
        log(f"{out} holds this export already, whole")
        return read_export(out, "static")
    encoder = encoder_of(parts, device=device, dimensions=parts.size)
    encoder.normalise = False
    static, kept = distil(encoder, texts, size, tune)
    facts = {
        "dimensions": size,
        "tokens": len(static.table),
        "variance_kept": kept,
        "texts": len(texts),
        "tuned_on": min(tune, len(texts)),
        "of": model,
    }
    with building_folder(out, request=request, force=force, inputs=[model, *data], kind="exported model") as building:
        static.save(building)
        return certified(static, building, out, "static", texts[:COMPARED_TEXTS], facts)


def _as_they_are(parts: EncoderParts, model: Decoder, out: Path, texts: list[str], force: bool) -> VectorExport:
    """Write static vectors that were trained, which there is nothing to distil of."""
    request = one_line([version("lavra"), "static", parts.fingerprint(parts.size), texts])
    if not force and was_made_by(out, request):
        log(f"{out} holds this export already, whole")
        return read_export(out, "static")
    if parts.about != {"pooling": "mean", "layers": 0}:
        raise InputError(
            f"the vectors of {parts.place} are no plain means of the vectors of tokens", "train it with mean pooling"
        )
    static = static_of(model, parts.tokenizer, parts.prompts, normalise=parts.normalise)
    facts = {"dimensions": static.dimensions, "tokens": len(static.table), "of": parts.place}
    with building_folder(out, request=request, force=force, inputs=[parts.place], kind="exported model") as building:
        static.save(building)
        return certified(static, building, out, "static", texts, facts)


def distil(encoder: NetworkEncoder, texts: list[str], dimensions: int, tune: int) -> tuple[StaticEncoder, float]:
    """Return static vectors of an encoder, and the share of the variance that their dimensions keep.

    Args:
        encoder: The encoder.
        texts: Texts like those that will be embedded.
        dimensions: Size of the vectors.
        tune: Most texts on which the vectors are tuned.
    """
    tokenizer = encoder.reading.tokenizer
    ids = tokenizer.encode_many(texts)
    vectors = _token_vectors(encoder)
    special = special_tokens(tokenizer)
    real = np.setdiff1d(np.arange(len(vectors)), special)
    projection = principal_components(vectors[real], dimensions)
    counts = token_frequencies(ids, len(vectors))
    log(
        f"{counted(int((counts > 0).sum()), 'token')} of {len(real):,} occur in {counted(len(texts), 'text')}; "
        f"{dimensions:,} of {vectors.shape[1]:,} dimensions keep {projection.share:.0%} of their variance"
    )
    table = projection.apply(vectors) * sif_weights(counts)[:, None]
    table[special] = 0.0
    if tune and texts:
        some = _spread(len(texts), tune)
        targets = encoder.encode([texts[number] for number in some])
        targets = _like(table, [ids[number] for number in some], projection.apply(targets))
        table = tuned(table, [ids[number] for number in some], targets)
        table[special] = 0.0
    return StaticEncoder(torch.from_numpy(table), tokenizer), projection.share


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return the numbers of texts, spread evenly over all."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _like(table: NDArray[np.float32], ids: list[np.ndarray], targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return targets of the length that the means of the table have on average, so that only directions are learned."""
    lengths = [np.linalg.norm(table[one].mean(0)) for one in ids if len(one)]
    targets = targets - targets.mean(0)
    norms = np.linalg.norm(targets, axis=1, keepdims=True)
    return targets / np.maximum(norms, 1e-9) * np.float32(np.mean(lengths))


def _token_vectors(encoder: NetworkEncoder) -> NDArray[np.float32]:
    """Return what the encoder makes of each token by itself, (vocabulary, width)."""
    reading = encoder.reading
    size = reading.tokenizer.vocabulary_size
    vectors = np.empty((size, encoder.dimensions), np.float32)
    ids = [np.array([*reading.begin, number, *reading.end], np.int64) for number in range(size)]
    with Progress("reading the vocabulary", size, "tokens") as progress:
        for numbers, of_batch in encoder.batches(ids):
            vectors[numbers] = of_batch
            progress.advance(len(numbers))
    return vectors
