"""Numbers for terms: words are analyzed once, and each new term gets the next number."""

from __future__ import annotations

from lavra.search.analyzers import Analyzer
from lavra.search.term_counts import LEFT_OUT

_MOST_WORDS_KNOWN = 2_000_000


class Vocabulary:
    """Numbers for terms, in the order in which they were first seen.

    Attributes:
        numbers: term -> number.
    """

    def __init__(self, terms: list[str]) -> None:
        self.numbers = {term: number for number, term in enumerate(terms)}

    def __len__(self) -> int:
        return len(self.numbers)

    def since(self, number: int) -> list[str]:
        """Return the terms from this number on."""
        terms = list(self.numbers)
        return terms[number:]


class TextCounter:
    """Turns texts into term numbers, giving new terms a number.

    Args:
        analyzer: from words to terms.
        vocabulary: is extended.
    """

    def __init__(self, analyzer: Analyzer, vocabulary: Vocabulary) -> None:
        self._known = _WordNumbers(analyzer, vocabulary.numbers)

    def numbers(self, words: list[str]) -> list[int]:
        """Return the term number of each normalised word; `LEFT_OUT` for a stop word."""
        if len(self._known) > _MOST_WORDS_KNOWN:  # memory stays flat on a corpus with endlessly many words
            self._known.clear()
        return list(map(self._known.__getitem__, words))


class _WordNumbers(dict[str, int]):
    """Word -> term number; a new word is analyzed once, and a new term gets the next number."""

    def __init__(self, analyzer: Analyzer, numbers: dict[str, int]) -> None:
        self._analyzer, self._numbers = analyzer, numbers

    def __missing__(self, word: str) -> int:
        term = self._analyzer.term(word)
        number = self._numbers.setdefault(term, len(self._numbers)) if term else LEFT_OUT
        self[word] = number
        return number
