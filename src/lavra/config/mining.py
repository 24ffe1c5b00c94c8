"""The options of `lavra mine`: rows to train an encoder or a reranker on, from pairs or from documents alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from lavra.config.flags import Common, shown
from lavra.config.reading import ReadingConfig


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """The mining of hard negatives.

    Examples:
        >>> from lavra.config.mining import MineConfig
        >>> MineConfig(data=("pairs.jsonl",), model="models/e5").out
        'mined.jsonl'
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="DATA…")]
    """Pairs of a query and a passage, named as for training vectors; with --generator, documents of any kind."""
    out: Annotated[str, Common, shown(metavar="FILE")] = "mined.jsonl"
    """The file of rows, which `lavra train` takes; FILE.provenance.json beside it says how they were made."""
    model: Annotated[str, Common, shown(metavar="MODEL")] = ""
    """Encoder by whose vectors near texts are found beside BM25: as a rule the one that is to be trained."""
    generator: Annotated[str, Common, shown(metavar="MODEL")] = ""
    """Query generator that writes queries for DATA, which are documents then: a run of `lavra doc2query train`, or a
    model as for `lavra expand`."""
    teacher: Annotated[str, Common, shown(metavar="MODEL")] = ""
    """What says by how much a passage answers better than another, as a margin: a cross-encoder, a run on pairs of
    texts, or an encoder."""
    rows: Annotated[Literal["groups", "pairs"], Common] = "groups"
    """What the rows are: query, passage and negatives, for an encoder (groups); or text1, text2 and a label, relevant
    or other, for a reranker (pairs). With a teacher, groups have a margin for each negative, and pairs a score."""
    queries: Annotated[int, Common] = 3
    """Number of queries for each passage; more than one are sampled."""
    negatives: Annotated[int, Common] = 4
    """Most negatives of a query."""
    depth: int = 50
    """Number of texts that are looked at for each query, by BM25 and by the vectors."""
    margin: float = 0.05
    """Share by which a negative has to be less similar to the query than the right text is, because nearer ones may be
    answers too. With a teacher near texts are kept, whose margins are small then."""
    by: tuple[Literal["bm25", "model"], ...] = ("bm25", "model")
    """What finds near texts; without --model it is BM25 alone."""
    consistent: Annotated[int, shown(metavar="K")] = 0
    """Keep a query only if its own passage is among the first K that are found for it (round-trip consistency), by the
    vectors where there are some; 0 keeps all."""
    most: Annotated[int | None, Common, shown(metavar="N")] = None
    """Most passages for which queries are written, drawn at random; all are searched for negatives."""
    chunk_tokens: Annotated[int, Common] = 0
    """Documents are cut into passages of whole sentences of at most this many tokens; 0 takes as many as the generator
    can read."""
    passages: Annotated[tuple[str, ...], shown(metavar="DATA…")] = ()
    """Further texts among which negatives are looked for."""
    cache: Annotated[str, shown(metavar="FOLDER")] = ""
    """Folder that keeps queries, vectors and scores, so that nothing is computed twice; FILE.cache by default."""
    device: Annotated[str, Common, shown(metavar="DEVICE")] = "auto"
    """Device that computes: auto, cpu, cuda, cuda:1 or mps."""
    seed: int = 0
    """Seed of the queries, and of the draw of passages."""
    force: Annotated[bool, Common] = False
    """Replace a file of rows that was made with other options."""
    text: ReadingConfig = field(default_factory=ReadingConfig)
