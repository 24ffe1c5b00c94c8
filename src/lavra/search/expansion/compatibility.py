"""Checks before an expansion: whether the generator fits the corpus, and which documents are the last of their id."""

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
_WORTH_A_WARNING = 0.002
"""Shares of words that a tokenizer cannot write, from which on there is a warning, and an error."""
_TOO_MANY = 0.03


def unwritable_words(tokenizer: Tokenizer, texts: Iterable[str], *, limit: int = 20_000) -> tuple[float, list[str]]:
    """Return the share of the words that a tokenizer cannot write, and the most frequent of them.

    A word cannot be written if its ids contain the unknown token, or decode to something else than the word (English T5
    turns "Rodríguez" into "Rodr ⁇ guez"). A tokenizer that drops case and accents but keeps the letters is accepted,
    because the analyzers of the index drop them too.

    Args:
        tokenizer: The tokenizer of the generator.
        texts: Texts of the corpus.
        limit: Number of words after which no further text is read.

    Returns:
        The share of the words, from 0 to 1, and up to five of them.
    """
    words: Counter[str] = Counter()
    for text in texts:
        words.update(_WORD.findall(text))
        if words.total() >= limit:
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
    """Return a warning when a tokenizer cannot write some words of the corpus, else an empty string.

    Args:
        tokenizer: The tokenizer of the generator.
        texts: Texts of the corpus.

    Raises:
        InputError: If it cannot write more than 3 % of the words, so that most queries would be broken.
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
    """Return a warning when the corpus is not in the language of the generator, else an empty string.

    Args:
        texts: Texts of the corpus.
        language: Two-letter code of the language that the generator was trained on; empty when it is not known.
    """
    guess = guess_language(texts)
    if not language or guess.language in (None, language) or guess.share < 0.6:
        return ""
    return (
        f"warning: the documents look {guess.name} ({guess.share:.0%} of the function words), but the generator "
        f"learned from {NAMES.get(language, language)} passages; its queries will hardly fit"
    )


class DeduplicateIds:
    """The documents of a collection; from the second whole pass on, only those that are the last of their id.

    The first whole pass yields all documents, and keeps eight bytes for each.

    Args:
        collection: The collection to read.
        bad_rows: Counts the documents that are left out, in every pass.

    Attributes:
        name: The name of the collection.
    """

    def __init__(self, collection: Collection, bad_rows: BadRows) -> None:
        self.name = collection.name
        self._collection, self._bad_rows = collection, bad_rows
        self._last: dict[int, int] | None = None

    def documents(self) -> Iterator[Document]:
        """Yield the documents, without holding them all in memory."""
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
