"""Hard negatives are near and no right answers; what is left out is counted, and the file is one to train on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavra.core.errors import InputError
from lavra.workflows.embeddings import mining
from lavra.workflows.embeddings.mining import ENOUGH, NEAR_THE_ANSWER, RIGHT, mine_negatives
from test_tasks_embedding import write

CITIES = ("Lisbon", "Porto", "Coimbra", "Braga", "Faro", "Aveiro")


class Overlap:
    """An encoder whose vectors say which words of a list a text has."""

    fingerprint, longest = "overlap", None
    words = ("river", "bridge", *CITIES)
    dimensions = len(words)

    def encode(self, texts: Sequence[str], *, kind: str = "text") -> np.ndarray:
        rows = np.array([[float(word.lower() in text.lower()) for word in self.words] for text in texts]) + 1e-3
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for city in CITIES:
        rows.append(
            {"query": f"which river crosses {city}?", "passage": f"The river of {city} is wide and slow.", "id": city}
        )
        rows.append({"query": f"which bridge has {city}?", "passage": f"The bridge of {city} is old and narrow."})
    rows.append({"query": "which river crosses Lisbon?", "passage": "Lisbon lies where the river meets the sea."})
    return write(tmp_path / "pairs.jsonl", rows)


def mined(pairs: Path, out: Path, **options: Any) -> tuple[mining.Mined, list[dict[str, Any]]]:
    found = mine_negatives(str(pairs), out, **options)
    return found, [json.loads(line) for line in out.read_text().splitlines()]


def test_by_bm25_they_share_words_and_are_no_right_answers(pairs: Path, tmp_path: Path):
    found, rows = mined(pairs, tmp_path / "out.jsonl", count=2, depth=8)
    assert (found.rows, len(rows)) == (13, 13)
    right: dict[str, set[str]] = {}
    for row in rows:
        right.setdefault(row["query"], set()).add(row["passage"])
    for row in rows:
        assert not right[row["query"]] & set(row["negatives"])
        assert len(row["negatives"]) <= 2
    assert rows[0]["id"] == "Lisbon"
    assert found.negatives == sum(len(row["negatives"]) for row in rows)
    assert found.left_out[RIGHT] > 0
    assert found.left_out[ENOUGH] > 0


def test_a_margin_leaves_out_what_may_be_an_answer_too(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mining, "open_encoder", lambda *_, **__: Overlap())
    further = write(
        tmp_path / "more.jsonl", [{"text": "In Porto the river runs fast."}, {"text": "Nothing of all that."}]
    )
    found, rows = mined(pairs, tmp_path / "out.jsonl", model="m", count=9, passages=[str(further)], margin=0.05)
    porto = next(row for row in rows if row["query"] == "which river crosses Porto?")
    assert "In Porto the river runs fast." not in porto["negatives"]  # as near as the right one by the model
    assert "The bridge of Porto is old and narrow." in porto["negatives"]
    assert found.left_out[NEAR_THE_ANSWER] > 0
    assert NEAR_THE_ANSWER in found.summary
    assert found.to_json()["left_out"][NEAR_THE_ANSWER] == found.left_out[NEAR_THE_ANSWER]
    wider, _ = mined(pairs, tmp_path / "wide.jsonl", model="m", count=9, passages=[str(further)], margin=0.9)
    assert wider.left_out[NEAR_THE_ANSWER] > found.left_out[NEAR_THE_ANSWER]
    assert wider.negatives < found.negatives


def test_rows_without_a_negative_are_written_and_counted(tmp_path: Path):
    rows = [{"query": "which river?", "passage": "The river."}, {"query": "which hill?", "passage": "The river."}]
    found, written = mined(write(tmp_path / "pairs.jsonl", rows), tmp_path / "out.jsonl")
    assert (found.rows, found.without, found.negatives) == (2, 2, 0)
    assert [row["negatives"] for row in written] == [[], []]


def test_an_existing_file_and_impossible_options_are_refused(pairs: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    out.write_text("")
    with pytest.raises(InputError, match="exists already"):
        mine_negatives(str(pairs), out)
    with pytest.raises(InputError, match="are not chosen among"):
        mine_negatives(str(pairs), tmp_path / "new.jsonl", count=9, depth=3)
    with pytest.raises(InputError, match="is no share"):
        mine_negatives(str(pairs), tmp_path / "new.jsonl", margin=1.0)
    texts = write(tmp_path / "texts.jsonl", [{"text": "alone"}])
    with pytest.raises(InputError, match="single texts, and no pairs"):
        mine_negatives(str(texts), tmp_path / "new.jsonl")
