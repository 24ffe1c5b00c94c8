"""Resizing of embedding and head for another number of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.spec import VOCABULARY_MULTIPLE
from lavra.models.transforms.base import root_of


@dataclass(frozen=True)
class ResizeVocabulary:
    """Resizes embedding and head to another vocabulary, padded to a multiple of 64 rows; a tied head stays tied.

    Rows that exist before and after are kept, and new rows are zero. They must be filled afterwards:
    `lavra.models.transforms.vocabulary.swap_vocabulary` does so for training, and saved weights replace them later.

    Attributes:
        vocabulary: Number of tokens of the new vocabulary.
    """

    vocabulary: int

    def apply(self, model: nn.Module) -> None:
        """Resize embedding and head.

        Args:
            model: Model to change in place.

        Raises:
            InputError: If the vocabulary is empty, or the embedding of the model cannot be resized.
        """
        if self.vocabulary < 1:
            raise InputError(f"a vocabulary of {self.vocabulary} tokens is no vocabulary")
        from lavra.models.native.decoder import Decoder

        root = root_of(model)
        if isinstance(root, Decoder):
            _resize_decoder(root, self.vocabulary)
        else:
            _resize_transformers(root, self.vocabulary)

    def merge(self, model: nn.Module) -> None:
        """Change nothing, because the model keeps its new vocabulary.

        Args:
            model: Model that `apply` changed.
        """


def padded(vocabulary: int) -> int:
    """Return the number of rows for a vocabulary, which is rounded up to a multiple of 64.

    Args:
        vocabulary: Number of tokens.

    Examples:
        >>> padded(100)
        128
    """
    return -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _resize_decoder(decoder: Any, vocabulary: int) -> None:
    decoder.spec = replace(decoder.spec, vocabulary=vocabulary)
    rows = decoder.spec.padded_vocabulary
    decoder.embedding.weight = _resized(decoder.embedding.weight, rows)
    decoder.embedding.num_embeddings = rows
    decoder.output.weight = decoder.embedding.weight if decoder.spec.tied else _resized(decoder.output.weight, rows)
    if decoder.output.bias is not None:
        decoder.output.bias = _resized(decoder.output.bias, rows)
    decoder.output.out_features = rows


def _resized(weight: nn.Parameter, rows: int) -> nn.Parameter:
    resized = weight.new_zeros(rows, *weight.shape[1:])
    kept = min(rows, weight.shape[0])
    with torch.no_grad():
        resized[:kept] = weight[:kept]
    return nn.Parameter(resized, requires_grad=weight.requires_grad)


def sides_of(root: Any) -> list[Any]:
    """Return the models whose embeddings are resized one by one: both sides of an encoder-decoder that was made of two
    models, else the model itself.

    Args:
        root: Model of `transformers`.
    """
    made_of_two = getattr(getattr(root, "config", None), "model_type", "") == "encoder-decoder"
    return [root.encoder, root.decoder] if made_of_two else [root]


def _resize_transformers(root: Any, vocabulary: int) -> None:
    for side in sides_of(root):
        _resize_side(side, padded(vocabulary))


def _resize_side(root: Any, rows: int) -> None:
    head = root.get_output_embeddings()
    apart = None if head is None or head.weight is root.get_input_embeddings().weight else head.weight
    try:
        root.resize_token_embeddings(rows, mean_resizing=False)
    except (AttributeError, NotImplementedError) as error:
        raise InputError(f"the vocabulary of {type(root).__name__} cannot be changed: {error}") from error
    head = root.get_output_embeddings()
    if apart is not None and head.weight is root.get_input_embeddings().weight:
        # The library ties head and embedding where its configuration says so, but T5 1.1 and FLAN-T5 say so and have a
        # head of their own all the same.
        head.weight = _resized(apart, rows)
