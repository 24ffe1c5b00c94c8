"""The options of training vectors of texts.

The module does not import torch, so that the command line's help is quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lavra.config.flags import shown


@dataclass(frozen=True)
class EmbeddingConfig:
    """How vectors of texts are learned, with `--task embedding`.

    Examples:
        >>> from lavra.config.embedding import EmbeddingConfig
        >>> EmbeddingConfig(query_prompt="query: ", passage_prompt="passage: ").deleted
        0.6
    """

    batch: int | None = None
    """Rows of an optimiser step: 256 pairs, or 64 scored pairs or texts, by default, and fewer where the time is short.
    Memory holds a few at a time (gradient cache), whatever the number."""
    temperature: float = 0.05
    """Number by which cosines are divided in the losses that compare them (contrastive, cosent, simcse, margin-mse)."""
    symmetric: bool = True
    """Let the second texts recognise the first ones too, in the contrastive loss; --embedding.no-symmetric does not."""
    matryoshka: Annotated[tuple[int, ...], shown("--matryoshka", metavar="N…")] = ()
    """Numbers of first dimensions that are to be a vector of their own, such as 384 192 96; the whole vector is learned
    if it is one of them."""
    query_prompt: Annotated[str | None, shown("--query-prompt", metavar="TEXT")] = None
    """Text before each query, or first text; by default what the model's own settings say, else nothing."""
    passage_prompt: Annotated[str | None, shown("--passage-prompt", metavar="TEXT")] = None
    """Text before each passage, or second text and negative; by default what the model's own settings say."""
    text_prompt: Annotated[str | None, shown("--text-prompt", metavar="TEXT")] = None
    """Text before scored pairs and bare texts, which are compared with their like; by default that of the model."""
    deleted: float = 0.6
    """Share of the words that are deleted before a text is to be written again (tsdae)."""
    normalise: bool | None = None
    """Whether vectors have length 1; by default they have, unless the model's own settings say otherwise."""
