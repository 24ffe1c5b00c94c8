"""What would spoil queries silently: a tokenizer that cannot write the corpus, a generator of another language."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lavra.core.errors import InputError
from lavra.search.languages import NAMES, guess_language

if TYPE_CHECKING:
    from lavra.data.tokenizer import Tokenizer

_WORD = re.compile(r"\w+")
_WORTH_A_WARNING, _TOO_MANY = 0.002, 0.03


def unwritable_words(tokenizer: Tokenizer, texts: Iterable[str], *, most: int = 20_000) -> tuple[float, list[str]]:
    """Return the share of the words that a tokenizer cannot write, and the most frequent of them.

    A word cannot be written if its ids hold the unknown token, or decode to something else than the word (English T5
    makes "Rodríguez" into "Rodr ⁇ guez"). A tokenizer that drops case and accents but keeps the letters will do, since
    the analyzers of the index drop them too.

    Args:
        tokenizer: the generator's.
        texts: some of the corpus.
        most: words that are looked at.
    """
    words: Counter[str] = Counter()
    for text in texts:
        words.update(_WORD.findall(text))
        if words.total() >= most:
            break
    bad = Counter({word: count for word, count in words.items() if not _writes(tokenizer, word)})
    return bad.total() / max(1, words.total()), [word for word, _ in bad.most_common(5)]


def _writes(tokenizer: Tokenizer, word: str) -> bool:
    ids = tokenizer.encode(word)
    if tokenizer.unknown is not None and tokenizer.unknown in ids:
        return False
    written = tokenizer.decode(ids)
    return _folded(written) == _folded(word)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", "".join(text.split()).casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def check_vocabulary(tokenizer: Tokenizer, texts: Iterable[str]) -> str:
    """Return a sentence of warning when a tokenizer cannot write some words of the corpus, else an empty string.

    Raises:
        InputError: if it cannot write three words in a hundred: queries would be broken all over.
    """
    share, examples = unwritable_words(tokenizer, texts)
    if share < _WORTH_A_WARNING:
        return ""
    problem = f"the model's tokenizer cannot write {share:.1%} of the corpus's words: {', '.join(map(repr, examples))}"
    if share > _TOO_MANY:
        raise InputError(
            problem,
            "use a generator whose tokenizer has these letters: one trained on this language (PTT5 for Portuguese), "
            "a multilingual one (mT5), or one that `lavra doc2query train` makes from your own pairs",
        )
    return f"warning: {problem}; queries will lack them"


def generator_language_warning(texts: Iterable[str], language: str) -> str:
    """Return a sentence of warning when the corpus is not in the generator's language, else an empty string.

    Args:
        texts: some of the corpus.
        language: two-letter code of what the generator was trained on; empty when that is not known.
    """
    guess = guess_language(texts)
    if not language or guess.language in (None, language) or guess.share < 0.6:
        return ""
    return (
        f"warning: the documents look {guess.name} ({guess.share:.0%} of the function words), but the generator "
        f"learned from {NAMES.get(language, language)} passages; its queries will hardly fit"
    )
