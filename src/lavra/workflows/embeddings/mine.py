"""Mining rows to train on: hard negatives for pairs, or for queries that a model writes for documents.

With documents and a teacher this is generative pseudo-labelling (GPL, Wang et al. 2021, arXiv 2112.07577): a query
generator writes queries for the passages, near passages are mined as negatives, the teacher says by how much the
passage of each query is better than the negative, and `lavra train` learns the margins. With documents and rows of
pairs it is the way of InPars-light (Boytsov et al. 2023, arXiv 2301.02998): the rows train a reranker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lavra.config.mining import MineConfig
from lavra.config.training import TextConfig, TrainConfig
from lavra.core.disk.files import write_atomically
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.errors import InputError, Interrupted
from lavra.core.progress import log
from lavra.data.examples.rows import read_examples
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows
from lavra.search.expansion.cache import ExpansionCache
from lavra.search.expansion.queries import write_provenance
from lavra.tasks.embedding import EmbeddingTask
from lavra.training.signals import StopRequest
from lavra.vectors.cache import VectorCache
from lavra.vectors.cached import CachedEncoder
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.embeddings.embed import say_cut
from lavra.workflows.embeddings.generated import generated_pairs
from lavra.workflows.embeddings.mine_report import MineReport
from lavra.workflows.embeddings.mined_rows import consistent, rows_to_train
from lavra.workflows.embeddings.mining import Pair, choose_negatives
from lavra.workflows.embeddings.open_encoder import open_encoder
from lavra.workflows.search.expand import check_out

_MADE, _VECTORS = "made", "vectors"
"""Names of the files of the cache."""


def mine(config: MineConfig) -> MineReport:
    """Mine rows to train an encoder or a reranker on, and write them as JSON lines that `lavra train` takes.

    Given pairs, hard negatives are mined for them. Given documents and a generator, queries are written for the
    passages of the documents first. It may be interrupted or killed at any time: queries, vectors and scores are in the
    cache, and the same request ends with the same bytes as one that was never stopped.

    Args:
        config: The request.

    Returns:
        What was done.

    Raises:
        InputError: If the data or a model cannot be used, an option is out of range, or `out` was made with other
            options.
        Interrupted: After a signal to stop; everything that was made is in the cache.
    """
    out = Path(config.out)
    _refuse(config)
    models = [one for one in (config.model, config.generator, config.teacher) if one]
    check_replaceable_file(out, force=True, inputs=[*config.data, *config.passages, *models])
    request = _request(config)
    check_out(out, request, config.force)
    report = MineReport(str(out), config.cache or f"{out}.cache")
    with _caches(Path(report.cache)) as (made, vectors, between):
        names = ("query", "passage")
        if config.generator:
            pairs, passages = generated_pairs(config, made, between, report.queries_left_out)
        else:
            (pairs, names), passages = _given_pairs(config), []
        encoder = None
        if config.model:
            encoder = CachedEncoder(open_encoder(config.model, device=config.device), vectors, between)
        if not pairs:
            raise InputError("there is no query to mine for", "look at what was left out, or use another generator")
        chosen = choose_negatives(
            pairs,
            [*passages, *_texts(config)],
            encoder,
            by=config.by,
            count=config.negatives,
            depth=config.depth,
            margin=None if config.teacher else config.margin,
            between=between,
        )
        if encoder is not None:
            say_cut(encoder.encoder)
        report.left_out = chosen.left_out
        found = consistent(zip(pairs, chosen.negatives, chosen.ranks, strict=True), config.consistent, report)
        rows = list(rows_to_train(found, config, names, made, between, report))
        if not rows:
            raise InputError("no row is left", "look at what was left out; give more texts, or a larger --depth")
        write_atomically(out, "".join(f"{one_line(row)}\n" for row in rows))
        report.rows = len(rows)
        write_provenance(out, {"request": request, **report.to_json()})
    return report


def _refuse(config: MineConfig) -> None:
    if not config.by:
        raise InputError("--by names nothing that finds texts", "choose of bm25 and model")
    if config.negatives < 1 or config.depth < config.negatives:
        raise InputError(
            f"{config.negatives} negatives are not chosen among {config.depth} texts",
            "choose a --depth of at least --negatives",
        )
    if not 0 <= config.margin < 1:
        raise InputError(f"a margin of {config.margin} is no share", "choose from 0 to below 1, e.g. 0.05")
    if config.consistent < 0:
        raise InputError(f"--consistent is {config.consistent}", "choose 1 or more, or 0 to keep all queries")
    if not config.generator and config.most is not None:
        raise InputError("--most is for documents that --generator asks about", "leave it out")


def _request(config: MineConfig) -> dict[str, Any]:
    """Return everything that the rows depend on, besides the contents of files."""
    values = asdict(config)
    kept = {name: value for name, value in values.items() if name not in ("out", "force", "cache", "device")}
    return json.loads(one_line(kept))


@contextmanager
def _caches(folder: Path) -> Iterator[tuple[ExpansionCache, VectorCache, Callable[[], None]]]:
    """Yield the caches, and what raises an error after a signal to stop."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        ExpansionCache(folder / _MADE) as made,
        VectorCache(folder / _VECTORS) as vectors,
        StopRequest("finishing this batch and keeping what was made") as stop,
    ):

        def between() -> None:
            if stop.requested:
                raise Interrupted(
                    f"stopped; everything that was made is in {folder}",
                    "give the same command to continue",
                    signal_number=stop.requested,
                )

        yield made, vectors, between


def _given_pairs(config: MineConfig) -> tuple[list[Pair], tuple[str, str]]:
    """Return the pairs of files, and the names of their two columns."""
    text = TextConfig(column=config.text.column, encoding=config.text.encoding)
    reader = EmbeddingTask().reader(describe_data(TrainConfig(data=config.data, text=text)))
    if not reader.second:
        raise InputError(
            "the rows hold single texts, and no pairs",
            "give the columns query and passage, or say what writes queries for the texts: --generator MODEL",
        )
    bad_rows = BadRows(policy=config.text.on_bad_row)
    pairs = [
        Pair(row.prompt, row.completion, {name: value for name, value in row.labels.items() if name != "negatives"})
        for row in read_examples(config.data, bad_rows, columns=reader, encoding=config.text.encoding)
    ]
    if bad_rows.summary():
        log(bad_rows.summary())
    if not pairs:
        raise InputError("no row can be used", bad_rows.remedy() or "give rows with pairs of texts")
    return pairs, (reader.first, reader.second)


def _texts(config: MineConfig) -> list[str]:
    """Return the further texts among which negatives are looked for."""
    if not config.passages:
        return []
    bad_rows, text = BadRows(policy=config.text.on_bad_row), config.text
    rows = read_rows(
        config.passages,
        text_column=text.column,
        on_bad_row=text.on_bad_row,
        encoding=text.encoding,
        wanted=(),
        bad_rows=bad_rows,
    )
    found = [row.text for row in rows]
    if bad_rows.summary():
        log(bad_rows.summary())
    return found
