"""What a person sees: passages, marks, and the generated query that made the match; and expansion files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.expansion.queries import UNUSED, Expansion, ExpansionFile, expanded
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.search.ranking import Ranking, by_reciprocal_ranks, by_weight
from lavra.search.search import PASSAGE_LETTERS, _window, marked, search
from lavra.search.searcher import Searcher
from lavra.text.analyzers import Analyzer
from word_vectors import WordEncoder


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


DOCUMENTS = [
    Document(
        "tejo",
        "Nasce em Espanha. O rio Tejo atravessa Portugal e chega ao mar em Lisboa. " + "Tem muitas pontes. " * 40,
        "Tejo",
        ("qual é o maior curso de água da península ibérica", "onde desagua o Tejo"),
        "rios.jsonl:1",
    ),
    Document("douro", "O Douro é um rio que corre para o Porto.", "Douro"),
]


def make(folder: Path, **changes) -> Index:
    index = Index.create(folder, IndexSettings(Analyzer("pt"), **changes))
    with index.update() as update:
        for document in DOCUMENTS:
            update.put(document, scores=(0.9, 0.1) if document.queries else ())
    return Index(folder)


def test_passage_and_marks(tmp_path: Path) -> None:
    first, second = search(make(tmp_path / "index"), "rio de Portugal")
    assert (first.id, first.rank, first.title, first.place) == ("tejo", 1, "Tejo", "rios.jsonl:1")
    assert first.passage.startswith("O rio Tejo atravessa Portugal")
    assert len(first.passage) <= PASSAGE_LETTERS
    assert marked(first.passage, first.marks).startswith("O **rio** Tejo atravessa **Portugal**")
    assert first.expansion == ""
    assert second.id == "douro"
    assert first.to_json()["score"] > second.to_json()["score"]


def test_the_generated_query_that_made_the_match_is_shown(tmp_path: Path) -> None:
    (hit,) = search(make(tmp_path / "index"), "península ibérica em Lisboa")
    assert hit.expansion == "qual é o maior curso de água da península ibérica"
    assert marked(hit.expansion, hit.expansion_marks, "[", "]").endswith("[península] [ibérica]")
    assert "Lisboa" in hit.passage


def test_a_query_that_was_filtered_out_is_not_shown(tmp_path: Path) -> None:
    index = make(tmp_path / "index", keep_queries=0.5)
    assert index.indexed_queries(0) == [DOCUMENTS[0].queries[0]]
    assert search(index, "desagua") == []
    assert search(index.change_settings(fields="doc"), "península") == []


def test_a_long_sentence_is_shown_around_the_words(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IndexSettings(Analyzer("pt")))
    with index.update() as update:
        update.put(Document("x", "palavra " * 300 + "agulha " + "palha " * 300))
    (hit,) = search(Index(tmp_path / "index"), "agulha")
    assert "agulha" in hit.passage
    assert len(hit.passage) <= PASSAGE_LETTERS + 10


def test_the_best_chunk_is_shown(tmp_path: Path) -> None:
    hit = search(make(tmp_path / "index", chunk_words=12), "muitas pontes")[0]
    assert "pontes" in hit.passage
    assert "Nasce" not in hit.passage


def write(path: Path, rows: list[object]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["expansions.jsonl", "expansions.jsonl.gz"])
def test_expansions_are_found_by_document_and_by_chunk(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "b#0", "predicted_queries": ["q1"], "scores": [0.5]},
        {"id": 7, "predicted_queries": ["q2", "q3"], "scores": [1, 2]},
        {"id": "b#1", "predicted_queries": ["q4"], "scores": [0.7]},
        {"id": "nowhere", "predicted_queries": ["q5"], "scores": [0.7]},
    ]
    with ExpansionFile(write(tmp_path / name, rows)) as found:
        assert (found.queries, found.scored) == (5, True)
        assert found.of("b") == Expansion(("q1", "q4"), (0.5, 0.7))
        assert found.of("x") == Expansion((), ())
        pairs = list(expanded([Document("7", "t"), Document("c", "t")], found))
        assert pairs == [(Document("7", "t", queries=("q2", "q3")), (1, 2)), (Document("c", "t"), ())]
        problems = BadRows()
        found.count_unused(problems)
        assert problems.examples == {UNUSED: [(f"{name}:4", "")]}


def test_scores_count_only_when_every_query_has_one(tmp_path: Path) -> None:
    rows = [{"id": "b#0", "predicted_queries": ["q1"], "scores": [0.5]}, {"id": "b#1", "predicted_queries": ["q2"]}]
    with ExpansionFile(write(tmp_path / "e.jsonl", rows)) as found:
        assert not found.scored
        assert found.of("b").scores == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"predicted_queries": ["a"]}, r"e\.jsonl:1 has no id"),
        ({"id": "a"}, r"e\.jsonl:1 has no list of queries"),
        ({"id": "a", "predicted_queries": ["a"], "scores": [1, 2]}, "1 queries but 2 scores"),
        ({"id": "a", "predicted_queries": []}, "no generated query"),
    ],
)
def test_bad_expansions_are_named(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExpansionFile(write(tmp_path / "e.jsonl", [row]))


def test_marks_are_counted_in_linear_time_and_as_by_hand() -> None:
    marks = tuple((start, start + 4) for start in range(0, 200_000, 7))
    text = "erro i " * 40_000
    start, end = _window(text, 0, len(text), marks)
    assert 0 <= start < end < 1000


# By words, by vectors, by both, and ranked anew.

CARS = [
    Document("a", "Um automóvel azul corre.", "Um"),
    Document("b", "O carro verde corre na estrada.", "Dois"),
    Document("c", "O rio corre para o mar.", "Três"),
]


class ByLength:
    """A reranker for which the longest passage is the best."""

    name = "length"

    def __init__(self) -> None:
        self.read: list[str] = []

    def score(self, query: str, passages) -> list[float]:
        self.read += passages
        return [float(len(passage)) for passage in passages]


def dense_index(folder: Path, encoder: WordEncoder, documents=CARS, **changes) -> Index:
    index = Index.create(folder, IndexSettings(Analyzer("pt"), **changes))
    with index.update() as update:
        update.vectorizer = Vectorizer(DenseSettings("m", encoder.fingerprint, encoder.dimensions), lambda: encoder)
        for document in documents:
            update.put(document)
    return Index(folder)


@pytest.fixture
def cars() -> WordEncoder:
    return WordEncoder({"automóvel": "carro"}, dimensions=64)


def test_vectors_find_what_shares_no_word_and_each_side_says_so(tmp_path: Path, cars: WordEncoder) -> None:
    index = dense_index(tmp_path / "i", cars)
    assert [hit.id for hit in search(index, "carro")] == ["b"]
    dense = search(index, "carro", searcher=Searcher(index, "dense", cars))
    assert {hit.id for hit in dense[:2]} == {"a", "b"}
    assert [hit.dense_rank for hit in dense] == [1, 2, 3]
    assert all(hit.lexical_rank is None and hit.score == hit.similarity for hit in dense)
    hybrid = search(index, "carro", searcher=Searcher(index, "hybrid", cars))
    assert [hit.id for hit in hybrid] == ["b", "a", "c"]
    assert hybrid[0].words == ("carro",)
    assert hybrid[0].score == pytest.approx(1 / 61 + 1 / (60 + (hybrid[0].dense_rank or 0)))
    assert hybrid[0].reason().startswith("words: rank 1, score ")
    assert "vectors: rank" in hybrid[1].reason()
    assert "words" not in hybrid[1].reason()
    assert set(hybrid[0].to_json()) > {
        "lexical_rank",
        "lexical_score",
        "dense_rank",
        "similarity",
        "rerank_score",
        "words",
    }


def test_the_weight_goes_from_words_alone_to_vectors_alone(tmp_path: Path, cars: WordEncoder) -> None:
    index = dense_index(tmp_path / "i", cars)

    def found(weight: float) -> list[str]:
        return [hit.id for hit in search(index, "carro corre", searcher=Searcher(index, "hybrid", cars, weight=weight))]

    assert found(0) == [hit.id for hit in search(index, "carro corre")]
    assert found(1) == [hit.id for hit in search(index, "carro corre", searcher=Searcher(index, "dense", cars))]
    with pytest.raises(InputError, match=r"a weight of 1\.5"):
        Searcher(index, "hybrid", cars, weight=1.5)


def test_the_first_results_are_ranked_anew_and_the_rest_stays_behind(tmp_path: Path) -> None:
    index = dense_index(tmp_path / "i", WordEncoder())
    first = [hit.id for hit in search(index, "corre", 3)]
    reranker = ByLength()
    hits = search(index, "corre", 3, searcher=Searcher(index, reranker=reranker, rerank_depth=2))
    assert len(reranker.read) == 2
    assert [hit.id for hit in hits[2:]] == first[2:]
    assert sorted(hit.id for hit in hits[:2]) == sorted(first[:2])
    assert [hit.rerank_score for hit in hits[:2]] == sorted(map(float, map(len, reranker.read)), reverse=True)
    assert hits[2].rerank_score is None
    assert hits[2].rank_before == 3
    assert "not read" in hits[2].reason()
    assert hits[0].score > hits[1].score > hits[2].score
    assert search(index, "corre", 1, searcher=Searcher(index, reranker=ByLength()))[0].id == "b"


def test_a_long_document_is_shown_and_reranked_by_its_nearest_chunk(tmp_path: Path, cars: WordEncoder) -> None:
    long = Document("long", "O rio corre para o mar. " * 5 + "Um automóvel azul. " + "O monte é alto. " * 5)
    index = dense_index(tmp_path / "i", cars, [long, *CARS[2:]], chunk_words=5)
    hit = search(index, "carro azul", searcher=Searcher(index, "dense", cars))[0]
    assert hit.id == "long"
    assert "automóvel" in hit.passage
    assert "monte" not in hit.passage
    reranker = ByLength()
    search(index, "carro azul", searcher=Searcher(index, "hybrid", cars, reranker=reranker))
    assert reranker.read[0].strip() == "Um automóvel azul."


def test_searching_by_vectors_needs_those_of_the_model(tmp_path: Path, cars: WordEncoder) -> None:
    with pytest.raises(InputError, match="has no vectors, and --mode dense"):
        Searcher(make(tmp_path / "words"), "dense", cars)
    with pytest.raises(InputError, match="are those of the model m"):
        Searcher(dense_index(tmp_path / "i", cars), "hybrid", WordEncoder(fingerprint="others"))


RANKINGS = st.lists(st.permutations(range(8)).map(lambda some: some[:5]), min_size=1, max_size=3)


@given(RANKINGS)
def test_fusion_sums_reciprocal_ranks(rankings: list[list[int]]) -> None:
    ranks = np.arange(8, dtype=np.int32)[::-1].copy()
    given_rankings = [Ranking(np.array(one), np.ones(len(one), dtype=np.float32)) for one in rankings]
    expected = {number: 0.0 for one in rankings for number in one}
    for one in rankings:
        for rank, number in enumerate(one, start=1):
            expected[number] += 1 / (60 + rank)
    found = by_reciprocal_ranks(given_rankings, ranks)
    scores = {number: np.float32(value) for number, value in expected.items()}
    assert found.numbers.tolist() == sorted(scores, key=lambda number: (-scores[number], ranks[number]))
    assert by_reciprocal_ranks(given_rankings, ranks, 2).numbers.tolist() == found.numbers[:2].tolist()


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_a_fusion_by_weight_keeps_a_side_that_has_all(first: list[int], second: list[int]) -> None:
    ranks, scores = np.arange(6, dtype=np.int32), np.linspace(5, 1, 6, dtype=np.float32)
    one, other = Ranking(np.array(first), scores), Ranking(np.array(second), scores / 100)
    assert by_weight(one, other, 0, ranks).numbers.tolist() == first
    assert by_weight(one, other, 1, ranks).numbers.tolist() == second
    assert by_weight(one, one, 0.3, ranks).numbers.tolist() == first
