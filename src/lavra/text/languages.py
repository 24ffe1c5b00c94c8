"""Guesses the language of a text by its function words, which is enough to warn about the wrong analyzer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import islice

from lavra.text.analyzers import LANGUAGES

_WORD = re.compile(r"[^\W\d_]+")
_FEWEST_HITS = 20  # function words; fewer do not tell a language
NAMES = {"pt": "Portuguese", "en": "English", "es": "Spanish", "fr": "French", "de": "German", "it": "Italian"}
"""The languages that can be guessed, with their English names."""


@dataclass(frozen=True, slots=True)
class LanguageGuess:
    """The language that most function words of a sample belong to.

    Attributes:
        language: Two-letter code, or None when there were too few function words to tell.
        share: Share, from 0 to 1, of the language among the function words that belong to one known language only.
        words: Number of words that were looked at.
    """

    language: str | None
    share: float
    words: int

    @property
    def name(self) -> str:
        """The English name of the language, or "an unknown language"."""
        return NAMES.get(self.language or "", "an unknown language")


def guess_language(texts: Iterable[str], *, words: int = 20_000) -> LanguageGuess:
    """Guess the language of some texts (pt, en, es, fr, de or it).

    Only words that are a function word of exactly one of these languages count, so that "de", which four of them
    share, says nothing.

    Args:
        texts: The texts, of which the first 100,000 characters each are read.
        words: Number of words after which no further text is read; 20,000 by default.

    Returns:
        The language with most function words, or no language where fewer than 20 words, or 2 % of them, are such.

    Examples:
        >>> from lavra.text.languages import guess_language
        >>> guess_language(["Não sei o que você quer dizer com isso, mas eu também não fui até lá."] * 5).name
        'Portuguese'
    """
    owners = _owners()
    counts: Counter[str] = Counter()
    seen = 0
    for text in texts:
        for match in _WORD.finditer(unicodedata.normalize("NFC", text[:100_000]).lower()):
            seen += 1
            owner = owners.get(match[0])
            if owner:
                counts[owner] += 1
        if seen >= words:
            break
    hits = sum(counts.values())
    if hits < _FEWEST_HITS or hits < 0.02 * seen:
        return LanguageGuess(None, 0.0, seen)
    language, limit = counts.most_common(1)[0]
    return LanguageGuess(language, limit / hits, seen)


def language_warning(texts: Iterable[str], language: str, *, sample: int = 500) -> str:
    """Return a warning when the texts do not seem to be in the language of the analyzer, else an empty string.

    Args:
        texts: The documents, of which the first `sample` are looked at.
        language: Language code of the analyzer.
        sample: Number of documents that are looked at; 500 by default.
    """
    guess = guess_language(islice(texts, sample))
    if guess.language in (None, language) or guess.share < 0.6:
        return ""
    remedy = (
        f"use --language {guess.language}"
        if guess.language in LANGUAGES
        else f"there is no analyzer for it; search with --language {language} will be weaker"
    )
    return (
        f"warning: the documents look {guess.name} ({guess.share:.0%} of the function words), "
        f"but the analyzer is {NAMES[language]}: {remedy}"
    )


@cache
def _owners() -> dict[str, str]:
    """Return the language of each function word that belongs to exactly one language."""
    from bm25s import stopwords

    lists = {
        "pt": stopwords.STOPWORDS_PORTUGUESE,
        "en": stopwords.STOPWORDS_EN_PLUS,
        "es": stopwords.STOPWORDS_SPANISH,
        "fr": stopwords.STOPWORDS_FRENCH,
        "de": stopwords.STOPWORDS_GERMAN,
        "it": stopwords.STOPWORDS_ITALIAN,
    }
    times = Counter(word for words in lists.values() for word in set(words))
    return {word: code for code, words in lists.items() for word in words if times[word] == 1 and len(word) > 1}
