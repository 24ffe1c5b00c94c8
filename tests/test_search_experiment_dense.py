"""Dense and hybrid search, and scoring by models of sentence-transformers; all models are tiny and made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("bm25s")
pytest.importorskip("sentence_transformers")

from lavra.core.errors import InputError
from lavra.search.corpora.documents import Document
from lavra.search.experiment.dense import WEIGHTS, Beside, FusionTuning, tune_weight
from lavra.search.experiment.experiment import run_experiment, systems_for
from lavra.search.experiment.files import table
from lavra.search.experiment.retrieval import judged_queries
from lavra.search.experiment.sentence_models import kind_of
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.dense.settings import DenseSettings
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.search.reranking import CrossEncoderReranker
from lavra.text.analyzers import Analyzer
from lavra.vectors.protocols import TextEncoder
from lavra.workflows.embeddings.open_encoder import open_encoder
from lavra.workflows.embeddings.pair_scores import open_teacher
from lavra.workflows.search.query_generators import open_scorer
from word_vectors import WordEncoder

CPU = torch.device("cpu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##a", "##b"]


def _tiny_bert(folder: Path, head: str) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordPiece(names, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, initializer_range=0.7,
    )  # fmt: skip
    config.num_labels = 1
    torch.manual_seed(0)
    getattr(transformers, head)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny_bert(tmp_path_factory.mktemp("bi"), "BertModel")


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny_bert(tmp_path_factory.mktemp("cross"), "BertForSequenceClassification")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    letters = "abcdefghij"
    created = Index.create(
        tmp_path_factory.mktemp("index") / "i", IndexSettings(Analyzer("en", stop_words=False, stem=False))
    )
    with created.update() as update:
        for number in range(40):
            text = " ".join(letters[(number + step) % 10] * 2 for step in range(1 + number % 4))
            update.put(Document(f"d{number:02d}", text, queries=(letters[number % 10] * 2,)))
    return Index(created.folder)


def test_a_folder_is_what_its_configuration_says(bi_encoder: Path, cross_encoder: Path, tmp_path: Path) -> None:
    assert (kind_of(bi_encoder), kind_of(cross_encoder), kind_of(tmp_path)) == ("bi-encoder", "cross-encoder", None)
    with pytest.raises(InputError, match="holds no cross-encoder"):
        CrossEncoderReranker(bi_encoder, CPU)
    with pytest.raises(InputError, match="there is no model"):
        open_scorer(str(tmp_path), "cpu")


def opened(folder: Path) -> TextEncoder:
    return open_encoder(str(folder), device="cpu", precision="fp32")


def test_vectors_are_those_of_sentence_transformers(bi_encoder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = opened(bi_encoder)
    texts = ["aa bb", "cc", "dd ee ff gg", ""]
    own = SentenceTransformer(str(bi_encoder)).encode(texts, normalize_embeddings=True)
    assert np.allclose(encoder.encode(texts, kind="passage"), own, atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.dimensions) == (0, 16)
    assert encoder.longest == 32
    assert isinstance(encoder, TextEncoder)


def test_prefixes_are_those_of_the_model_and_part_of_its_fingerprint(bi_encoder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = opened(bi_encoder)
    whole = SentenceTransformer(str(bi_encoder))
    whole.prompts = {"query": "qq ", "document": "dd "}
    folder = tmp_path / "named"
    whole.save(str(folder))
    named, e5 = (
        opened(folder),
        opened(shutil.copytree(bi_encoder, tmp_path / "my-e5-pt")),
    )
    for encoder, kind, prefix in ((named, "query", "qq "), (named, "passage", "dd "), (e5, "passage", "passage: ")):
        assert np.allclose(encoder.encode(["aa"], kind=kind), plain.encode([prefix + "aa"]), atol=1e-6)
    assert np.allclose(named.encode(["aa"], kind="text"), plain.encode(["aa"]), atol=1e-6)
    assert len({one.fingerprint for one in (plain, named, e5)}) == 3
    assert opened(bi_encoder).fingerprint == plain.fingerprint


def test_dense_hybrid_and_reranked_stand_beside_the_others(index: Index, cross_encoder: Path, tmp_path: Path) -> None:
    encoder = WordEncoder({letter * 2: "abcdefghij"[place // 2] for place, letter in enumerate("abcdefghij")})
    with index.update() as update:
        update.vectorizer = Vectorizer(DenseSettings("m", "words", 32), lambda: encoder)
    opened = Index(index.folder)
    queries = {f"q{number}": "abcdefghij"[number] * 2 for number in range(10)}
    qrels = {query: {f"d{number:02d}": 1, f"d{number + 10:02d}": 1} for number, query in enumerate(queries)}
    train, test = ({name: qrels[name] for name in sorted(qrels)[half]} for half in (slice(5), slice(5, 10)))
    beside = Beside(encoder, CrossEncoderReranker(cross_encoder, CPU), 5)
    found = run_experiment(
        opened, queries, test, tmp_path / "work", systems=systems_for(opened)[:2], beside=beside, validation=train
    )
    fused = [
        f"{name}, fused with dense{how}" for name in ("documents", "documents + queries") for how in ("", " by weight")
    ]
    assert [one.system.name for one in found.systems[2:]] == [
        "dense",
        *fused,
        "documents + queries, fused with dense, reranked",
    ]
    dense, hybrid = found.systems[2], found.systems[3]
    assert dense.to_json()["settings"] is None
    assert opened.vectors is not None
    assert hybrid.bytes > dense.bytes == opened.vectors.bytes
    assert {one.system for one in found.comparisons} == {one.system.name for one in found.systems[1:]}
    tuned = found.systems[4].tuning
    assert isinstance(tuned, FusionTuning)
    assert tuned.queries == 5
    assert tuned.value == max(value for _, value in tuned.tried)
    lines = table(found)
    assert any(line.startswith("documents, fused with dense by weight: weight") for line in lines)
    assert max(map(len, table(found, 80))) <= 80


def test_without_vectors_the_words_alone_are_reranked(index: Index, cross_encoder: Path, tmp_path: Path) -> None:
    queries, qrels = {"q": "aa"}, {"q": {"d00": 1}}
    beside = Beside(reranker=CrossEncoderReranker(cross_encoder, CPU))
    found = run_experiment(index, queries, qrels, tmp_path / "w", systems=systems_for(index)[:1], beside=beside)
    assert [one.system.name for one in found.systems] == ["documents", "documents, reranked"]


def test_a_weight_is_tuned_to_the_side_that_knows(tmp_path: Path) -> None:
    encoder = WordEncoder({"automóvel": "carro"}, dimensions=64)
    index = Index.create(tmp_path / "i", IndexSettings(Analyzer("pt", stop_words=False, stem=False)))
    with index.update() as update:
        update.vectorizer = Vectorizer(DenseSettings("m", "words", 64), lambda: encoder)
        for name, text in {"a": "carro azul", "b": "automóvel", "c": "automóvel verde", "d": "rio"}.items():
            update.put(Document(name, text))
    index = Index(index.folder)
    assert index.snapshot is not None
    for relevant, weights in (("a", WEIGHTS[11:]), ("b", WEIGHTS[:11])):
        judged = judged_queries(
            index, {"q": "automóvel azul" if relevant == "a" else "automóvel"}, {"q": {relevant: 1}}
        )
        tuned = tune_weight(index, index.snapshot, encoder, judged)
        assert tuned.value == 1.0
        assert (tuned.weight in weights) or dict(tuned.tried)[0.5] == 1.0


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_scores_are_the_models_own_whatever_the_grouping(kind: str, bi_encoder: Path, cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    scorer = open_scorer(str(bi_encoder if kind == "bi" else cross_encoder), "cpu")
    chunks, queries = ["aa bb cc", "dd ee"], [["aa", "zz yy"], ["ee dd"]]
    scores = scorer.score(chunks, queries)
    assert [len(some) for some in scores] == [2, 1]
    pairs = [(query, chunk) for chunk, some in zip(chunks, queries, strict=True) for query in some]
    if kind == "cross":
        own = CrossEncoder(str(cross_encoder)).predict(pairs)
    else:
        model = SentenceTransformer(str(bi_encoder))
        left, right = (model.encode(list(side), normalize_embeddings=True) for side in zip(*pairs, strict=True))
        own = (left * right).sum(1)
    assert np.allclose([score for some in scores for score in some], own, atol=1e-5)
    assert np.allclose(scorer.score(chunks[1:], queries[1:])[0], scores[1], atol=1e-5)
    assert scorer.score(["aa"], [[]]) == [[]]


def test_raw_scores_are_those_before_the_activation(cross_encoder: Path) -> None:
    pairs = [("aa", "aa bb cc"), ("zz yy", "dd ee")]
    raw = open_teacher(str(cross_encoder), "cpu").raw_scores(pairs)
    scores = CrossEncoderReranker(cross_encoder, CPU).score(*pairs[0][:1], [pairs[0][1]])
    assert raw.shape == (2,)
    assert np.allclose(1 / (1 + np.exp(-raw[0])), scores[0], atol=1e-6)
