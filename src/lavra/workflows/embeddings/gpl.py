"""Generative pseudo-labelling: vectors adapted to passages without any question of a person.

A query generator writes queries for the passages, near passages are mined as negatives, a cross-encoder says by how
much the passage of each query is better than the negative, and the margins are learned (Wang et al. 2021, 2112.07577).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavra.config.search import ExpandConfig
from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import InputError
from lavra.core.progress import Progress, log
from lavra.core.seeds import numpy_stream
from lavra.core.units import counted
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows
from lavra.search.expansion.query_generator import QueryGenerator
from lavra.workflows.embeddings.mining import mine_negatives
from lavra.workflows.embeddings.pair_scores import pair_scores
from lavra.workflows.search.query_generators import open_query_generator

MARGINS = "margins.jsonl"
"""Name of the file to train on: query, positive, negative and margin."""

REPORT = "gpl.json"
"""Name of the file with what was made, and from what."""

_QUERIES = "queries.jsonl"
_MINED = "mined.jsonl"

_AT_ONCE = 16
"""Passages for which queries are written at once."""


@dataclass(frozen=True)
class Pseudo:
    """What was made.

    Attributes:
        margins: The file to train on.
        report: Counts of each step, and the mean and the spread of the margins.
    """

    margins: Path
    report: dict[str, Any]


def write_margins(
    passages: Sequence[str] | str,
    out: str | Path,
    *,
    generator: str,
    cross_encoder: str,
    model: str | None = None,
    queries: int = 3,
    negatives: int = 4,
    depth: int = 50,
    most: int | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
) -> Pseudo:
    """Write rows of query, positive, negative and margin for passages; `lavra train` learns them by MarginMSE.

    Args:
        passages: Files of passages, in their column `text`.
        out: The folder to make, with `margins.jsonl` and the files of the steps before.
        generator: A query generator, as `lavra doc2query train` makes it.
        cross_encoder: What says how well a passage answers a query, see `pair_scores`.
        model: The model that makes vectors, by which negatives are mined beside BM25; None mines by BM25 alone.
        queries: Number of queries for a passage.
        negatives: Most negatives of a query; each gives a row.
        depth: Number of passages that are looked at for each query.
        most: Most passages for which queries are written, drawn at random; all are searched for negatives. None takes
            all.
        seed: Seed of the queries and of the draw.
        device: Device that computes.
        force: Whether an existing folder is replaced.

    Raises:
        InputError: If there is no passage, or a model cannot be used.
    """
    locations, folder = [passages] if isinstance(passages, str) else list(passages), Path(out)
    texts = _texts(locations)
    with building_folder(folder, force=force, inputs=locations, kind="margins") as building:
        opened = open_query_generator(ExpandConfig(collection="", model=generator, queries=queries, device=device))
        asked = _drawn(texts, most, seed)
        pairs, empty = _queries(opened.writer, asked, queries, seed)
        _write(building / _QUERIES, [{"query": query, "passage": text} for query, text in pairs])
        what = f"{counted(len(pairs), 'query', 'queries')} for {counted(len(asked), 'passage')}"
        log(f"{what}; {empty:,} were empty or twice")
        mined = mine_negatives(
            str(building / _QUERIES),
            building / _MINED,
            model=model,
            count=negatives,
            depth=depth,
            margin=None,  # a near passage that answers too gets a small margin, which is what is learned of it
            passages=locations,
            device=device,
        )
        rows = _with_margins(building / _MINED, cross_encoder, device)
        _write(building / MARGINS, rows)
        margins = np.array([row["margin"] for row in rows])
        report = {
            "passages": len(texts),
            "asked": len(asked),
            "queries": len(pairs),
            "queries_empty_or_twice": empty,
            "mined": mined.to_json(),
            "rows": len(rows),
            "margin": {"mean": float(margins.mean()), "deviation": float(margins.std())},
            "share_below_zero": float((margins < 0).mean()),
            "generator": generator,
            "cross_encoder": cross_encoder,
            "model": model,
            "seed": seed,
        }
        write_json(building / REPORT, report)
    log(
        f"{folder / MARGINS}: {counted(len(rows), 'row')}; margins {report['margin']['mean']:.2f} ± "
        f"{report['margin']['deviation']:.2f}, of which {report['share_below_zero']:.1%} are below zero"
    )
    return Pseudo(folder / MARGINS, read_json(folder / REPORT))


def _texts(locations: Sequence[str]) -> list[str]:
    bad_rows = BadRows()
    texts = list(dict.fromkeys(row.text for row in read_rows(locations, bad_rows=bad_rows)))
    if bad_rows.summary():
        log(bad_rows.summary())
    if len(texts) < 2:
        raise InputError(f"{counted(len(texts), 'passage')} leave nothing to tell apart", "give more passages")
    return texts


def _drawn(texts: list[str], most: int | None, seed: int) -> list[str]:
    if most is None or most >= len(texts):
        return texts
    chosen = numpy_stream(seed, "passages").choice(len(texts), most, replace=False)
    return [texts[number] for number in sorted(chosen.tolist())]


def _queries(
    writer: QueryGenerator, passages: Sequence[str], count: int, seed: int
) -> tuple[list[tuple[str, str]], int]:
    """Return queries with their passages, and how many were empty or the same as another of the passage."""
    pairs, empty = list[tuple[str, str]](), 0
    with Progress("writing queries", len(passages), "passages") as progress:
        for first in range(0, len(passages), _AT_ONCE):
            some = list(passages[first : first + _AT_ONCE])
            read = [writer.tokenizer.decode(ids[: writer.room]) for ids in writer.tokenizer.encode_many(some)]
            for passage, written in zip(some, writer.write(read, count, seed + first), strict=True):
                different = [query for query in dict.fromkeys(written) if query]
                pairs += [(query, passage) for query in different]
                empty += len(written) - len(different)
            progress.update(first + len(some))
    return pairs, empty


def _with_margins(mined: Path, cross_encoder: str, device: str) -> list[dict[str, Any]]:
    """Return a row for each negative, with the difference of the scores of positive and negative."""
    rows = [json.loads(line) for line in mined.read_text(encoding="utf8").splitlines()]
    pairs = list(dict.fromkeys((row["query"], text) for row in rows for text in (row["passage"], *row["negatives"])))
    scores = dict(zip(pairs, pair_scores(cross_encoder, pairs, device).tolist(), strict=True))
    found = []
    for row in rows:
        query, positive = row["query"], row["passage"]
        for negative in row["negatives"]:
            margin = scores[query, positive] - scores[query, negative]
            if np.isfinite(margin):
                found.append({"query": query, "positive": positive, "negative": negative, "margin": margin})
    if not found:
        raise InputError("no query has a negative with a margin", "give more passages, or a larger depth")
    return found


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, "".join(f"{one_line(row)}\n" for row in rows))
