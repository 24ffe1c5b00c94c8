"""Dense and hybrid search, and scoring by models of sentence-transformers; all models are tiny and made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("bm25s")
pytest.importorskip("sentence_transformers")

from lavra.core.errors import InputError
from lavra.search.corpora.documents import Document
from lavra.search.expansion.scorers import open_scorer
from lavra.search.experiment.dense import dense_ranking, embed_documents, fused
from lavra.search.experiment.experiment import run_experiment, systems_for
from lavra.search.experiment.files import table
from lavra.search.experiment.sentence_models import kind_of, open_cross_encoder, open_embedder
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.text.analyzers import Analyzer

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
    with pytest.raises(InputError, match="lavra downloads none"):
        open_embedder(tmp_path, CPU)
    with pytest.raises(InputError, match="holds no cross-encoder"):
        open_cross_encoder(bi_encoder, CPU)
    with pytest.raises(InputError, match="holds no model that scores queries"):
        open_scorer(str(tmp_path), CPU)


def test_fusion_sums_reciprocal_ranks() -> None:
    ranks = np.arange(6, dtype=np.int32)
    first, second = np.array([2, 0, 1]), np.array([0, 4])
    expected = {2: 1 / 61, 0: 1 / 62 + 1 / 61, 1: 1 / 63, 4: 1 / 62}
    assert fused([first, second], ranks).tolist() == sorted(expected, key=lambda number: -expected[number])
    assert fused([first], ranks).tolist() == [2, 0, 1]
    assert fused([first, first], ranks, 2).tolist() == [2, 0]


def test_dense_search_is_by_cosine_of_what_the_model_says(bi_encoder: Path, index: Index) -> None:
    from sentence_transformers import SentenceTransformer

    model = open_embedder(bi_encoder, CPU)
    vectors = embed_documents(index, model)
    texts = [document.contents for document in index.documents()]
    own = SentenceTransformer(str(bi_encoder)).encode(texts, normalize_embeddings=True)
    assert np.allclose(vectors.values, own, atol=1e-5)
    query = model.queries(["aa bb"])[0]
    assert index.snapshot is not None
    found = dense_ranking(vectors, query, index.snapshot.ranks, 40)
    cosines = (vectors.values @ query)[found]
    assert len(found) == 40
    assert (np.diff(cosines) <= 1e-6).all()


def test_dense_and_hybrid_stand_beside_the_others(bi_encoder: Path, index: Index, tmp_path: Path) -> None:
    vectors = embed_documents(index, open_embedder(bi_encoder, CPU))
    queries = {f"q{number}": "abcdefghij"[number] * 2 for number in range(10)}
    qrels = {query: {f"d{number:02d}": 1, f"d{number + 10:02d}": 1} for number, query in enumerate(queries)}
    systems = systems_for(index)[:2]
    result = run_experiment(index, queries, qrels, tmp_path / "work", systems=systems, vectors=vectors)
    names = [one.system.name for one in result.systems]
    assert names[2:] == ["dense", "documents, fused with dense", "documents + queries, fused with dense"]
    assert result.systems[2].to_json()["settings"] is None
    assert result.systems[3].bytes > result.systems[2].bytes == vectors.bytes
    assert result.comparison("dense") is not None
    assert any(line.startswith("dense ") for line in table(result))


@pytest.mark.parametrize("kind", ["bi", "cross"])
def test_scores_are_the_models_own_whatever_the_grouping(kind: str, bi_encoder: Path, cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    scorer = open_scorer(str(bi_encoder if kind == "bi" else cross_encoder), CPU)
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
