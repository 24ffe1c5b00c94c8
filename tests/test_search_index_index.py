"""The index: Lucene's formula, updates that equal a fresh index, crashes at every step, ties, fields, chunks."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.search.index.segments import SegmentWriter
from lavra.search.index.update import DUPLICATE_ID, IndexUpdate
from lavra.text.analyzers import Analyzer
from lavra.text.term_counts import TextCounter

PLAIN = Analyzer("en", stop_words=False, stem=False)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


WORDS = ["sol", "mar", "rio", "lua", "céu", "pedra", "vento", "casa"]


def make(folder: Path, documents: Iterable[Document], **changes) -> Index:
    index = Index.create(folder, IndexSettings(PLAIN, **changes))
    with index.update() as update:
        for document in documents:
            update.put(document)
    return Index(folder)


def results(index: Index, query: str, top_k: int = 10) -> list[tuple[str, float]]:
    numbers, scores = index.search(query, top_k)
    return list(zip(index.ids(numbers), scores.tolist(), strict=True))


def random_documents(count: int, seed: int = 0) -> list[Document]:
    random = np.random.default_rng(seed)
    draws = [random.zipf(1.3, random.integers(1, 60)) % 200 for _ in range(count)]
    return [Document(f"d{number}", " ".join(f"w{word}" for word in words)) for number, words in enumerate(draws)]


def lucene(documents: list[Document], query: str, k1: float, b: float) -> dict[str, float]:
    """Lucene's BM25, written out by hand."""
    counts = {document.id: Counter(document.contents.split()) for document in documents}
    lengths = {name: sum(counted.values()) for name, counted in counts.items()}
    average = sum(lengths.values()) / len(lengths)
    scores: dict[str, float] = {}
    for term in query.split():
        frequency = sum(term in counted for counted in counts.values())
        idf = math.log(1 + (len(counts) - frequency + 0.5) / (frequency + 0.5))
        for name, counted in counts.items():
            if term in counted:
                norm = k1 * (1 - b + b * lengths[name] / average)
                scores[name] = scores.get(name, 0.0) + idf * counted[term] / (counted[term] + norm)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (2.0, 0.0), (0.0, 0.5)])
def test_scores_are_lucenes(tmp_path: Path, k1: float, b: float) -> None:
    documents = random_documents(150)
    index = make(tmp_path / "index", documents, k1=k1, b=b)
    for query in ("w1", "w2 w7 w7 w30", "w5 unknown w199"):
        expected = lucene(documents, query, k1, b)
        found = dict(results(index, query, 1000))
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, rel=1e-5)


def test_scores_are_those_of_bm25s(tmp_path: Path) -> None:
    import bm25s

    documents = random_documents(300, seed=1)
    engine = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    engine.index([document.text.split() for document in documents], show_progress=False)
    index = make(tmp_path / "index", documents)
    assert index.snapshot is not None
    for query in ("w1 w2", "w3 w3 w50 w9"):
        ours = index.snapshot.postings.scores(index.query_terms(query))
        assert ours == pytest.approx(engine.get_scores(query.split()), rel=1e-5)


def test_ties_go_to_the_higher_id_and_any_number_of_results_may_be_asked_for(tmp_path: Path) -> None:
    documents = [Document(name, "sol e mar") for name in ("b", "Z", "é", "a", "aa")]
    index = make(tmp_path / "index", [*documents, Document("none", "pedra"), Document("best", "sol sol mar mar")])
    assert [name for name, _ in results(index, "sol", 3)] == ["best", "é", "b"]
    assert [name for name, _ in results(index, "sol mar", 1000)] == ["best", "é", "b", "aa", "a", "Z"]
    assert results(index, "desconhecido") == []
    assert results(index, "") == []


def test_an_empty_index_answers_nothing_and_an_unfinished_one_says_so(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IndexSettings(PLAIN))
    with pytest.raises(InputError, match="no searchable documents"):
        index.search("sol")
    with index.update():
        pass
    assert results(Index(tmp_path / "index"), "sol") == []


OPERATIONS = st.lists(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.none() | st.lists(st.sampled_from(WORDS), min_size=1, max_size=6)),
        max_size=6,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None)
@given(OPERATIONS)
def test_updates_equal_a_fresh_index(updates: list[list[tuple[str, list[str] | None]]]) -> None:
    wanted: dict[str, Document] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "updated"
        Index.create(folder, IndexSettings(PLAIN))
        for operations in updates:
            before = set(wanted)
            with Index(folder).update() as update:
                for name, words in operations:
                    if words is None:
                        if name in before:  # what came in this very update cannot be deleted in it
                            assert update.delete(name) or name not in wanted
                            wanted.pop(name, None)
                    else:
                        wanted[name] = Document(name, " ".join(words[1:]), queries=tuple(words[:1]))
                        update.put(wanted[name])
        updated, fresh = Index(folder), make(Path(temporary) / "fresh", wanted.values())
        assert len(updated) == len(wanted)
        assert {document.id: document for document in updated.documents()} == wanted
        for word in WORDS:
            assert results(updated, word) == results(fresh, word)


def test_many_small_updates_stay_few_segments(tmp_path: Path) -> None:
    documents = random_documents(60, seed=2)
    index = make(tmp_path / "index", documents[:10])
    for document in documents[10:]:
        with index.update() as update:
            update.put(document)
            update.put(Document("same", f"{document.text} changed"))
    assert len(list((tmp_path / "index").glob("segment-*"))) <= 8
    assert len(list((tmp_path / "index").glob("postings-*"))) == 1
    fresh = make(tmp_path / "fresh", [*documents, Document("same", f"{documents[-1].text} changed")])
    assert results(Index(tmp_path / "index"), "w1 w3", 100) == results(fresh, "w1 w3", 100)


def test_complete_update_deletes_what_is_not_named(tmp_path: Path) -> None:
    documents = random_documents(20)
    index = make(tmp_path / "index", documents)
    with index.update(complete=True) as update:
        for document in documents[5:]:
            update.put(document)
        update.put(Document("new", "sol"))
    assert vars(update.changes) == {"added": 1, "replaced": 0, "deleted": 5, "unchanged": 15}
    assert {document.id for document in Index(tmp_path / "index").documents()} == {
        "new",
        *(document.id for document in documents[5:]),
    }


def test_a_text_is_counted_once_even_when_its_queries_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = TextCounter.numbers
    monkeypatch.setattr(
        TextCounter, "numbers", lambda self, words: seen.append(" ".join(words)) or original(self, words)
    )
    index = make(tmp_path / "index", [Document("a", "o sol"), Document("b", "a lua")])
    assert seen == ["o sol", "a lua"]
    with index.update() as update:
        update.put(Document("a", "o sol"))
        update.put(Document("b", "a lua", queries=("noite",)))
    assert seen[2:] == ["noite"]
    assert vars(update.changes) == {"added": 0, "replaced": 1, "deleted": 0, "unchanged": 1}
    assert [name for name, _ in results(Index(tmp_path / "index"), "noite lua")] == ["b"]


def crash_at(step: int, work) -> bool:
    """Run `work` in a child that dies, as by `kill -9`, just before or after its n-th rename; tell whether it died."""
    child = os.fork()
    if child == 0:
        renames, original = 0, os.replace

        def replace(source, target, **options):
            nonlocal renames
            renames += 1
            if renames * 2 - 1 == step:
                os._exit(9)
            original(source, target, **options)
            if renames * 2 == step:
                os._exit(9)

        os.replace = replace
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_moment_loses_nothing_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentWriter, "is_full", property(lambda self: len(self) >= 12))
    old, new = random_documents(20, seed=3), random_documents(30, seed=4)
    expected_old = results(make(tmp_path / "old", old), "w1 w2", 100)
    expected_new = results(make(tmp_path / "new", new[5:]), "w1 w2", 100)
    died, step = True, 0
    while died:
        step += 1
        folder = tmp_path / f"index-{step}"
        shutil.copytree(tmp_path / "old", folder)

        def work(folder: Path = folder) -> None:
            with Index(folder).update(complete=True) as update:
                for document in new[5:]:
                    update.put(document)

        died = crash_at(step, work)
        assert results(Index(folder), "w1 w2", 100) in (expected_old, expected_new)
        work()
        assert results(Index(folder), "w1 w2", 100) == expected_new
        assert Index(folder).is_complete
        assert not [path for path in folder.iterdir() if "building" in path.name]
    assert step > 6


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentWriter, "is_full", property(lambda self: len(self) >= 10))
    documents = random_documents(35)
    index = Index.create(tmp_path / "index", IndexSettings(PLAIN))
    update = IndexUpdate(tmp_path / "index")
    for document in documents[:27]:
        update.put(document)
    assert not index.is_complete
    with index.update() as update:  # the first one was never ended, as if killed
        for document in documents:
            update.put(document)
    assert vars(update.changes) == {"added": 15, "replaced": 0, "deleted": 0, "unchanged": 20}
    assert len(Index(tmp_path / "index")) == 35


def test_an_open_index_keeps_its_state_while_another_process_updates(tmp_path: Path) -> None:
    index = make(tmp_path / "index", [Document("a", "sol")])
    with index.update() as update:
        update.put(Document("b", "sol"))
        with pytest.raises(InputError, match="is being updated"), index.update():
            pass
    assert [name for name, _ in results(index, "sol")] == ["a"]
    assert index.document(0)[0] == Document("a", "sol")
    assert [name for name, _ in results(Index(tmp_path / "index"), "sol")] == ["b", "a"]


def test_duplicate_ids_are_counted_with_their_places_and_the_last_one_counts(tmp_path: Path) -> None:
    problems = BadRows()
    index = Index.create(tmp_path / "index", IndexSettings(PLAIN))
    with index.update(bad_rows=problems) as update:
        for number, text in enumerate(["sol", "mar", "lua"], start=1):
            update.put(Document("x", text, place=f"corpus.jsonl:{number}"))
        update.put(Document("y", "sol"))
    assert problems.counts == {DUPLICATE_ID: 2}
    assert vars(update.changes) == {"added": 2, "replaced": 0, "deleted": 0, "unchanged": 0}
    assert problems.examples[DUPLICATE_ID] == [("corpus.jsonl:1", "'x'"), ("corpus.jsonl:2", "'x'")]
    assert [name for name, _ in results(Index(tmp_path / "index"), "sol lua mar")] == ["y", "x"]
    assert len(Index(tmp_path / "index")) == 2


EXPANDED = [
    Document("a", "sol mar", queries=("sol sol", "praia")),
    Document("b", "mar rio", queries=("praia praia",)),
    Document("c", "rio", queries=()),
]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ("doc", {"a": "sol mar", "b": "mar rio", "c": "rio"}),
        ("doc+queries", {"a": "sol mar sol sol praia", "b": "mar rio praia praia", "c": "rio"}),
        ("queries", {"a": "sol sol praia", "b": "praia praia"}),
        ("doc+new-terms", {"a": "sol mar praia", "b": "mar rio praia praia", "c": "rio"}),
    ],
)
def test_fields(tmp_path: Path, fields: str, texts: dict[str, str]) -> None:
    index = make(tmp_path / "index", EXPANDED, fields=fields)
    documents = [Document(name, text) for name, text in texts.items()]
    changed = make(tmp_path / "changed", EXPANDED, fields="doc").change_settings(fields=fields)
    variant = make(tmp_path / "base", EXPANDED).variant(tmp_path / "variant", fields=fields)
    for query in ("sol", "praia mar", "rio"):
        expected = lucene(documents, query, 0.9, 0.4)
        assert dict(results(index, query)) == pytest.approx(expected, rel=1e-5)
        assert results(changed, query) == results(index, query)
        numbers, scores = variant.search(index.query_terms(query), 10)
        assert [variant.id_of(number) for number in numbers] == [name for name, _ in results(index, query)]
        assert scores.tolist() == [score for _, score in results(index, query)]


def test_queries_may_count_with_a_weight(tmp_path: Path) -> None:
    index = make(tmp_path / "index", EXPANDED, query_weight=2.0)
    documents = [
        Document("a", "sol mar" + " sol sol praia" * 2),
        Document("b", "mar rio" + " praia praia" * 2),
        Document("c", "rio"),
    ]
    assert dict(results(index, "praia sol")) == pytest.approx(lucene(documents, "praia sol", 0.9, 0.4), rel=1e-5)


def test_shares_of_new_and_copied_terms(tmp_path: Path) -> None:
    index = make(tmp_path / "index", EXPANDED)
    assert index.snapshot is not None
    shares = index.snapshot.shares
    assert (shares.copied, shares.new, shares.queries) == (2, 3, 3)
    assert shares.new_share == 0.6


def test_the_best_share_of_the_queries_by_score(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IndexSettings(PLAIN, keep_queries=0.5))
    with index.update() as update:
        update.put(Document("a", "sol", queries=("mar", "rio")), scores=(0.9, 0.1))
        update.put(Document("b", "sol", queries=("lua", "vento")), scores=(0.2, 0.8))
    index = Index(tmp_path / "index")
    assert [[name for name, _ in results(index, word)] for word in ("mar", "rio", "lua", "vento")] == [
        ["a"],
        [],
        [],
        ["b"],
    ]
    everything = index.change_settings(keep_queries=1.0)
    assert [name for name, _ in results(everything, "rio lua")] == ["b", "a"]
    with pytest.raises(InputError, match="1 scores"), index.update() as update:
        update.put(Document("c", "sol", queries=("mar", "rio")), scores=(0.9,))


def test_repeats_and_copies_of_the_text_can_be_left_out(tmp_path: Path) -> None:
    document = Document("a", "o sol e o mar", queries=("onde é a praia", "Onde é a praia?", "sol e o mar", "mar sol"))
    index = make(tmp_path / "index", [document], drop_repeats=True)
    assert index.snapshot is not None
    assert index.snapshot.shares.queries == 2


def test_queries_without_scores_cannot_be_filtered(tmp_path: Path) -> None:
    index = make(tmp_path / "index", EXPANDED)
    with pytest.raises(InputError, match="3 of 3 generated queries have no score"):
        index.change_settings(keep_queries=0.5)
    assert results(Index(tmp_path / "index"), "praia")


def test_a_document_scores_as_its_best_chunk(tmp_path: Path) -> None:
    long = Document("long", "Sol mar rio. " * 5 + "Praia lua praia. " + "Vento casa pedra. " * 5, queries=("Verão",))
    short = Document("short", "Praia mar rio vento casa. Pedra sol.")
    index = make(tmp_path / "index", [long, short], b=1.0, chunk_words=6)
    assert index.snapshot is not None
    assert len(index.snapshot.postings) > 4
    whole = make(tmp_path / "whole", [long, short], b=1.0)
    assert results(index, "praia")[0][0] == "long"
    assert results(whole, "praia")[0][0] == "short"
    scores = index.snapshot.postings.scores(index.query_terms("praia lua"))
    best = results(index, "praia lua")
    assert dict(best)["long"] == pytest.approx(scores[:-1].max())
    assert [name for name, _ in results(index, "verão")] == ["long"]


def test_documents_come_back_with_numbers_ids_and_places(tmp_path: Path) -> None:
    document = Document("é/1", "texto", "Título", ("pergunta",), "corpus.jsonl:7")
    index = make(tmp_path / "index", [document, Document("b", "outro")])
    assert index.snapshot is not None
    number = index.snapshot.number_of("é/1")
    assert number is not None
    assert index.document(number)[0] == document
    assert index.snapshot.number_of("nowhere") is None


def test_wrong_folders_and_changed_analyzers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no search index"):
        Index(tmp_path)
    index = make(tmp_path / "index", EXPANDED)
    with pytest.raises(InputError, match="exists already"):
        Index.create(tmp_path / "index", index.settings)
    with pytest.raises(InputError, match="analyzer cannot be changed"):
        index.change_settings(analyzer=Analyzer("pt"))
    with pytest.raises(InputError, match="'body' is not a choice of fields"):
        index.change_settings(fields="body")
    manifest = tmp_path / "index" / "index.json"
    manifest.write_text(manifest.read_text().replace(PLAIN.fingerprint, "0" * 16))
    with pytest.raises(InputError, match="another version of the analyzer"):
        Index(tmp_path / "index")
