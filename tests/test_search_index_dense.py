"""The vectors of an index: kept by content, equal to a fresh index, refused of another model, near what is nearest."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.search.corpora.documents import Document
from lavra.search.index.dense import embedding
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.dense.settings import EXACT, DenseSettings, Method, Store
from lavra.search.index.dense.stores import StoredVectors, positions_of, stored
from lavra.search.index.dense.vectors import DenseSnapshot, build_vectors
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.text.analyzers import Analyzer
from word_vectors import WordEncoder

PLAIN = Analyzer("en", stop_words=False, stem=False)
STORES: tuple[Store, ...] = get_args(Store)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def vectorizer(encoder: WordEncoder, store: Store = "float16", method: Method = "auto") -> Vectorizer:
    return Vectorizer(DenseSettings("m", encoder.fingerprint, encoder.dimensions, store, method), lambda: encoder)


def put(folder: Path, texts: dict[str, str], made: Vectorizer | None, **changes) -> Index:
    """Make the index of some texts, or bring it up to date; None keeps the vectorizer of the index."""
    index = Index(folder) if Index.exists(folder) else Index.create(folder, IndexSettings(PLAIN, **changes))
    with index.update(complete=True) as update:
        update.vectorizer = made or update.vectorizer
        for name, text in texts.items():
            update.put(Document(name, text))
    return Index(folder)


def dense_of(index: Index) -> DenseSnapshot:
    assert index.vectors is not None
    return index.vectors


def nearest(index: Index, encoder: WordEncoder, query: str, top_k: int = 3) -> list[str]:
    return index.ids(dense_of(index).search(encoder.encode([query], kind="query")[0], top_k).numbers)


TEXTS = {"a": "sol mar", "b": "rio lua", "c": "pedra vento", "d": "casa sol"}


@pytest.mark.parametrize("store", STORES)
def test_texts_are_found_by_what_they_mean(tmp_path: Path, store: Store) -> None:
    encoder = WordEncoder({"oceano": "mar"}, dimensions=64)
    index = put(tmp_path / "index", TEXTS, vectorizer(encoder, store))
    assert nearest(index, encoder, "sol oceano", 1) == ["a"]
    assert nearest(index, encoder, "lua", 9)[0] == "b"
    assert {kind for kind, _ in encoder.encoded[:4]} == {"passage"}
    assert index.is_complete


def test_only_new_texts_are_embedded_and_each_once(tmp_path: Path) -> None:
    encoder = WordEncoder()
    put(tmp_path / "index", {**TEXTS, "e": "sol mar"}, vectorizer(encoder))
    assert sorted(text for _, text in encoder.encoded) == sorted(TEXTS.values())  # the fifth is the first again
    later = WordEncoder()
    made = vectorizer(later)
    index = put(tmp_path / "index", {**TEXTS, "b": "rio novo", "x": "casa sol"}, made)
    assert [text for _, text in later.encoded] == ["rio novo"]
    assert made.embedded == 1
    assert set(nearest(index, later, "casa sol", 2)) == {"d", "x"}
    assert nearest(index, later, "rio novo", 1) == ["b"]


def test_an_update_without_new_texts_opens_no_encoder_and_one_with_some_says_so(tmp_path: Path) -> None:
    put(tmp_path / "index", TEXTS, vectorizer(WordEncoder()))
    index = put(tmp_path / "index", {name: TEXTS[name] for name in "ca"}, None)
    assert len(dense_of(index)) == 2
    assert nearest(index, WordEncoder(), "pedra vento", 1) == ["c"]
    assert len(dense_of(index.change_settings(k1=1.2))) == 2
    with pytest.raises(InputError, match="has vectors of m, and new texts need some"):
        put(tmp_path / "index", {"z": "lua nova"}, None)
    assert nearest(Index(tmp_path / "index"), WordEncoder(), "pedra vento", 1) == ["c"]


def test_vectors_of_another_model_or_form_are_refused_by_name(tmp_path: Path) -> None:
    put(tmp_path / "index", TEXTS, vectorizer(WordEncoder()))
    other = WordEncoder(fingerprint="others")
    with pytest.raises(InputError, match=r"are those of the model m \(words\), not of m \(others\)"):
        put(tmp_path / "index", TEXTS, vectorizer(other))
    with pytest.raises(InputError, match="are stored as float16, not as int8"):
        put(tmp_path / "index", TEXTS, vectorizer(WordEncoder(), "int8"))
    assert not other.encoded
    assert nearest(Index(tmp_path / "index"), WordEncoder(), "pedra vento", 1) == ["c"]
    lying = Vectorizer(DenseSettings("m", "words", 32), lambda: other)
    with pytest.raises(InputError, match="others"):
        put(tmp_path / "index", {**TEXTS, "n": "novo"}, lying)


def test_vectors_can_be_dropped_and_come_back(tmp_path: Path) -> None:
    put(tmp_path / "index", TEXTS, vectorizer(WordEncoder()))
    index = Index(tmp_path / "index")
    with index.update() as update:
        update.vectorizer = None
    index = Index(tmp_path / "index")
    assert index.vectors is None
    assert index.dense_settings is None
    assert not list((tmp_path / "index").glob("dense-*"))
    assert dense_of(put(tmp_path / "index", TEXTS, vectorizer(WordEncoder(fingerprint="others")))).method == "exact"


@pytest.mark.parametrize("bad", ["shape", "value"])
def test_vectors_that_cannot_be_are_refused(tmp_path: Path, bad: str) -> None:
    class Wrong(WordEncoder):
        def encode(self, texts, *, kind="text") -> NDArray[np.float32]:
            found = super().encode(texts, kind=kind)
            return found[:, 1:] if bad == "shape" else np.where(found > 0, np.nan, found)

    with pytest.raises(InputError, match="made vectors"):
        put(tmp_path / "index", TEXTS, vectorizer(Wrong()))


def test_texts_that_are_certainly_too_long_are_counted(tmp_path: Path) -> None:
    made = vectorizer(WordEncoder(longest=3))
    put(tmp_path / "index", {"a": "um dois três", "b": "um dois três quatro"}, made)
    assert made.warnings()
    assert "1 text of 2 has more words than the 3 tokens" in made.warnings()[0]


def test_the_chunks_of_a_document_have_vectors_of_their_own(tmp_path: Path) -> None:
    encoder = WordEncoder(dimensions=64)
    long = "Sol mar rio. " * 4 + "Praia lua praia. " + "Vento casa pedra. " * 4
    index = put(tmp_path / "index", {"long": long, "short": "rio vento"}, vectorizer(encoder), chunk_words=6)
    dense = dense_of(index)
    assert index.snapshot is not None
    assert len(dense) == len(index.snapshot.postings) > 4
    query = encoder.encode(["praia lua praia."])[0]
    near = dense.search(query, 5)
    assert index.ids(near.numbers) == ["long", "short"]
    document, chunks = index.document(int(near.numbers[0]))
    start, end = chunks[int(near.units[0])]
    assert "Praia" in document.contents[start:end]
    similarities, units = dense.similarities(query, near.numbers[::-1])
    assert similarities.tolist() == pytest.approx(near.similarities[::-1].tolist())
    assert units.tolist() == near.units[::-1].tolist()


WORDS = ["sol", "mar", "rio", "lua"]
CHANGES = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), max_size=6
)


@settings(max_examples=25, deadline=None)
@given(
    states=st.lists(CHANGES.filter(len), min_size=1, max_size=4), store=st.sampled_from(STORES), chunks=st.booleans()
)
def test_any_updates_end_as_a_fresh_index(states: list[dict[str, list[str]]], store: Store, chunks: bool) -> None:
    encoder, changes = WordEncoder(), {"chunk_words": 2} if chunks else {}
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "BATCH", 2)
        for state in states:
            texts = {name: " ".join(words) for name, words in state.items()}
            index = put(Path(home) / "index", texts, vectorizer(encoder, store), **changes)
        fresh = put(Path(home) / "fresh", texts, vectorizer(encoder, store), **changes)
        for word in WORDS:
            query = encoder.encode([word])[0]
            found, expected = dense_of(index).search(query, 9), dense_of(fresh).search(query, 9)
            assert index.ids(found.numbers) == fresh.ids(expected.numbers)
            assert found.similarities.tolist() == expected.similarities.tolist()


def test_an_open_index_keeps_its_vectors_while_an_update_replaces_them(tmp_path: Path) -> None:
    encoder = WordEncoder()
    index = put(tmp_path / "index", TEXTS, vectorizer(encoder, method="hnsw"))
    put(tmp_path / "index", {"z": "outra coisa"}, vectorizer(encoder, method="hnsw"))
    assert nearest(index, encoder, "pedra vento", 1) == ["c"]
    assert nearest(Index(tmp_path / "index"), encoder, "pedra vento", 1) == ["z"]


def test_an_older_format_is_refused_in_words(tmp_path: Path) -> None:
    put(tmp_path / "index", TEXTS, None)
    manifest = tmp_path / "index" / "index.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(InputError, match="has the index format 2, this lavra reads 3"):
        Index(tmp_path / "index")


# The forms, and the graph, on vectors alone.


def clustered(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float32]:
    """Return vectors of length 1 that lie in clusters, as those of texts do."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, count // 50), dimensions))
    chosen = centres[random.integers(0, len(centres), count)]
    vectors = chosen + 0.4 * random.standard_normal((count, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def snapshot_of(folder: Path, vectors: NDArray[np.float32], old: Path | None = None, **changes) -> DenseSnapshot:
    """Write vectors as an index does, each with a key of its content, and open them."""
    made = DenseSettings("m", "f", vectors.shape[1], **changes)
    keys = (
        np.random.default_rng(vectors[:, 0].view(np.uint32)[0]).integers(0, 2**63, (len(vectors), 2)).astype(np.uint64)
    )
    keys[:, 0] = vectors[:, :2].copy().view(np.uint64)[:, 0]  # by the content
    source = folder / "source"
    source.mkdir(parents=True)
    for name, part in stored(vectors, made.store).items():
        np.save(source / f"{name}.npy", part)
    np.save(source / "keys.npy", keys)
    (folder / "dense").mkdir()
    build_vectors(folder / "dense", keys, [source], made, old)
    return DenseSnapshot(folder / "dense", np.arange(len(vectors), dtype=np.int32), None)


@pytest.mark.parametrize(("store", "error"), [("float16", 1e-3), ("int8", 2e-2), ("binary", 2e-2)])
def test_products_are_those_of_the_vectors(tmp_path: Path, store: Store, error: float) -> None:
    vectors, queries = clustered(500, 48), clustered(3, 48, seed=1)
    dense = snapshot_of(tmp_path, vectors, store=store)
    whole = dense.vectors.products(queries)
    assert np.abs(whole - queries @ vectors.T).max() < error
    with pytest.MonkeyPatch.context() as patch:  # by blocks, as many vectors are
        patch.setattr("lavra.search.index.dense.stores._KEPT", 10)
        patch.setattr("lavra.search.index.dense.stores._AT_ONCE", 64)
        by_blocks = StoredVectors(dense.folder, store).products(queries)
        assert np.allclose(by_blocks, whole, atol=1e-6)
    assert np.abs(dense.vectors.rows(slice(7, 9)) - vectors[7:9]).max() < error
    assert dense.vectors.bytes == 500 * {"float16": 96, "int8": 52, "binary": 60}[store]


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = snapshot_of(tmp_path, clustered(100, 16), store="binary")
    query = clustered(1, 16, seed=2)
    whole, bits = dense.vectors.products(query), dense.vectors.distances(query[0])
    monkeypatch.setattr("lavra.search.index.dense.stores._AT_ONCE", 7)
    assert np.allclose(dense.vectors.products(query), whole, atol=1e-6)
    assert (dense.vectors.distances(query[0]) == bits).all()
    expected = [(np.signbit(-row) != np.signbit(-query[0])).sum() for row in clustered(100, 16)]
    assert bits.tolist() == expected


def test_a_vector_of_zeros_stays_one() -> None:
    zeros = stored(np.zeros((2, 8), dtype=np.float32), "int8")
    assert not (zeros["vectors"] * zeros["scales"][:, None]).any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12), st.integers(0, 12))
def test_keys_are_found_where_they_are(pairs: list[tuple[int, int]], known: int) -> None:
    keys = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    found = positions_of(keys, keys[:known])
    for number, place in enumerate(found.tolist()):
        there = [row for row in range(len(keys[:known])) if (keys[row] == keys[number]).all()]
        assert place in there if there else place == -1


def recall(dense: DenseSnapshot, queries: NDArray[np.float32], top_k: int = 10) -> float:
    found = [set(dense.search(query, top_k).numbers.tolist()) for query in queries]
    exact = [set(dense.search(query, top_k, exact=True).numbers.tolist()) for query in queries]
    return sum(len(one & other) for one, other in zip(found, exact, strict=True)) / (len(queries) * top_k)


@pytest.mark.parametrize(("store", "method"), [("float16", "hnsw"), ("int8", "hnsw"), ("binary", "auto")])
def test_candidates_hold_nearly_all_of_the_nearest(tmp_path: Path, store: Store, method: Method) -> None:
    if method == "hnsw":
        pytest.importorskip("usearch")
    dense = snapshot_of(tmp_path, clustered(2000, 64), store=store, method=method)
    assert dense.method == ("hnsw" if method == "hnsw" else "signs")
    assert recall(dense, clustered(2000, 64)[:40]) >= 0.95
    near = dense.search(clustered(2000, 64)[3], 10)
    assert near.numbers[0] == 3  # what is found is ordered by the stored vectors, not by the candidates
    assert near.similarities.tolist() == sorted(near.similarities.tolist(), reverse=True)


def test_a_graph_that_is_changed_finds_the_new_and_not_the_old(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    vectors = clustered(1000, 32)
    first = snapshot_of(tmp_path / "first", vectors[:900], store="int8", method="hnsw")
    later = snapshot_of(tmp_path / "later", vectors[100:], old=first.folder, store="int8", method="hnsw")
    assert recall(later, vectors[:200]) >= 0.95
    assert [later.search(vectors[number], 1).numbers[0] for number in (950, 999, 100)] == [850, 899, 0]
    assert max(later.search(vectors[5], 900).numbers) < 900


def test_the_graph_is_for_many_vectors_of_length_one(tmp_path: Path) -> None:
    auto, hnsw = DenseSettings("m", "f", 8), DenseSettings("m", "f", 8, method="hnsw")
    assert not auto.has_graph(EXACT)
    assert auto.has_graph(EXACT + 1)
    assert hnsw.has_graph(1)
    assert not hnsw.has_graph(0)
    assert not DenseSettings("m", "f", 8, "binary").has_graph(EXACT + 1)
    assert snapshot_of(tmp_path, 3 * clustered(50, 16), method="hnsw").method == "exact"


def test_parts_of_different_lengths_are_damage(tmp_path: Path) -> None:
    from lavra.core.errors import CorruptFile

    snapshot_of(tmp_path, clustered(20, 8), store="int8")
    np.save(tmp_path / "dense" / "scales.npy", np.ones(19, dtype=np.float32))
    with pytest.raises(CorruptFile, match="different numbers of vectors"):
        StoredVectors(tmp_path / "dense", "int8")
