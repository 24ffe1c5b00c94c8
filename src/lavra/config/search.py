"""The options of search: training a query generator, expanding documents, indexing, searching, measuring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from lavra.config.flags import Common, Sets, shown
from lavra.config.quantities import Duration


@dataclass(frozen=True)
class Doc2QueryConfig:
    """The training of a query generator from passages and the queries that people asked about them.

    Examples:
        >>> from lavra.config.search import Doc2QueryConfig
        >>> config = Doc2QueryConfig("pairs.jsonl", base="unicamp-dl/ptt5-base-portuguese-vocab", epochs=1)
        >>> config.split, config.validation_documents
        ('train', 200)
    """

    pairs: Annotated[tyro.conf.Positional[str], shown(metavar="PAIRS")]
    """A BEIR folder, installed-docs:, ir_datasets:NAME, MS MARCO triples (.tsv), or JSONL with passage and query."""
    split: Annotated[str, Common] = "train"
    """Split of the collection's relevance judgements to train on."""
    base: Annotated[str | None, Common, shown("--from", metavar="MODEL")] = None
    """The model to fine-tune: an encoder-decoder, a decoder, or an encoder, which gets a decoder."""
    budget: Annotated[Duration | None, Common] = None
    """Length of the whole run as a time, validation included; 10m when no length is given."""
    epochs: Annotated[float | None, Common] = None
    """Length of the run in passes over the pairs, instead of a time."""
    steps: Annotated[int | None, Common] = None
    """Length of the run in optimiser steps, instead of a time."""
    out: Annotated[str | None, Common, shown(metavar="RUN")] = None
    """The run folder; a new one under runs/ by default."""
    force: Annotated[bool, Common] = False
    """Replace an existing run folder."""
    seed: int = 0
    """Seed of everything that is random."""
    learning_rate: float | None = None
    """AdamW's peak learning rate; by default it depends on what is trained."""
    freeze: Annotated[tuple[str, ...], shown(metavar="NAME…")] = ()
    """Parts of the model given by --from that are not trained, as names or globs, which makes steps quicker."""
    context: Annotated[int | None, Common] = None
    """Tokens of a sequence, for a model trained from scratch; 512 by default."""
    device: Annotated[str, Common, shown(metavar="DEVICE")] = "auto"
    """Device that computes: auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the working weights."""
    check: bool = True
    """Check the set-up before the first step; a failed check ends the run. --no-check leaves this out."""
    validation_documents: Annotated[int, Common] = 200
    """Number of validation documents for which queries are generated and compared with people's."""


Engine = Literal["auto", "torch", "ctranslate2"]
"""The libraries that can generate the queries."""


@dataclass(frozen=True)
class ExpandConfig:
    """The generation of queries for the documents of a collection.

    Examples:
        >>> from lavra.config.search import ExpandConfig
        >>> config = ExpandConfig("corpus.jsonl", model="runs/doc2query", queries=20)
        >>> config.out, config.top_k
        ('expanded.jsonl', 10)
    """

    collection: Annotated[tyro.conf.Positional[str], shown(metavar="CORPUS")]
    """A BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    model: Annotated[str, Common, shown(metavar="MODEL")]
    """A run of `lavra doc2query train`, or any decoder or encoder-decoder: folder or hub name."""
    out: Annotated[str, Common, shown(metavar="FILE")] = "expanded.jsonl"
    """The file of queries; FILE.provenance.json beside it says how they were made."""
    queries: Annotated[int, Common] = 10
    """Number of queries for each chunk: 1 generates greedily, more are sampled."""
    top_k: Annotated[int, Common] = 10
    """Sample each token from this many most likely ones; 0 samples from all."""
    temperature: Annotated[float, Common] = 1.0
    """Temperature of the sampling; below 1 the queries are more alike."""
    chunk_tokens: Annotated[int, Common] = 0
    """Long documents are cut into chunks of whole sentences of at most this many tokens; 0 takes as many as the model
    can read."""
    overlap: int = 0
    """Largest number of tokens that consecutive chunks share."""
    score_with: Annotated[str, Common, shown(metavar="model|FOLDER")] = ""
    """Score queries for the filter with `model` (its log-probability), or a folder of a cross-encoder or bi-encoder."""
    engine: Annotated[Engine, Common] = "auto"
    """Library that generates: auto takes ctranslate2 in int8 for an encoder-decoder on a CPU, else torch."""
    cache: Annotated[str | None, shown(metavar="FILE")] = None
    """File that keeps generated queries by the content of their chunk; FILE.cache beside the queries by default."""
    device: Annotated[str, Common, shown(metavar="DEVICE")] = "auto"
    """Device that computes: auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the weights, with torch."""
    seed: Annotated[int, Common] = 0
    """Seed of the sampling: the same seed gives the same queries."""
    force: Annotated[bool, Common] = False
    """Replace a file of queries that was made with other options."""


NO_VECTORS = "none"
"""What `--dense` says for an index without vectors."""


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """The vectors of an index, by which texts are found that share no word with the query.

    Examples:
        >>> from lavra.config.search import DenseConfig
        >>> DenseConfig(model="models/e5", store="int8").method is None
        True
    """

    model: Annotated[str, Common, shown("--dense", metavar="MODEL")] = ""
    """Encoder whose vectors of the texts are kept beside the words; an index that has vectors keeps its own encoder,
    and none removes them."""
    store: Annotated[Literal["float16", "int8", "binary"] | None, Common] = None
    """Form of the vectors: float16, int8 (half the size), or binary (signs to find candidates by, int8 to order them);
    float16 for a new index."""
    method: Literal["auto", "exact", "hnsw"] | None = None
    """How vectors are searched: exact compares all, hnsw goes by a graph, auto takes the graph beyond 100,000 texts."""


@dataclass(frozen=True, kw_only=True)
class LexicalConfig:
    """How documents are counted for BM25.

    Examples:
        >>> from lavra.config.search import LexicalConfig
        >>> LexicalConfig(language="pt").k1
        0.9
    """

    expansions: Annotated[str | None, Common, shown(metavar="FILE")] = None
    """File of generated queries, as `lavra expand` writes it."""
    language: Annotated[Literal["auto", "pt", "en"], Common] = "auto"
    """Language of the documents, which chooses stop words and the stemmer; auto guesses it from the documents."""
    k1: float = 0.9
    """BM25 term-frequency saturation: the higher, the more each further occurrence of a term counts."""
    b: float = 0.4
    """BM25 length normalisation, from 0 (document length does not matter) to 1 (full normalisation)."""
    device: Annotated[str, shown(metavar="DEVICE")] = "auto"
    """Device of the encoder and of the reranker: auto, cpu, cuda, cuda:1 or mps."""
    dense: DenseConfig = DenseConfig()
    """The vectors."""


@dataclass(frozen=True, kw_only=True)
class IndexConfig(LexicalConfig):
    """The making of a search index.

    Examples:
        >>> from lavra.config.search import IndexConfig
        >>> IndexConfig(collection="notes/", language="pt").out
        'search-index'
    """

    collection: Annotated[tyro.conf.Positional[str], shown(metavar="CORPUS")]
    """The documents: a BEIR folder, a file or folder of documents, installed-docs: or ir_datasets:NAME."""
    out: Annotated[str, Common, shown(metavar="FOLDER")] = "search-index"
    """The folder of the index; an existing index is brought up to date."""
    fields: Annotated[Literal["doc", "doc+queries", "queries", "doc+new-terms"], Common] = "doc+queries"
    """What is searched: the document (doc), the document and its generated queries (doc+queries), the queries alone
    (queries), or the document and the terms of the queries that it lacks (doc+new-terms)."""
    query_weight: float = 1.0
    """Weight of a term's occurrence in a generated query; one in the document itself has weight 1."""
    keep_queries: Annotated[float, Common] = 1.0
    """Share of the generated queries that is indexed, those with the highest scores; above 0, at most 1."""
    drop_repeats: bool = False
    """Leave out generated queries that repeat another query of the document or copy its text."""
    chunk_words: Annotated[int, Common] = 0
    """Score documents by their best chunk of at most this many words (MaxP); 0 scores whole documents."""
    chunk_overlap: int = 0
    """Most words that consecutive chunks share."""
    add: Annotated[bool, Common] = False
    """Keep documents of the index that CORPUS does not have; without it they are deleted from the index."""
    on_bad_row: Annotated[Literal["skip", "error", "strict"], Sets("--strict", "strict")] = "skip"
    """What to do with rows that cannot be used: skip and count them, or stop at the first (error); strict stops at
    whatever is left out, guessed or replaced on the way in."""
    export: Annotated[str | None, Common, shown(metavar="FILE")] = None
    """Also write the documents with their generated queries into this file, for another search engine."""
    export_format: Annotated[Literal["anserini", "elasticsearch", "parquet", "sqlite"], Common] = "anserini"
    """Format of the file of --export."""
    force: Annotated[bool, Common] = False
    """Build the index again from nothing, and replace the file of --export."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search in an index.

    Examples:
        >>> from lavra.config.search import SearchConfig
        >>> SearchConfig(query=("maior", "cidade")).top_k
        10
    """

    query: Annotated[tyro.conf.Positional[tuple[str, ...]], shown(metavar="QUERY…")]
    """The words to look for."""
    index: Annotated[str, shown(metavar="FOLDER")] = "search-index"
    """The folder of the index."""
    top_k: int = 10
    """Most documents to show."""
    mode: Literal["auto", "lexical", "dense", "hybrid"] = "auto"
    """Search by words (lexical), by vectors (dense) or by both (hybrid); auto is hybrid for an index with vectors."""
    dense: Annotated[str, shown(metavar="MODEL")] = ""
    """Location of the encoder of the vectors, where it is no longer where the index found it."""
    dense_weight: float | None = None
    """Weight of the vectors in a hybrid search, from 0 to 1, for a sum of scores; by default ranks are fused."""
    rerank: Annotated[str, shown(metavar="MODEL")] = ""
    """Model that ranks the first results anew: a cross-encoder, or a run that was trained on pairs of texts."""
    rerank_depth: int = 50
    """Number of results that the reranker reads."""
    device: Annotated[str, shown(metavar="DEVICE")] = "auto"
    """Device of the encoder and of the reranker: auto, cpu, cuda, cuda:1 or mps."""


@dataclass(frozen=True, kw_only=True)
class SearchEvaluateConfig(LexicalConfig):
    """The measurement of search on a collection with relevance judgements.

    Examples:
        >>> from lavra.config.search import SearchEvaluateConfig
        >>> SearchEvaluateConfig(collection="beir/scifact", expansions="expanded.jsonl").out
        'search-experiment'
    """

    collection: Annotated[tyro.conf.Positional[str], shown(metavar="CORPUS")]
    """The collection: a BEIR folder, installed-docs: or ir_datasets:NAME; or documents, with --queries and --qrels."""
    split: Annotated[str, Common] = ""
    """Split of the relevance judgements to report on; test by default."""
    queries: Annotated[str | None, Common, shown(metavar="FILE")] = None
    """File of queries, instead of the collection's: JSON Lines, or lines of an id, a tab and the text."""
    qrels: Annotated[str | None, Common, shown(metavar="FILE")] = None
    """File of relevance judgements, instead of the collection's, in the layout of TREC or of BEIR."""
    tune_on: Annotated[str, Common, shown(metavar="SPLIT")] = ""
    """Split on which k1, b and the weights of generated queries and of vectors are tuned, for each system; k1 and b
    have no effect then."""
    oracle: Annotated[bool, Common] = False
    """Also measure the oracle: documents expanded with the questions that people asked of them."""
    rerank: Annotated[str, Common, shown(metavar="MODEL")] = ""
    """Model that ranks the first results anew: a cross-encoder, or a run that was trained on pairs of texts."""
    rerank_depth: int = 50
    """Number of results that the reranker reads."""
    out: Annotated[str, Common, shown(metavar="FOLDER")] = "search-experiment"
    """Folder for the index, the table, the differences by query and the plot."""
    seed: int = 0
    """Seed of the bootstrap intervals and of the randomisation tests."""
    force: Annotated[bool, Common] = False
    """Replace the results of an earlier experiment."""
