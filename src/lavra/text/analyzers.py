"""Analyzers turn text into the terms of a search index, for Portuguese and English."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from typing import Any, Literal

from lavra.core.errors import InputError
from lavra.text.portuguese import singular

Language = Literal["pt", "en"]
LANGUAGES: dict[str, str] = {"pt": "portuguese", "en": "english"}
"""The languages that can be analyzed, each with the name of its Snowball stemmer."""

# A word of a script with letters only: the fast pattern, which is enough for nearly all text.
_WORD = re.compile(r"[^\W_]+")
_MARKS = re.compile(r"[\u0300-\u036f]")
# Matches a character for which `_WORD` is not enough: of a script with vowel signs or without spaces, or an emoji.
_BEYOND = re.compile("[\u0300-\u1fff\u200c\u200d\u2600-\U0010ffff]")
# The characters of scripts without spaces (Thai, Lao, Burmese, Khmer, kana, Chinese), for use in a character class.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_POSSESSIVE = re.compile(r"['’]s\b")
_MOST_CACHED = 1_000_000  # words whose term is remembered, so that memory stays bounded
# Analyzed for the fingerprint; it holds every case that the options of an analyzer treat differently.
_PROBE = (
    "The children's running shoes weren't found; vitamin C, Plan B & 7 x_y. 東京都 हिन्दी ❤ "
    "As crianças não estavam à procura d'água: educação, educações, pôr-do-sol, ESTAÇÃO nº 9 e o plano B. "
    "Papéis azuis, homens fáceis, no Pará."
)


@dataclass(frozen=True)
class Analyzer:
    """Turns text into terms.

    The steps are: Unicode's NFC form, lower case, division into words, removal of stop words, removal of accents,
    Portuguese plurals to singulars, Snowball stemming. A word is a sequence of letters, their vowel signs and digits of
    any script; an underscore or a hyphen ends it, so `read_file` is found by "read file". In scripts that put no spaces
    between words, each two neighbouring characters (a bigram) are a word; an emoji is a word too. The English
    possessive 's is removed. The same analyzer must be used for documents and queries; its `fingerprint` is kept in
    the index.

    Attributes:
        language: "pt" or "en"; chooses the stop words and the stemmer.
        fold_accents: Compare without accents, so that a query typed as "educacao" finds "educação". Folding happens
            after stop words ("Pará" is a name, "para" a preposition) and before stemming. On by default: it ranked
            better on four of five Portuguese collections and on an English one, and people often leave accents out.
        stop_words: Leave out function words ("de", "the"). On by default.
        stem: Reduce words to their Snowball stem, Portuguese ones to their singular first when accents are folded. On
            by default.
        one_letter_words: Keep words of a single letter ("vitamin C", "plano B"). A single digit is always kept. On by
            default.

    Raises:
        InputError: if there is no analyzer for the language.

    Examples:
        >>> from lavra.text.analyzers import Analyzer
        >>> Analyzer("pt").terms("As eleições e a educação")
        ['eleica', 'educaca']
        >>> Analyzer("en", stem=False).terms("The children's vitamin C")
        ['children', 'vitamin', 'c']

    See Also:
        lavra.text.languages.guess_language: Guesses which language a text is in.
    """

    language: Language
    fold_accents: bool = True
    stop_words: bool = True
    stem: bool = True
    one_letter_words: bool = True

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise InputError(f"there is no analyzer for the language {self.language!r}", "use --language pt or en")

    def terms(self, text: str) -> list[str]:
        """Return the terms of `text` as a list in the order of the text, with repetitions."""
        known = self._known
        found = []
        for word in self.words(text):
            term = known.get(word)
            if term is None:
                term = self._learn(word)
            if term:
                found.append(term)
        return found

    def words(self, text: str) -> list[str]:
        """Return the words of `text`, normalised and in lower case, before stop words are removed and words stemmed."""
        text = unicodedata.normalize("NFC", text).lower()
        if self.language == "en" and ("'s" in text or "’s" in text):
            text = _POSSESSIVE.sub("", text)
        if _BEYOND.search(text) is None:
            return _WORD.findall(text)
        return [text[start:end] for start, end in _places(text)]

    def spans(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield (start, end, term) for each word of `text` that has a term; `text[start:end]` is the word."""
        for start, end in _places(text):
            terms = self.terms(text[start:end])
            if terms:
                yield start, end, terms[0]

    def term(self, word: str) -> str:
        """Return the term of a word that `words` returned, or an empty string for a word that is left out."""
        if word in self._stop_set or (len(word) == 1 and not self.one_letter_words and not word.isdigit()):
            return ""
        if self.fold_accents:
            word = without_accents(word)
        if self._stemmer is None:
            return word
        return self._stemmer.stemWord(singular(word) if self.language == "pt" and self.fold_accents else word)

    def folded(self, text: str) -> str:
        """Return a text without accents where the analyzer folds them, else the text itself."""
        return without_accents(text) if self.fold_accents else text

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the analyzer does, so that another version of the stemmer or the stop words is noticed."""
        shown = repr((sorted(asdict(self).items()), self.terms(_PROBE), sorted(self._stop_set)))
        return hashlib.blake2b(shown.encode(), digest_size=8).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the analyzer's settings as plain values, for the manifest of an index."""
        return asdict(self)

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Analyzer:
        """Return the analyzer with the settings that `to_json` returned; unknown settings are ignored."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in settings.items() if name in names})

    def _learn(self, word: str) -> str:
        if len(self._known) >= _MOST_CACHED:  # memory stays flat on a corpus with endlessly many words
            self._known.clear()
        return self._known.setdefault(word, self.term(word))

    @cached_property
    def _known(self) -> dict[str, str]:
        return {}

    @cached_property
    def _stop_set(self) -> frozenset[str]:
        if not self.stop_words:
            return frozenset()
        words = stop_words(self.language)
        return words.union(map(without_accents, words)) if self.fold_accents else words  # "voce" is "você"

    @cached_property
    def _stemmer(self) -> Any:
        if not self.stem:
            return None
        import Stemmer

        return Stemmer.Stemmer(LANGUAGES[self.language])


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) of each word; in a script without spaces, of each two neighbouring characters."""
    for match in _any_word().finditer(text):
        start, end = match.span()
        if match.lastgroup == "spaceless" and end - start > 2:
            yield from ((place, place + 2) for place in range(start, end - 1))
        else:
            yield start, end


@cache
def _any_word() -> re.Pattern[str]:
    """Return the pattern of a word of any script: letters with the signs that belong to them, or one emoji."""
    signs = "".join(
        chr(code)
        for first, last in ((0x300, 0x1CFF), (0xA800, 0xABFF))
        for code in range(first, last + 1)
        if unicodedata.category(chr(code)) in ("Mn", "Mc")
    )
    signs = "".join(map(re.escape, signs))
    spaceless = f"(?P<spaceless>[{_SPACELESS}]+)"
    letters = rf"(?:(?![{_SPACELESS}])[^\W_]|(?<=\w)[{signs}\u200c\u200d]|(?<=[{signs}])[{signs}\u200c\u200d])+"
    return re.compile(rf"{spaceless}|{letters}|[\u2600-\u27bf\U0001f000-\U0001faff]")


@cache
def stop_words(language: str) -> frozenset[str]:
    """Return the function words of a language: Lucene's short list for English, Snowball's for Portuguese."""
    from bm25s import stopwords

    lists = {"en": stopwords.STOPWORDS_EN, "pt": stopwords.STOPWORDS_PORTUGUESE}
    return frozenset(lists[language])


def without_accents(text: str) -> str:
    """Return `text` without combining marks.

    Examples:
        >>> from lavra.text.analyzers import without_accents
        >>> without_accents("educação")
        'educacao'
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))
