"""Static vectors as a model that learns: an encoder without blocks, whose features are the vectors of the tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.native.building import decoder_of
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec
from lavra.vectors.reading import Prompts
from lavra.vectors.sentence_folder import is_sentence_folder, read_sentence_folder
from lavra.vectors.static import StaticEncoder, read_static
from lavra.workflows.models.open import OpenModel

_CONTEXT = 512
"""Most tokens of a text while it learns."""

_RATE = 0.02
"""AdamW's rate for static vectors, relative to the root mean square of their numbers."""


def open_static(location: str) -> OpenModel | None:
    """Return static vectors as a model that learns; None where the location holds none.

    The sum over a text has only the tokens that the text has: the tokenizer puts none around it, and the token that
    ends it has a vector of zeros, which stays so. Its vectors are those of the folder then.

    Args:
        location: The folder of static vectors.
    """
    folder = Path(location)
    if not is_sentence_folder(folder):
        return None
    static = read_sentence_folder(folder).static
    if static is None:
        return None
    read = read_static(static)
    tokenizer = _bare(read.tokenizer)
    spec = DecoderSpec(
        architecture="encoder",
        vocabulary=tokenizer.vocabulary_size,
        context=_CONTEXT,
        depth=0,
        width=read.dimensions,
        heads=1,
        positions="none",
        final_norm=False,
        embedding_norm=False,
        silent=tokenizer.end_of_document,
        tied=True,
    )
    model = decoder_of(spec).eval()
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.weight[: spec.vocabulary] = read.table[: spec.vocabulary]
        model.embedding.weight[spec.silent] = 0.0
    return OpenModel(model, tokenizer, location, None)


def is_static(model: object) -> bool:
    """Return whether a model is one of static vectors.

    Args:
        model: Any model.
    """
    return isinstance(model, Decoder) and not model.spec.depth


def rate_of_static(model: Decoder) -> float:
    """Return the usual rate of AdamW for static vectors, which is relative to the size of their numbers.

    Args:
        model: What `open_static` made.
    """
    table = model.embedding.weight.detach()
    rows = table[(table != 0).any(1)]
    return _RATE * float(rows.square().mean().sqrt()) if len(rows) else _RATE


def static_of(model: Decoder, tokenizer: Tokenizer, prompts: Prompts, *, normalise: bool) -> StaticEncoder:
    """Return the static vectors that a model has learned.

    Args:
        model: A model of `open_static`, trained.
        tokenizer: Its tokenizer.
        prompts: What is put before the texts of each kind.
        normalise: Whether the vectors of texts have length 1.
    """
    table = model.embedding.weight.detach()[: model.spec.vocabulary].float().cpu().clone()
    return StaticEncoder(table, tokenizer, prompts=prompts, normalise=normalise)


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that puts no tokens around texts."""
    from tokenizers import Tokenizer as Library

    description = json.loads(tokenizer.serialised)
    description["post_processor"] = None
    return Tokenizer(Library.from_str(json.dumps(description, ensure_ascii=False)), tokenizer.end_of_document_token)
