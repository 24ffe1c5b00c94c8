"""The experiment on a small collection where expansion is known to help, tuning, the filter and the ceiling."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.core.errors import InputError
from lavra.core.progress import set_quiet
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import BeirCollection
from lavra.search.experiment.experiment import BASELINE, ExperimentResult, run_experiment, systems_for
from lavra.search.experiment.files import difference_lines, plot, points, share_plot, table, write_experiment
from lavra.search.experiment.retrieval import evaluate, judged_queries
from lavra.search.experiment.tune import K1, QUERY_WEIGHTS, B, evaluate_oracle, tune
from lavra.search.index.build import build_index
from lavra.search.index.fields import best_share, choose_queries
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.text.analyzers import Analyzer
from retrieval_runs import evaluate_run, run_of

PLAIN = Analyzer("en", stop_words=False, stem=False)


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    set_quiet(True)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents; half of the queries use a word that only generated queries know; bad ones have low scores."""
    folder = tmp_path_factory.mktemp("collection")
    random = np.random.default_rng(0)
    corpus, queries, qrels, expansions = [], [], ["query-id\tcorpus-id\tscore"], []
    for number in range(60):
        filler = " ".join(f"w{word}" for word in random.integers(0, 40, 30))
        corpus.append({"_id": f"d{number:02d}", "title": "", "text": f"topic{number % 30} detail{number} {filler}"})
        word = f"synonym{number}" if number % 2 else f"detail{number}"
        queries += [
            {"_id": f"q{number:02d}", "text": f"{word} w1"},
            {"_id": f"p{number:02d}", "text": f"synonym{number}"},
        ]
        qrels += [f"q{number:02d}\td{number:02d}\t1", f"p{number:02d}\td{number:02d}\t1"]
        good, bad = f"what is synonym{number}", f"about synonym{(number + 7) % 60} synonym{(number + 7) % 60}"
        expansions.append({"id": f"d{number:02d}", "predicted_queries": [good, bad, good], "scores": [0.9, 0.1, 0.8]})
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(line for line in qrels if not line.startswith("p")) + "\n")
    (folder / "qrels" / "all.tsv").write_text("\n".join(qrels) + "\n")
    for name, rows in (("corpus", corpus), ("queries", queries), ("expansions", expansions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def result(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> ExperimentResult:
    set_quiet(True)
    folder = tmp_path_factory.mktemp("experiment")
    opened = BeirCollection(collection)
    index, changes, warnings = build_index(
        opened, folder / "index", IndexSettings(PLAIN), expansions=collection / "expansions.jsonl"
    )
    assert (changes.added, warnings) == (60, [])
    return run_experiment(
        index, opened.queries(), opened.qrels("test"), folder / "work", collection="synonyms", split="test"
    )


def test_expansion_helps_here_and_the_filter_helps_more(result: ExperimentResult) -> None:
    names = [one.system.name for one in result.systems]
    assert names == [
        BASELINE,
        "documents + queries",
        "queries only",
        "documents + new terms",
        "documents + queries, no repeats",
        "documents + best 10% of queries",
        "documents + best 30% of queries",
        "documents + best 50% of queries",
        "documents + best 70% of queries",
    ]
    means = {one.system.name: one.estimates["MRR@10"].value for one in result.systems}
    assert means["documents + queries"] > means[BASELINE] + 0.2
    assert means["documents + best 30% of queries"] > means["documents + queries"]
    found = result.comparison("documents + best 30% of queries")
    assert found is not None
    assert found.p_holm < 0.001
    assert found.losses == 0
    full, kept = (result.systems[names.index(name)].shares for name in (names[1], names[6]))
    assert (full.queries, kept.queries) == (180, 54)
    assert full.new_share == 1.0
    assert result.systems[6].bytes < result.systems[1].bytes
    assert result.comparison(BASELINE) is None


def test_files(result: ExperimentResult, tmp_path: Path) -> None:
    write_experiment(result, tmp_path)
    read = json.loads((tmp_path / "experiment.json").read_text())
    assert read["systems"][0]["system"] == BASELINE
    assert set(read["systems"][1]["MRR@10"]) == {"value", "low", "high"}
    assert set(read["systems"][1]["latency_ms"]) == {"p50", "p95", "p99", "queries"}
    assert len(read["comparisons"]) == 8 * 6
    lines = table(result)
    assert lines[0] == "synonyms test: 60 documents, 60 queries"
    assert len({line.index("MRR@10") for line in lines if line.startswith("system")}) == 1
    ElementTree.fromstring(plot(result))
    ElementTree.fromstring(share_plot(result))
    assert [share for share, _ in points(result)] == [0.0, 0.1, 0.3, 0.5, 0.7, 1.0]
    rows = [line.rstrip("\n").split("\t") for line in difference_lines(result)]
    assert all(len(row) == 6 for row in rows)
    changed = [row for row in rows if row[0] == "documents + best 30% of queries"]
    assert len(changed) == result.comparison("documents + best 30% of queries").wins  # pyright: ignore[reportOptionalMemberAccess]


def test_measures_through_numbers_equal_those_of_the_run(collection: Path, tmp_path: Path) -> None:
    opened = BeirCollection(collection)
    index, _, _ = build_index(opened, tmp_path / "index", IndexSettings(PLAIN))
    qrels = {**opened.qrels("all"), "unknown words": {"d01": 1}, "q01": {"d01": 2, "d02": 0, "not there": 1}}
    queries = {**opened.queries(), "unknown words": "xyz"}
    assert index.snapshot is not None
    direct = evaluate(index.snapshot, judged_queries(index, queries, qrels))
    asked = {query: queries[query] for query in qrels}
    through_run = evaluate_run(qrels, run_of(index, asked))
    assert direct.queries == through_run.queries
    assert direct.values == pytest.approx(through_run.values)
    assert direct.unanswered == through_run.unanswered == 61


def test_an_index_without_expansions_has_only_the_baseline(collection: Path, tmp_path: Path) -> None:
    index, _, _ = build_index(BeirCollection(collection), tmp_path / "index", IndexSettings(PLAIN))
    assert [system.name for system in systems_for(index)] == [BASELINE]
    opened = BeirCollection(collection)
    alone = run_experiment(index, opened.queries(), opened.qrels("test"), tmp_path / "work")
    assert alone.comparisons == []
    assert len(table(alone)) > 3
    assert share_plot(alone) == ""
    ElementTree.fromstring(plot(alone))


def test_unrelated_judgements_are_refused_and_missing_queries_are_told(collection: Path, tmp_path: Path) -> None:
    opened = BeirCollection(collection)
    index, _, _ = build_index(opened, tmp_path / "index", IndexSettings(PLAIN))
    with pytest.raises(InputError, match="same collection"):
        run_experiment(index, opened.queries(), {"q00": {"nowhere": 1}}, tmp_path / "work")
    with pytest.raises(InputError, match="same collection"):
        run_experiment(index, {"other": "text"}, opened.qrels("test"), tmp_path / "work")
    told = run_experiment(index, opened.queries(), {**opened.qrels("test"), "lost": {"d01": 1}}, tmp_path / "again")
    assert told.warnings == ["warning: 1 judged query has no text and was left out"]


def test_tuning_finds_the_best_of_the_grid_and_equals_indexing_with_it(collection: Path, tmp_path: Path) -> None:
    opened = BeirCollection(collection)
    index, _, _ = build_index(
        opened, tmp_path / "index", IndexSettings(PLAIN), expansions=collection / "expansions.jsonl"
    )
    judged = judged_queries(index, opened.queries(), opened.qrels("all"))
    found = tune(index, judged, tmp_path / "tuning")
    assert len(found.tried) == len(K1) * len(B) * len(QUERY_WEIGHTS)
    assert found.value == max(value for *_, value in found.tried)
    plain = tune(index, judged, tmp_path / "plain", changes={"fields": "doc"})
    assert len(plain.tried) == len(K1) * len(B)
    assert plain.value < found.value
    again = evaluate(index.variant(tmp_path / "best", **found.changes), judged, depth=100)
    assert again.means()["MRR@10"] == pytest.approx(found.value)
    result = run_experiment(
        index, opened.queries(), opened.qrels("test"), tmp_path / "work", systems=systems_for(index)[:2],
        validation=opened.qrels("all"),
    )  # fmt: skip
    assert result.systems[1].tuning is not None
    measured = vars(result.systems[1].settings)
    assert {name: measured[name] for name in found.changes} == found.changes


def test_the_ceiling_asks_each_question_where_it_is_not_indexed(collection: Path, tmp_path: Path) -> None:
    opened = BeirCollection(collection)
    settings = IndexSettings(PLAIN)
    index, _, _ = build_index(opened, tmp_path / "index", settings, expansions=collection / "expansions.jsonl")
    qrels, queries = opened.qrels("all"), opened.queries()
    oracle = evaluate_oracle(opened, queries, qrels, settings, tmp_path / "folds")
    result = run_experiment(index, queries, qrels, tmp_path / "work", systems=systems_for(index)[:2])
    result.oracle = oracle
    assert oracle.queries == result.systems[0].scores.queries
    before, after = result.systems[0].scores, oracle
    odd = [row for row, query in enumerate(oracle.queries) if query.startswith("p") and int(query[1:]) % 2]
    assert after.of("MRR@10")[odd].mean() > before.of("MRR@10")[odd].mean()
    single = {query: judged for query, judged in qrels.items() if query.startswith("p")}
    alone = evaluate_oracle(opened, queries, single, settings, tmp_path / "alone")
    assert not alone.values.any()  # each document has this one question, which is never indexed where it is asked
    share = result.gain_share("documents + queries")
    assert share is not None
    assert share > 0
    assert any("of the gain in MRR@10" in line for line in table(result))
    ElementTree.fromstring(plot(result))


def test_building_again_brings_the_index_up_to_date(collection: Path, tmp_path: Path) -> None:
    opened = BeirCollection(collection)
    settings = IndexSettings(PLAIN)
    build_index(opened, tmp_path / "index", settings)
    index, changes, _ = build_index(opened, tmp_path / "index", settings, expansions=collection / "expansions.jsonl")
    assert vars(changes) == {"added": 0, "replaced": 60, "deleted": 0, "unchanged": 0}
    assert index.generated_queries == (180, True)
    with pytest.raises(InputError, match="was made with --language en, not pt"):
        build_index(opened, tmp_path / "index", IndexSettings(Analyzer("pt")))


def test_what_is_wrong_with_the_input_is_told(tmp_path: Path) -> None:
    texts = ["Os rios correm para o mar, e as crianças não sabem por quê nem quando isso também foi dito."] * 12
    rows = [{"_id": str(number), "text": text} for number, text in enumerate(texts)]
    rows += [{"_id": "3", "text": "outra vez"}, {"_id": "vazio", "text": ""}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "e.jsonl").write_text('{"id": "nowhere", "predicted_queries": ["x"]}\n')
    problems = BadRows()
    _, _, warnings = build_index(
        BeirCollection(tmp_path, problems), tmp_path / "index", IndexSettings(Analyzer("en")),
        expansions=tmp_path / "e.jsonl", bad_rows=problems,
    )  # fmt: skip
    assert len(warnings) == 4
    text = "\n".join(warnings)
    assert "1 × empty document (corpus.jsonl:14: vazio)" in text
    assert "document id that came before in the same collection (the last one counts) (corpus.jsonl:4: '3')" in text
    assert "expansion of a document that is not in the corpus (e.jsonl:1)" in text
    assert "use --language pt" in text
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1", "text": ""}\n')
    with pytest.raises(InputError, match="no document with text"):
        build_index(BeirCollection(tmp_path), tmp_path / "empty", IndexSettings(PLAIN))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_the_filter_keeps_exactly_the_share_and_the_best(values: list[int], share: float) -> None:
    scores = np.array(values, dtype=np.float32)
    kept = best_share(scores, share)
    assert kept.sum() == (len(scores) if share == 1 else round(share * len(scores)))
    if kept.any() and not kept.all():
        assert scores[kept].min() >= scores[~kept].max()


def test_keeping_every_query_is_not_filtering(collection: Path, tmp_path: Path) -> None:
    opened = BeirCollection(collection)
    index, _, _ = build_index(
        opened, tmp_path / "index", IndexSettings(PLAIN), expansions=collection / "expansions.jsonl"
    )
    judged = judged_queries(index, opened.queries(), opened.qrels("all"))
    unfiltered = evaluate(index.variant(tmp_path / "all", keep_queries=1.0), judged)
    nearly = evaluate(index.variant(tmp_path / "nearly", keep_queries=0.9999), judged)
    assert (unfiltered.values == nearly.values).all()


def test_repeats_are_left_out_before_the_share_is_taken() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6], dtype=np.float32)
    repeats = np.array([True, False, False, False])
    assert choose_queries(scores, repeats, share=1 / 3, drop_repeats=True).tolist() == [False, True, False, False]
    with pytest.raises(InputError, match="1 of 2"):
        best_share(np.array([1.0, np.nan], dtype=np.float32), 0.5)


def test_judged_falls_are_warned_of(tmp_path: Path) -> None:
    documents = [Document(f"d{n}", f"word{n}", queries=("shared",) if n >= 30 else ()) for n in range(60)]
    index = Index.create(tmp_path / "index", IndexSettings(PLAIN))
    with index.update() as update:
        for document in documents:
            update.put(document)
    queries = {f"q{n}": f"word{n} shared" for n in range(30)}
    qrels = {f"q{n}": {f"d{n}": 1} for n in range(30)}
    result = run_experiment(Index(index.folder), queries, qrels, tmp_path / "work")
    assert any("Judged@10 of 'documents + queries'" in warning for warning in result.warnings)
