"""TF-IDF equals scikit-learn's, and does not depend on the order of the texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.text.tfidf import TfIdf, character_ngrams

sparse = pytest.importorskip("scipy.sparse")
extraction = pytest.importorskip("sklearn.feature_extraction.text")

TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "bad", "film", "Não", "é", "filmes", "😀", "x-y", "don't", ""]), max_size=8).map(
        " ".join
    ),
    min_size=1,
    max_size=6,
).filter(lambda texts: any(character.isalnum() for text in texts for character in text))


@given(TEXTS, st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_features_equal_scikit_learn(texts: list[str], fewest: int) -> None:
    options = {"sublinear_tf": True, "min_df": fewest}
    words = extraction.TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", **options)
    ngrams = extraction.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **options)
    try:
        wanted = sparse.hstack([words.fit_transform(texts), ngrams.fit_transform(texts)]).toarray()
    except ValueError:  # scikit-learn refuses texts of which no term is left
        return
    features, matrix = TfIdf.fit_transform(texts, fewest=fewest)
    assert features.words == words.get_feature_names_out().tolist()
    assert features.ngrams == ngrams.get_feature_names_out().tolist()
    np.testing.assert_allclose(matrix.toarray(), wanted, atol=1e-12)
    np.testing.assert_array_equal(features.transform(texts).toarray(), matrix.toarray())


def test_new_terms_are_left_out() -> None:
    features = TfIdf.fit(["good film", "bad film"])
    assert features.transform(["zzz 123"]).nnz == 0
    assert features.transform(["zzz film"]).nnz > 0
    assert features.transform([]).shape == (0, len(features))


def test_accents_are_equal_in_either_form() -> None:
    features = TfIdf.fit(["não", "sim"])
    assert (features.transform(["NA\u0303O"]) != features.transform(["não"])).nnz == 0


def test_short_words_are_yielded_once_as_a_whole() -> None:
    assert list(character_ngrams("é")) == [" é", "é ", " é "]


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(InputError, match="none of the 2 texts holds a word"):
        TfIdf.fit(["", "  "])
