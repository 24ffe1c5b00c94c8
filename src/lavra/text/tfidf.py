"""TF-IDF of words and of the characters in them, as sparse matrices: the features of linear models of text.

The arithmetic is scikit-learn's (`sublinear_tf`, `smooth_idf`, rows of length 1), and so are the n-grams of characters
within word borders. The characters of a word are counted once, however often it occurs, which makes this some ten times
as fast.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError

Sparse = Any
"""A sparse matrix of SciPy in the CSR layout. Its types are not known to type checkers."""

_WORD = re.compile(r"\w+")
_LENGTHS = (2, 3, 4, 5)  # characters of an n-gram


def words_and_bigrams(text: str) -> list[str]:
    """Return the words of a normalized text, and each two neighbours joined by a space.

    Examples:
        >>> words_and_bigrams("a fine film")
        ['a', 'fine', 'film', 'a fine', 'fine film']
    """
    words = _WORD.findall(text)
    return words + [f"{one} {two}" for one, two in pairwise(words)]


def character_ngrams(word: str) -> Iterator[str]:
    """Yield the n-grams of 2 to 5 characters of a word with a space on either side, as `char_wb` of scikit-learn.

    A word that is no longer than n is yielded once, as a whole.

    Examples:
        >>> list(character_ngrams("no"))
        [' n', 'no', 'o ', ' no', 'no ', ' no ']
    """
    padded = f" {word} "
    for length in _LENGTHS:
        last = max(0, len(padded) - length)
        for start in range(last + 1):
            yield padded[start : start + length]
        if last == 0:
            return


def normalized(text: str) -> str:
    """Return a text in lower case and in the composed form of Unicode (NFC)."""
    return unicodedata.normalize("NFC", text).lower()


class TfIdf:
    """Words and bigrams of words, and character n-grams, as two blocks of columns whose rows have length 1 each.

    Args:
        words: Words and bigrams, in the order of their columns.
        ngrams: Character n-grams, in the order of their columns, after those of the words.
        idf: Inverse document frequency of each column, (words + n-grams,).

    Attributes:
        words: Words and bigrams, in the order of their columns.
        ngrams: Character n-grams, in the order of their columns.
        idf: Inverse document frequency of each column, (columns,).

    Examples:
        >>> features = TfIdf.fit(["a fine film", "a bad film", "fine"])
        >>> features.words[:3], features.transform(["fine"]).shape == (1, len(features))
        (['a', 'a bad', 'a fine'], True)
    """

    def __init__(self, words: Sequence[str], ngrams: Sequence[str], idf: NDArray[np.float64]) -> None:
        self.words, self.ngrams, self.idf = list(words), list(ngrams), idf
        self._word_columns = {term: column for column, term in enumerate(self.words)}
        self._ngram_columns = {term: column for column, term in enumerate(self.ngrams)}

    def __len__(self) -> int:
        return len(self.words) + len(self.ngrams)

    @staticmethod
    def fit(texts: Sequence[str], *, fewest: int = 1) -> TfIdf:
        """Return the features of some texts.

        Args:
            texts: The training texts.
            fewest: Number of texts that must have a term, for it to be a feature.

        Raises:
            InputError: If no text holds a term.
        """
        return TfIdf.fit_transform(texts, fewest=fewest)[0]

    @staticmethod
    def fit_transform(texts: Sequence[str], *, fewest: int = 1) -> tuple[TfIdf, Sparse]:
        """Return the features of some texts, and the texts in them; see `fit` and `transform`."""
        word_terms: dict[str, int] = {}
        ngram_terms: dict[str, int] = {}
        plain = [normalized(text) for text in texts]
        counts = [_word_counts(plain, word_terms, grow=True), _ngram_counts(plain, ngram_terms, grow=True)]
        kept_terms, idfs = [], []
        for place, terms in enumerate((word_terms, ngram_terms)):
            found = counts[place].getnnz(axis=0)
            names = np.array(list(terms), dtype=object)
            kept = np.flatnonzero(found >= fewest)
            kept = kept[np.argsort(names[kept], kind="stable")]  # the order of the texts does not matter
            kept_terms.append(names[kept].tolist())
            idfs.append(np.log((1 + len(texts)) / (1 + found[kept])) + 1)
            counts[place] = counts[place][:, kept]
        features = TfIdf(kept_terms[0], kept_terms[1], np.concatenate(idfs))
        if not len(features):
            raise InputError(f"none of the {len(texts):,} texts holds a word", "give other texts")
        return features, features._weighted(counts)

    def transform(self, texts: Sequence[str]) -> Sparse:
        """Return the features of texts, (texts, columns) float64; terms that no training text had are left out."""
        plain = [normalized(text) for text in texts]
        return self._weighted([_word_counts(plain, self._word_columns), _ngram_counts(plain, self._ngram_columns)])

    def _weighted(self, counts: list[Sparse]) -> Sparse:
        from scipy.sparse import hstack

        blocks, first = [], 0
        for block in counts:
            block.sort_indices()
            block.data = (np.log(block.data) + 1) * self.idf[first : first + block.shape[1]][block.indices]
            blocks.append(unit_rows(block))
            first += block.shape[1]
        return hstack(blocks, format="csr")


def unit_rows(matrix: Sparse) -> Sparse:
    """Return the matrix with rows of length 1; an empty row stays empty."""
    from scipy.sparse import diags_array

    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scales: Any = diags_array(1 / np.where(lengths > 0, lengths, 1.0))
    return (scales @ matrix).tocsr()


def _word_counts(texts: Sequence[str], columns: dict[str, int], *, grow: bool = False) -> Sparse:
    """Return how often each text has each word and bigram; with `grow`, new ones get a column."""
    return _counts([words_and_bigrams(text) for text in texts], columns, grow)


def _ngram_counts(texts: Sequence[str], columns: dict[str, int], *, grow: bool = False) -> Sparse:
    """Return how often each text has each character n-gram: that of each word, times how often each text has it."""
    pieces: dict[str, int] = {}
    in_texts = _counts([text.split() for text in texts], pieces, grow=True)
    in_pieces = _counts([list(character_ngrams(piece)) for piece in pieces], columns, grow)
    return (in_texts @ in_pieces).tocsr()


def _counts(terms: list[list[str]], columns: dict[str, int], grow: bool) -> Sparse:
    from scipy.sparse import csr_matrix

    if grow:
        flat = [columns.setdefault(term, len(columns)) for some in terms for term in some]
        starts = np.cumsum([0, *map(len, terms)])
    else:
        known = [[columns[term] for term in some if term in columns] for some in terms]
        flat = [column for some in known for column in some]
        starts = np.cumsum([0, *map(len, known)])
    matrix = csr_matrix((np.ones(len(flat)), np.array(flat, dtype=np.int64), starts), shape=(len(terms), len(columns)))
    matrix.sum_duplicates()
    return matrix
