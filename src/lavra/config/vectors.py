"""The options of `lavra embed`: vectors of the texts of files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.flags import Common, shown
from lavra.config.inference import InferenceConfig
from lavra.config.reading import ReadingConfig


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(InferenceConfig):
    """Vectors for the texts of files.

    Examples:
        >>> from lavra.config.vectors import EmbedConfig
        >>> EmbedConfig(model="runs/encoder", data=("news.jsonl",), out="news.npy").kind
        'text'
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="DATA…")]
    """The texts: files, folders, globs or `-`. The id of a row is its column id, _id, docno, doc_id, docid or pid, else
    the place where it stands."""
    out: Annotated[str, Common, shown(metavar="VECTORS")]
    """Where the vectors go: NAME.npy (with ids in files beside it), NAME.parquet, or a folder with the same."""
    kind: Annotated[Literal["text", "query", "passage"], Common] = "text"
    """What the texts are: query or passage for search, text for texts that are compared with their like. A model that
    was trained with prompts, as E5 was, puts another one before each."""
    prompt: Annotated[str | None, shown(metavar="TEXT")] = None
    """What is put before each text, in place of the model's own prompt; '' for nothing."""
    dimensions: Annotated[int | None, Common, shown(metavar="N")] = None
    """Keep the first N numbers of each vector, for models that were trained so that these suffice (matryoshka)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Type of the weights; auto takes what the device multiplies fastest."""
    extend: Annotated[bool, Common] = False
    """Add the rows that VECTORS lacks, and replace those whose text has changed; rows are known by their ids."""
    force: Annotated[bool, Common] = False
    """Replace VECTORS."""
    cache: Annotated[str, shown(metavar="FILE")] = ""
    """File that keeps each vector under its text and its model, so that no text is read twice; VECTORS.cache by
    default."""
    text: ReadingConfig = field(default_factory=ReadingConfig)
