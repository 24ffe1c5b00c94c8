"""Hard negatives: texts that seem to answer a query and do not, mined by BM25 and by a model, as a file to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lavra.config.training import TextConfig, TrainConfig
from lavra.core.disk.files import write_atomically
from lavra.core.disk.json_lines import one_line
from lavra.core.disk.replacing import check_replaceable_file
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.examples.rows import ExampleRow, read_examples
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import BadRows
from lavra.tasks.embedding import EmbeddingTask
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.embeddings.candidates import Candidates, lexical_candidates, vector_candidates
from lavra.workflows.embeddings.open_encoder import open_encoder

By = Literal["bm25", "model"]
"""What finds texts that come close to a query."""

NEAR_THE_ANSWER = "as near to the query as its right text, or nearly, so that they may answer it too"
"""Why a text that was found is no negative."""
RIGHT = "right texts of the query"
NOT_COMPARED = "found for a query whose right text was not, so that nothing says how near is too near"
ENOUGH = "beyond the number that is asked for"


@dataclass
class Mined:
    """What was mined.

    Attributes:
        out: The file that was written.
        rows: Number of rows that were written.
        negatives: Number of negatives in them.
        without: Number of rows that got no negative, which are written too.
        left_out: Number of texts that were found and are no negatives, by the reason.
    """

    out: Path
    rows: int = 0
    negatives: int = 0
    without: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def summary(self) -> str:
        """The counts as lines of plain text."""
        lines = [
            f"{self.out}: {counted(self.negatives, 'negative')} for {counted(self.rows, 'row')}, "
            f"{self.without:,} of which got none"
        ]
        lines += [f"left out {counted(count, 'text')}: {reason}" for reason, count in self.left_out.most_common()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        plain = {"rows": self.rows, "negatives": self.negatives, "rows_without_negative": self.without}
        return {"out": str(self.out), **plain, "left_out": dict(self.left_out)}


def mine_negatives(
    data: Sequence[str] | str,
    out: str | Path,
    *,
    model: str | None = None,
    by: Sequence[By] = ("bm25", "model"),
    count: int = 4,
    depth: int = 50,
    margin: float | None = 0.05,
    passages: Sequence[str] = (),
    device: str = "auto",
    force: bool = False,
) -> Mined:
    """Mine hard negatives for pairs of texts, and write the pairs with them as JSON lines that `lavra train` takes.

    The texts that come closest to each query are looked for among all second texts, and further passages. Left out are
    the right texts of the query, and those that come as near to it as the best right text, or nearly: they may answer
    it too (false negatives). How near is measured by the model where there is one, else by BM25.

    Args:
        data: Files of pairs, with the columns that the embedding task reads.
        out: The file to write.
        model: The location of the model that makes vectors; None searches by BM25 alone.
        by: What finds texts; without a model BM25 alone.
        count: Most negatives of a row. With both ways they are taken from each in turn.
        depth: Number of texts that are looked at for each query and way.
        margin: Share by which the similarity of a negative has to be below that of the best right text. None keeps near
            ones too, for rows whose margins a teacher will say.
        passages: Files of further texts, in their column `text`.
        device: Device that computes.
        force: Whether an existing file is replaced.

    Returns:
        What was mined, with counts of what was left out and why.

    Raises:
        InputError: If the pairs cannot be used, or an option is out of range.
    """
    locations, path = [data] if isinstance(data, str) else list(data), Path(out)
    _refuse(by, count, depth, margin)
    check_replaceable_file(path, force=force, inputs=[*locations, *passages])
    rows, names = _pairs(locations)
    queries, texts, right = _sides(rows, _further(passages))
    ways, nearness = _found(queries, texts, right, depth, by, model, device)
    mined, lines = Mined(path), []
    for number, row in enumerate(rows):
        place = queries[row.prompt]
        chosen = _chosen([way.numbers[place] for way in ways], nearness[place], right[place], count, margin, mined)
        negatives = [texts[one] for one in chosen]
        kept = {name: value for name, value in row.labels.items() if name != "negatives"}
        lines.append(one_line({names[0]: row.prompt, names[1]: row.completion, "negatives": negatives, **kept}))
        mined.rows, mined.negatives = number + 1, mined.negatives + len(negatives)
        mined.without += not negatives
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    log(mined.summary)
    return mined


def _refuse(by: Sequence[By], count: int, depth: int, margin: float | None) -> None:
    odd = [one for one in by if one not in get_args(By)]
    if odd or not by:
        raise InputError(f"negatives are not found by {odd[0] if odd else 'nothing'!r}", "choose of bm25 and model")
    if count < 1 or depth < count:
        raise InputError(
            f"{count} negatives are not chosen among {depth} texts", "choose a depth of at least the count"
        )
    if margin is not None and not 0 <= margin < 1:
        raise InputError(f"a margin of {margin} is no share", "choose from 0 to below 1, e.g. 0.05")


def _pairs(locations: Sequence[str]) -> tuple[list[ExampleRow], tuple[str, str]]:
    """Return the rows of files, and the names of their two columns."""
    described = describe_data(TrainConfig(data=tuple(locations), text=TextConfig()))
    reader = EmbeddingTask().reader(described)
    if not reader.second:
        raise InputError("the rows hold single texts, and no pairs", "give the columns query and passage")
    bad_rows = BadRows()
    rows = list(read_examples(locations, bad_rows, columns=reader))
    if bad_rows.summary():
        log(bad_rows.summary())
    if not rows:
        raise InputError("no row can be used", bad_rows.remedy() or "give rows with pairs of texts")
    return rows, (reader.first, reader.second)


def _further(locations: Sequence[str]) -> list[str]:
    if not locations:
        return []
    bad_rows = BadRows()
    texts = [row.text for row in read_rows(locations, bad_rows=bad_rows)]
    if bad_rows.summary():
        log(bad_rows.summary())
    return texts


def _sides(
    rows: Sequence[ExampleRow], further: Sequence[str]
) -> tuple[dict[str, int], list[str], list[frozenset[int]]]:
    """Return the number of each different query, the different texts, and the right texts of each query."""
    numbers: dict[str, int] = {}
    for text in [*(row.completion for row in rows), *further]:
        numbers.setdefault(text, len(numbers))
    answers: dict[str, set[int]] = {}
    for row in rows:
        answers.setdefault(row.prompt, set()).add(numbers[row.completion])
        if row.prompt in numbers:  # a text is no negative of itself
            answers[row.prompt].add(numbers[row.prompt])
    queries = {query: place for place, query in enumerate(answers)}
    return queries, list(numbers), [frozenset(answers[query]) for query in queries]


class _Nearness:
    """How near each text that was found is to its query, as a share of how near the best right text is."""

    def __init__(self, way: Candidates, vectors: tuple[NDArray[np.float32], NDArray[np.float32]] | None) -> None:
        self._way, self._vectors = way, vectors

    def __getitem__(self, place: int) -> _NearQuery:
        way, own = self._way, float(self._way.own[place])
        known = dict(zip(way.numbers[place].tolist(), way.scores[place].tolist(), strict=True))
        if self._vectors is None:
            return _NearQuery(own, known, None, None)
        return _NearQuery(own, known, self._vectors[0][place], self._vectors[1])


@dataclass(frozen=True)
class _NearQuery:
    """The same for one query: the score of its best right text, the known scores, and vectors for others."""

    own: float
    known: dict[int, float]
    query: NDArray[np.float32] | None
    texts: NDArray[np.float32] | None

    def of(self, text: int) -> float:
        if text not in self.known and self.query is not None and self.texts is not None:
            return float(self.query @ self.texts[text])
        return self.known.get(text, -np.inf)


def _found(
    queries: dict[str, int],
    texts: list[str],
    right: list[frozenset[int]],
    depth: int,
    by: Sequence[By],
    model: str | None,
    device: str,
) -> tuple[list[Candidates], _Nearness]:
    """Return the candidates of each way, and what says how near they are."""
    asked, ways = list(queries), list[Candidates]()
    # Each query's own texts are among the first; so many more are looked at.
    deep = depth + max(map(len, right))
    if "bm25" in by or model is None:
        ways.append(lexical_candidates(asked, texts, right, deep))
    if model is None:
        return ways, _Nearness(ways[0], None)
    encoder = open_encoder(model, device=device, precision="fp32")
    by_model, *vectors = vector_candidates(asked, texts, right, deep, encoder)
    return [*ways, by_model] if "model" in by else ways, _Nearness(by_model, (vectors[0], vectors[1]))


def _chosen(
    ways: Sequence[NDArray[np.int64]],
    near: _NearQuery,
    right: frozenset[int],
    count: int,
    margin: float | None,
    mined: Mined,
) -> list[int]:
    """Return the negatives of a row, taken from each way in turn; what is left out is counted."""
    allowed: list[list[int]] = []
    judged: dict[int, str | None] = {}
    for numbers in ways:
        some = []
        for text in numbers.tolist():
            if text not in judged:
                judged[text] = _reason(text, near, right, margin)
            if judged[text] is None:
                some.append(text)
        allowed.append(some)
    mined.left_out.update(reason for reason in judged.values() if reason is not None)
    chosen: dict[int, None] = {}
    for rank in range(max(map(len, allowed), default=0)):
        for some in allowed:
            if rank < len(some):
                chosen.setdefault(some[rank])
    if len(chosen) > count:
        mined.left_out[ENOUGH] += len(chosen) - count
    return list(chosen)[:count]


def _reason(text: int, near: _NearQuery, right: frozenset[int], margin: float | None) -> str | None:
    """Return why a text is no negative of a query; None where it is one."""
    if text in right:
        return RIGHT
    if margin is None:
        return None
    if near.own == -np.inf:
        return NOT_COMPARED
    # The limit lies below the right text whatever its sign: a cosine may be negative.
    return NEAR_THE_ANSWER if near.of(text) > near.own - margin * abs(near.own) else None
