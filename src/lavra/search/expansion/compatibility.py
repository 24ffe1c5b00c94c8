"""Before an expansion: what would spoil queries silently, and documents whose id comes again later."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lavra.core.errors import InputError
from lavra.data.readers.rows import BadRows
from lavra.search.corpora.documents import Document
from lavra.search.corpora.formats import Collection
from lavra.search.index.segments import key_of
from lavra.search.index.update import DUPLICATE_ID
from lavra.text.languages import NAMES, guess_language

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer

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
    return f"warning: {problem}; the generated queries will lack these words"


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


class LastOfEachId:
    """The documents of a collection; from its second whole pass on, those alone that are the last of their id.

    The first whole pass notes eight bytes for each document, and lets all of them through.

    Args:
        collection: to be read.
        bad_rows: counts the documents that are left out, in every pass.
    """

    def __init__(self, collection: Collection, bad_rows: BadRows) -> None:
        self.name = collection.name
        self._collection, self._bad_rows = collection, bad_rows
        self._last: dict[int, int] | None = None

    def documents(self) -> Iterator[Document]:
        """Yield the documents."""
        if self._last is None:
            yield from self._noted()
            return
        for place, document in enumerate(self._collection.documents()):
            if self._last and self._last.get(_hash(document), place) != place:
                self._bad_rows.add(DUPLICATE_ID, document.place or "?", repr(document.id))
            else:
                yield document

    def _noted(self) -> Iterator[Document]:
        hashes = array("Q")
        for document in self._collection.documents():
            hashes.append(_hash(document))
            yield document
        found = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(found, kind="stable")
        repeats = np.flatnonzero(found[order[1:]] == found[order[:-1]])
        places = np.unique(order[np.concatenate([repeats, repeats + 1])])
        self._last = {int(found[place]): place for place in places.tolist()}


def _hash(document: Document) -> int:
    return int(key_of(document.id)[0])
