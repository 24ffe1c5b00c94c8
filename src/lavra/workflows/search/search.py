"""Making a search index, searching it, exporting it, and measuring whether document expansion helps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

from lavra.config.search import DenseConfig
from lavra.core.disk.building import building_folder, remove_remains
from lavra.core.disk.locks import exclusive, holder
from lavra.core.disk.replacing import check_replaceable
from lavra.core.errors import InputError
from lavra.core.progress import log
from lavra.core.units import counted
from lavra.data.readers.rows import BESIDE_CORPUS, BadRows, OnBadRow
from lavra.evaluation.retrieval import Qrels
from lavra.search.corpora.documents import read_qrels
from lavra.search.corpora.formats import BeirCollection, Collection, open_collection, read_queries
from lavra.search.expansion.queries import read_provenance
from lavra.search.experiment.dense import Beside
from lavra.search.experiment.experiment import ExperimentResult, run_experiment
from lavra.search.experiment.files import write_experiment
from lavra.search.experiment.tune import evaluate_oracle
from lavra.search.export import ExportFormat, export_documents
from lavra.search.index.build import build_index, without_documents
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.index import Index
from lavra.search.index.manifest import LATER, Fields, IndexSettings
from lavra.search.search import Hit, search, why_nothing
from lavra.search.searcher import RERANKED, Mode
from lavra.text.analyzers import LANGUAGES, Analyzer, Language
from lavra.text.languages import guess_language
from lavra.workflows.search.dense import open_reranker, searcher_for, vectorizer_for

INDEX = "search-index"
"""Default folder of an index."""


@dataclass(frozen=True)
class IndexReport:
    """What `make_index` did.

    Attributes:
        index: The index as it is now.
        changes: Number of documents "added", "replaced", "deleted" and "unchanged".
        warnings: Warnings about the input.
        embedded: Number of texts whose vectors were made.
    """

    index: Index
    changes: dict[str, int]
    warnings: list[str]
    embedded: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        vectors = self.index.vectors
        return {
            "index": str(self.index.folder),
            "documents": len(self.index),
            **self.changes,
            "generated_queries": self.index.generated_queries[0],
            "index_bytes": self.index.postings_bytes,
            "settings": self.index.settings.to_json(),
            "dense": None if vectors is None else {**vectors.settings.to_json(), "searched_by": vectors.method},
            "vectors": 0 if vectors is None else len(vectors),
            "embedded": self.embedded,
            "vector_bytes": 0 if vectors is None else vectors.bytes,
            "warnings": self.warnings,
        }


def make_index(
    location: str,
    out: str | Path = INDEX,
    *,
    language: str = "auto",
    expansions: str | Path | None = None,
    fields: Fields = "doc+queries",
    k1: float = 0.9,
    b: float = 0.4,
    query_weight: float = 1.0,
    keep_queries: float = 1.0,
    drop_repeats: bool = False,
    chunk_words: int = 0,
    chunk_overlap: int = 0,
    dense: DenseConfig | None = None,
    device: str = "auto",
    add: bool = False,
    on_bad_row: OnBadRow = "skip",
    force: bool = False,
) -> IndexReport:
    """Make an index of a collection, of its words and where wanted of vectors, or bring an existing one up to date.

    Args:
        location: The documents: a BEIR folder, files or a folder of documents, `installed-docs:` or `ir_datasets:NAME`.
        out: The folder of the index. An existing index is brought up to date, and only changed documents are counted.
        language: Language of the documents, "pt" or "en"; "auto" guesses it from the documents.
        expansions: File of generated queries, as `expand` writes it; None for the queries that documents bring along.
        fields: What is searched: "doc" (title and text), "doc+queries", "queries" (generated queries alone) or
            "doc+new-terms" (the text, and the terms of the queries that it lacks).
        k1: BM25 term-frequency saturation, at least 0.
        b: BM25 length normalisation, from 0 to 1.
        query_weight: Weight of a term's occurrence in a generated query; one in the document itself has weight 1.
        keep_queries: Share of the generated queries that is indexed, those with the highest scores; above 0, at most 1.
        drop_repeats: Whether queries that repeat another query of the document or copy its text are left out.
        chunk_words: Most words of a chunk; documents are scored by their best chunk (MaxP), and 0 scores them whole.
        chunk_overlap: Most words that consecutive chunks share; less than `chunk_words`.
        dense: The vectors that are kept beside the words; None for those that the index has, if any.
        device: Device of the encoder: auto, cpu, cuda or mps.
        add: Whether documents of the index that the collection does not have are kept; else they are deleted.
        on_bad_row: What to do with rows that cannot be used: "skip" counts them, "error" raises an error, and "strict"
            also where a file is left out, or anything is guessed or replaced.
        force: Whether the index is built again from nothing, in place of what is there.

    Returns:
        The index, the changes and the warnings.

    Raises:
        InputError: If the collection cannot be read, the folder holds something else, or an existing index was made
            with another analyzer, other chunks or another encoder.
    """
    folder = Path(out)
    problems = BadRows(policy=on_bad_row)
    collection = open_collection(location, problems)
    if folder.exists() and not Index.exists(folder):
        raise InputError(f"{folder} exists and is no search index", "choose another --out")
    inputs = [location, *([expansions] if expansions else [])]
    if force:
        check_replaceable(folder, force=True, inputs=inputs)
    analyzer = _analyzer(collection, problems, language, folder, anew=force)
    problems.forget()  # guessing the language has read the first documents already
    if isinstance(collection, BeirCollection) and collection.beside():
        for path in collection.beside():
            problems.leave_out(path, BESIDE_CORPUS)
    settings = IndexSettings(
        analyzer, fields, k1, b, query_weight, keep_queries, drop_repeats, chunk_words, chunk_overlap
    )
    vectorizer = vectorizer_for(Index(folder) if Index.exists(folder) and not force else None, dense, device)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_name(f".{folder.name}.index.lock"), f"{folder} is being indexed", remove=True):
        if not force:
            remove_remains(folder)
            return _index_of(collection, folder, settings, problems, expansions, vectorizer, add=add)
        with building_folder(folder, force=True, inputs=inputs, kind="search index", later=LATER) as building:
            Index.begin(building, settings)
            made = _index_of(collection, building, settings, problems, expansions, vectorizer, add=add)
        return replace(made, index=Index(folder))


def search_index(
    query: str,
    index: str | Path = INDEX,
    *,
    top_k: int = 10,
    mode: Mode | Literal["auto"] = "auto",
    dense: str = "",
    dense_weight: float | None = None,
    rerank: str = "",
    rerank_depth: int = RERANKED,
    device: str = "auto",
) -> list[Hit]:
    """Search an index, and return passages with the words of the query marked.

    Args:
        query: The query as a person writes it.
        index: The folder of the index.
        top_k: Most documents to return, at least 1.
        mode: How the index is searched: by words ("lexical"), by vectors ("dense"), or by both ("hybrid"); "auto" is
            "hybrid" for an index with vectors, else "lexical".
        dense: The location of the encoder of the vectors, where it is not that of the index.
        dense_weight: Weight of the vectors in a hybrid search, from 0 to 1; None fuses by reciprocal ranks.
        rerank: The location of a model that ranks the first results anew; an empty string for none.
        rerank_depth: Number of results that it reads.
        device: Device of the models: auto, cpu, cuda or mps.

    Returns:
        The best documents, best first, with a passage of each, by what it was found and, where it made the match, a
        generated query. Why there is none is printed.

    Raises:
        InputError: If there is no index in the folder, `top_k` is below 1, the index has no vectors where they are
            asked for, or the encoder is another one than theirs.
    """
    opened = Index(Path(index))
    if not opened.is_complete:
        owner = holder(opened.folder / "lock")
        if owner is None:
            log(f"warning: the last update of {index} was interrupted; run `lavra index` again to finish it")
        else:
            log(f"{index} is being updated by process {owner}; what it held before is searched")
    searcher = searcher_for(
        opened,
        mode,
        dense=dense,
        dense_weight=dense_weight,
        rerank=rerank,
        rerank_depth=rerank_depth,
        device=device,
    )
    hits = search(opened, query, top_k, searcher=searcher)
    if not hits:
        log(why_nothing(opened, query))
    return hits


def export_index(index: str | Path, out: str | Path, kind: ExportFormat, *, force: bool = False) -> int:
    """Write the documents of an index, with their generated queries, for another search engine.

    Args:
        index: The folder of the index.
        out: The file to write.
        kind: The format: "anserini", "elasticsearch", "parquet" or "sqlite"; see `lavra.search.export`.
        force: Whether an existing file is replaced.

    Returns:
        The number of documents.

    Raises:
        InputError: If there is no index in the folder, or the file may not be written.
    """
    return export_documents(Index(Path(index)).documents(), Path(out), kind, force=force)


def evaluate_search(
    location: str,
    out: str | Path = "search-experiment",
    *,
    split: str = "",
    language: str = "auto",
    expansions: str | Path | None = None,
    queries: str | Path | None = None,
    qrels: str | Path | None = None,
    tune_on: str = "",
    oracle: bool = False,
    dense: DenseConfig | None = None,
    rerank: str = "",
    rerank_depth: int = RERANKED,
    k1: float = 0.9,
    b: float = 0.4,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
) -> ExperimentResult:
    """Measure BM25 on documents and on expanded documents, search by vectors, fusions of both and reranking.

    All systems search the same queries and stand in one table, with intervals, paired tests and Holm's correction.

    Args:
        location: A collection with queries and relevance judgements; see `make_index`.
        out: The folder that gets the index, `experiment.json`, `experiment.txt`, `differences.tsv` and
            `experiment.svg`.
        split: Split of the judgements to report on; if empty "test", or the last one of a collection without it.
        language: Language of the documents, "pt" or "en"; "auto" guesses it from the documents.
        expansions: File of generated queries, as `expand` writes it; None for the queries that documents bring along.
        queries: File of queries; None for those of the collection.
        qrels: File of relevance judgements; None for those of the collection.
        tune_on: Split on which k1, b and the weights of queries and of vectors are tuned, for each system; queries that
            are reported on are left out of it. An empty string for no tuning.
        oracle: Whether to measure the oracle too: documents expanded with the questions of people.
        dense: The vectors that are measured too, alone and fused with BM25; None for none.
        rerank: The location of a model that ranks the first results anew, which is measured too; an empty string for
            none.
        rerank_depth: Number of results that it reads.
        k1: BM25 term-frequency saturation, where it is not tuned.
        b: BM25 length normalisation from 0 to 1, where it is not tuned.
        device: Device of encoder and reranker: auto, cpu, cuda or mps.
        seed: Seed of intervals, tests and samples.
        force: Whether the results of an earlier experiment are replaced.

    Returns:
        The results of every system.

    Raises:
        InputError: If collection, queries and judgements do not belong together, or `out` holds results already.
    """
    folder = Path(out)
    if (folder / "experiment.json").exists() and not force:
        raise InputError(f"{folder} holds an experiment already", "choose another --out, or add --force to replace it")
    index = folder / "index"
    if not Index.exists(index) and not (folder / "experiment.json").exists():
        check_replaceable(folder, force=False, inputs=[location])
    vectorizer = vectorizer_for(None, dense, device)
    encoder = vectorizer.open_encoder() if vectorizer else None
    reranker = open_reranker(rerank, device) if rerank else None
    if vectorizer:
        _remove_other_vectors(index, vectorizer)
    problems = BadRows()
    collection = open_collection(location, problems)
    analyzer = _analyzer(collection, problems, language, index)
    problems.forget()
    asked = _asked(collection, problems, split=split, queries=queries, qrels=qrels, tune_on=tune_on)
    settings = IndexSettings(analyzer, k1=k1, b=b)
    report = _index_of(collection, index, settings, problems, expansions, vectorizer)
    beside = Beside(encoder, reranker, rerank_depth) if encoder or reranker else None
    result = _measured(report.index, collection, asked, folder / ".systems", beside, oracle=oracle, seed=seed)
    result.warnings = [*report.warnings, *_unknown(report.index, asked.judged), *result.warnings]
    result.expansion = read_provenance(Path(expansions)) if expansions else None
    write_experiment(result, folder)
    return result


def _remove_other_vectors(folder: Path, vectorizer: Vectorizer) -> None:
    """Remove the index of an earlier experiment that has vectors of another encoder, or in another form."""
    held = Index(folder).dense_settings if Index.exists(folder) else None
    wanted = vectorizer.settings
    if held is not None and (held.fingerprint, held.store) != (wanted.fingerprint, wanted.store):
        shutil.rmtree(folder)


@dataclass(frozen=True)
class _Asked:
    """The queries by id, the split and the judgements to report on, and the judgements to tune on."""

    queries: dict[str, str]
    split: str
    judged: Qrels
    validation: dict[str, dict[str, int]] | None


def _asked(
    collection: Collection,
    problems: BadRows,
    *,
    split: str,
    queries: str | Path | None,
    qrels: str | Path | None,
    tune_on: str,
) -> _Asked:
    """Read queries and judgements: those of the collection, or of files in their place."""
    texts = read_queries(Path(queries)) if queries else collection.queries()
    split = split if qrels else _split(collection, split)
    judged: Qrels = read_qrels(Path(qrels), problems) if qrels else collection.qrels(split)
    return _Asked(texts, split, judged, _validation(collection, tune_on, judged))


def _measured(
    index: Index,
    collection: Collection,
    asked: _Asked,
    work: Path,
    beside: Beside | None,
    *,
    oracle: bool,
    seed: int,
) -> ExperimentResult:
    """Run the experiment with its files in `work`, which is removed at the end."""
    queries, judged, validation = asked.queries, asked.judged, asked.validation
    shutil.rmtree(work, ignore_errors=True)
    try:
        result = run_experiment(
            index,
            queries,
            judged,
            work,
            collection=collection.name,
            split=asked.split,
            validation=validation,
            beside=beside,
            seed=seed,
        )
        if oracle:
            log("measuring: human questions")
            result.oracle = evaluate_oracle(
                collection, queries, judged, index.settings, work / "oracle", validation=validation, seed=seed
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return result


def _index_of(
    collection: Collection,
    folder: Path,
    settings: IndexSettings,
    problems: BadRows,
    expansions: str | Path | None,
    vectorizer: Vectorizer | None,
    *,
    add: bool = False,
) -> IndexReport:
    found = Path(expansions) if expansions else None
    index, changes, warnings = build_index(
        collection, folder, settings, expansions=found, complete=not add, vectorizer=vectorizer, bad_rows=problems
    )
    return IndexReport(index, vars(changes), warnings, vectorizer.embedded if vectorizer else 0)


def _analyzer(
    collection: Collection, problems: BadRows, language: str, folder: Path, *, anew: bool = False
) -> Analyzer:
    """Return the analyzer asked for; for "auto" an existing index's, or that of the documents' language."""
    if language != "auto":
        return Analyzer(cast(Language, language))
    if not anew and Index.exists(folder):
        return Index(folder).settings.analyzer
    guess = guess_language(document.contents for document in islice(collection.documents(), 500))
    if not guess.words:
        problems.forget()
        if next(collection.documents(), None) is None:
            raise without_documents(collection.name, problems)
    if guess.language not in LANGUAGES:
        found = f"look {guess.name}, for which there is no analyzer" if guess.language else "tell no language"
        raise InputError(f"the documents of {collection.name} {found}", "say --language pt or --language en")
    log(f"language: {guess.name}")
    return Analyzer(cast(Language, guess.language))


def _split(collection: Collection, split: str) -> str:
    if split:
        return split
    if not collection.splits:
        raise InputError(f"{collection.name} has no judgements", "name a BEIR folder, or give --queries and --qrels")
    return "test" if "test" in collection.splits else collection.splits[-1]


def _validation(collection: Collection, split: str, judged: Qrels) -> dict[str, dict[str, int]] | None:
    """Return the judgements to tune on, without any query that is reported on."""
    if not split:
        return None
    found = {query: grades for query, grades in collection.qrels(split).items() if query not in judged}
    if not found:
        raise InputError(
            f"every query of the split {split!r} is reported on, so k1 and b cannot be tuned on it",
            "choose another split for --tune-on",
        )
    return found


def _unknown(index: Index, qrels: Qrels) -> list[str]:
    assert index.snapshot is not None
    names = {name for judged in qrels.values() for name in judged}
    missing = sorted(name for name in names if index.snapshot.number_of(name) is None)
    if not missing:
        return []
    shown = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
    verbs = "is not in the corpus and counts" if len(missing) == 1 else "are not in the corpus and count"
    return [f"warning: {counted(len(missing), 'judged document')} {verbs} as never found ({shown})"]
