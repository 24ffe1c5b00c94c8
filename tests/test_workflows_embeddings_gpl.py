"""Generative pseudo-labelling: queries, negatives and margins become rows that MarginMSE learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lavra
from lavra.core.errors import InputError
from lavra.workflows.embeddings import gpl
from lavra.workflows.embeddings.gpl import write_margins
from lavra.workflows.embeddings.pair_scores import pair_scores
from little_tokenizers import byte_level
from test_tasks_embedding import TINY, write

PASSAGES = [
    f"The {thing} of {city} is old, and people come from far away to see it in summer."
    for city in ("Lisbon", "Porto", "Braga", "Faro")
    for thing in ("bridge", "tower", "house", "gate")
]


class Writer:
    """Asks for the second and the fourth word of a passage; the second query is the first again."""

    room, tokenizer, fingerprint = 64, byte_level(), "writer"

    def write(self, passages: Sequence[str], count: int, seed: int) -> list[list[str]]:
        words = [passage.split() for passage in passages]
        return [[f"which {one[1]} has {one[3]}?"] * (count - 1) + [""] for one in words]


def scores(model: str, pairs: Sequence[tuple[str, str]], device: str) -> np.ndarray:
    """Return how many words of the query the passage has."""
    return np.array([sum(word.strip("?") in passage for word in query.split()) for query, passage in pairs], float)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpl, "open_query_generator", lambda config: SimpleNamespace(writer=Writer()))
    monkeypatch.setattr(gpl, "pair_scores", scores)


def test_margins_are_the_differences_of_the_scores(replaced: None, tmp_path: Path):
    data = write(tmp_path / "passages.jsonl", [{"text": text} for text in PASSAGES])
    made = write_margins(str(data), tmp_path / "gpl", generator="g", cross_encoder="c", queries=3, negatives=2)
    rows = [json.loads(line) for line in made.margins.read_text().splitlines()]
    assert made.report["queries"] == len(PASSAGES)
    assert made.report["queries_empty_or_twice"] == 2 * len(PASSAGES)
    assert made.report["rows"] == len(rows) == 2 * len(PASSAGES)
    for row in rows:
        assert row["negative"] != row["positive"]
        own, other = scores("", [(row["query"], row["positive"]), (row["query"], row["negative"])], "")
        assert row["margin"] == own - other
    with pytest.raises(InputError, match="exists already"):
        write_margins(str(data), tmp_path / "gpl", generator="g", cross_encoder="c")


def test_the_margins_are_learned(replaced: None, tmp_path: Path):
    data = write(tmp_path / "passages.jsonl", [{"text": text} for text in PASSAGES])
    made = write_margins(str(data), tmp_path / "gpl", generator="g", cross_encoder="c", negatives=4, most=12)
    assert made.report["asked"] == 12
    run = lavra.train(made.margins, out=str(tmp_path / "run"), **{**TINY, "steps": 2, "check": False})
    assert run.plan["objective"] == "margin-mse"


def test_a_run_on_pairs_says_raw_scores(tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"text1": f"which number is {n}?", "text2": f"the number {n + n % 2}", "label": "no" if n % 2 else "yes"}
        for n in range(80)
    ]
    options = {name: value for name, value in TINY.items() if name != "embedding"}
    run = lavra.train(
        write(tmp_path / "p.jsonl", rows), out=str(tmp_path / "run"), **{**options, "check": False, "deliver": "last"}
    )
    found = pair_scores(
        str(run.path), [("which number is 3?", "the number 3"), ("which number is 3?", "the number 8")], "cpu"
    )
    assert found.shape == (2,)
    assert np.isfinite(found).all()
    assert found[0] != found[1]
    embedding = lavra.train(
        write(tmp_path / "e.jsonl", [{"anchor": row["text1"], "positive": row["text2"]} for row in rows]),
        out=str(tmp_path / "vectors"),
        **{**TINY, "check": False, "steps": 1},
    )
    with pytest.raises(InputError, match="reads no pairs of texts"):
        pair_scores(str(embedding.path), [("a", "b")], "cpu")
