"""Queries for documents that nobody has asked about: documents become passages, and a generator asks about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lavra.config.mining import MineConfig
from lavra.config.search import ExpandConfig
from lavra.core.errors import InputError
from lavra.core.progress import Progress, log
from lavra.core.seeds import numpy_stream
from lavra.core.units import counted
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import BeirCollection, open_collection
from lavra.search.expansion.cache import ExpansionCache
from lavra.search.expansion.expand import Expander
from lavra.workflows.embeddings.mining import Pair
from lavra.workflows.search.expand import check_compatibility
from lavra.workflows.search.query_generators import open_query_generator

EMPTY = "empty queries, which the generator ended at once"
"""Why a query is left out."""
TWICE = "queries that the generator had written for the same passage already"

_SAMPLE = 500
"""Passages on which language and vocabulary of the generator are checked before it starts."""


def generated_pairs(
    config: MineConfig, cache: ExpansionCache, between: Callable[[], None], left_out: Counter[str]
) -> tuple[list[Pair], list[str]]:
    """Return generated queries with their passages, and all passages.

    Args:
        config: The request.
        cache: The cache of generated queries.
        between: Is called between batches; it may raise an error to stop.
        left_out: Is filled with the number of queries that are left out, by the reason.

    Raises:
        InputError: If the documents hold fewer than two passages, or the generator cannot be used for them.
    """
    opened = open_query_generator(
        ExpandConfig("", model=config.generator, queries=config.queries, device=config.device)
    )
    expander = Expander(opened.writer, cache, count=config.queries, seed=config.seed, chunk_tokens=config.chunk_tokens)
    passages = _passages(config, expander)
    check_compatibility(opened, passages[:_SAMPLE])
    asked = _drawn(passages, config.most, config.seed)
    pairs: list[Pair] = []
    documents = [Document(str(number), passage) for number, passage in enumerate(asked)]
    with Progress("writing queries", len(asked), "passages") as progress:

        def show(done: float) -> None:
            if expander.work.written:
                progress.update(done)
            else:  # all came from the cache so far, which does not measure the speed
                progress.start_from(done)
            between()

        expander.restart(show)
        for passage, made in zip(asked, expander.expand(documents), strict=True):
            different = list(dict.fromkeys(made.queries))
            pairs += [Pair(query, passage) for query in different]
            left_out[EMPTY] += config.queries * made.chunks - len(made.queries)
            left_out[TWICE] += len(made.queries) - len(different)
    queries = counted(len(pairs), "query", "queries")
    log(f"{queries} for {counted(len(asked), 'passage')} of {counted(len(passages), 'passage')}")
    return pairs, passages


def _passages(config: MineConfig, expander: Expander) -> list[str]:
    """Return the different passages of the documents."""
    bad_rows = BadRows(policy=config.text.on_bad_row)
    documents = repeated = 0
    passages: dict[str, None] = {}
    for text in _documents(config, bad_rows):
        documents += 1
        for passage in expander.passages(text):
            repeated += passage in passages
            passages[passage] = None
    if bad_rows.summary():
        log(bad_rows.summary())
    if len(passages) < 2:
        raise InputError(f"{counted(len(passages), 'passage')} leave nothing to tell apart", "give more documents")
    again = f", {repeated:,} more were there already" if repeated else ""
    log(f"{counted(documents, 'document')}: {counted(len(passages), 'passage')}{again}")
    return list(passages)


def _documents(config: MineConfig, bad_rows: BadRows) -> Iterator[str]:
    """Yield title and text of every document; of a BEIR folder the corpus alone is read."""
    for location in config.data:
        collection = open_collection(location, bad_rows) if Path(location).is_dir() else None
        if isinstance(collection, BeirCollection):
            yield from (document.contents for document in collection.documents())
            continue
        for row in read_rows(
            [location],
            text_column=config.text.column,
            on_bad_row=config.text.on_bad_row,
            encoding=config.text.encoding,
            wanted=("title",),
            bad_rows=bad_rows,
        ):
            title = row.fields.get("title")
            yield Document("", row.text, title if isinstance(title, str) else "").contents


def _drawn(passages: Sequence[str], most: int | None, seed: int) -> list[str]:
    if most is None or most >= len(passages):
        return list(passages)
    chosen = numpy_stream(seed, "passages").choice(len(passages), most, replace=False)
    return [passages[int(number)] for number in np.sort(chosen)]
