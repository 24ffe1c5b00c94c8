"""Tokenised documents to evaluate a model on, with the sizes of their original texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lavra.core.errors import InputError
from lavra.core.seeds import numpy_stream
from lavra.data.readers.rows import SourceDocument

if TYPE_CHECKING:
    from lavra.data.token_store.store import TokenStore
    from lavra.data.tokenizers.tokenizer import Tokenizer

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Documents:
    """Tokenised documents. Document d is `tokens[starts[d]:ends[d]]` and ends with the end-of-document token.

    Attributes:
        tokens: Token ids, (tokens,), in memory or mapped from a token store.
        starts: Place of the first token of each document in `tokens`, (documents,).
        ends: Place after the last token of each document in `tokens`, (documents,).
        bytes: UTF-8 bytes of each original text, (documents,); bits per byte are counted on these.
        characters: Unicode code points of each text, (documents,).
        words: Words of each text, which are the pieces between white space (`str.split`), (documents,).
        source: Index into `sources` of the corpus that each document comes from, (documents,).
        sources: Names of the corpora.
        bos: Id of the token that a model reads before the first token of a document.

    Examples:
        >>> one = np.array([1, 1])
        >>> documents = Documents(np.array([5, 6, 0, 7, 0]), np.array([0, 3]), np.array([3, 5]),
        ...                       one, one, one, one - 1, ("a corpus",), bos=0)
        >>> documents.lengths.tolist(), documents.select([1]).starts.tolist()
        ([3, 2], [3])
    """

    tokens: NDArray[Any]
    starts: Whole
    ends: Whole
    bytes: Whole
    characters: Whole
    words: Whole
    source: Whole
    sources: tuple[str, ...]
    bos: int

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Whole:
        """(documents,) tokens of each document, its end-of-document token included."""
        return self.ends - self.starts

    def select(self, numbers: NDArray[np.integer] | Sequence[int]) -> Documents:
        """Return some of the documents.

        Args:
            numbers: Numbers of the documents to return, counted from 0, in the order in which to return them.
        """
        chosen = np.asarray(numbers, dtype=np.int64)
        fields = ("starts", "ends", "bytes", "characters", "words", "source")
        return replace(self, **{name: getattr(self, name)[chosen] for name in fields})

    def sample(self, tokens: int, seed: int = 0) -> Documents:
        """Return a random sample of whole documents, in their original order.

        Args:
            tokens: Number of tokens at which to stop drawing documents. All documents are returned where they have
                no more tokens than this.
            seed: Seed of the draw, which depends on nothing else but the number of documents.
        """
        if int(self.lengths.sum()) <= tokens:
            return self
        order = numpy_stream(seed, "sample of documents").permutation(len(self))
        enough = int(np.searchsorted(np.cumsum(self.lengths[order]), tokens)) + 1
        return self.select(np.sort(order[:enough]))

    def texts(self, tokenizer: Tokenizer) -> Iterator[str]:
        """Yield the text of each document, decoded from its tokens.

        Args:
            tokenizer: Tokenizer that made the tokens.
        """
        for start, end in zip(self.starts, self.ends, strict=True):
            yield tokenizer.decode(self.tokens[start : end - 1].tolist())


def documents_of_rows(rows: Iterable[SourceDocument | str], tokenizer: Tokenizer) -> Documents:
    """Tokenise documents and keep their tokens in memory.

    Args:
        rows: Documents as rows with a text and a source, or as plain strings, whose source is then "text".
        tokenizer: Tokenizer of the model to evaluate.

    Raises:
        InputError: If there is no document.
    """
    pieces: list[NDArray[Any]] = []
    sizes: list[tuple[int, int, int, int]] = []
    names: dict[str, int] = {}
    kind = np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.uint32
    closing = np.array([tokenizer.end_of_document], dtype=kind)
    for group in _groups(rows):
        texts = [row if isinstance(row, str) else row.text for row in group]
        for row, text, ids in zip(group, texts, tokenizer.encode_many(texts), strict=True):
            pieces += [np.asarray(ids, dtype=kind), closing]
            source = names.setdefault("text" if isinstance(row, str) else row.source, len(names))
            sizes.append((len(text.encode("utf8", "surrogatepass")), len(text), len(text.split()), source))
    if not sizes:
        raise InputError("there is no document to evaluate on", "check the --data locations; empty texts do not count")
    ends = np.cumsum([len(ids) + 1 for ids in pieces[::2]])
    bytes_, characters, words, source = np.array(sizes, dtype=np.int64).T
    return Documents(
        tokens=np.concatenate(pieces),
        starts=np.concatenate([[0], ends[:-1]]),
        ends=ends,
        bytes=bytes_,
        characters=characters,
        words=words,
        source=source,
        sources=tuple(names),
        bos=tokenizer.document_bos,
    )


def documents_of_store(store: TokenStore, tokenizer: Tokenizer) -> Documents:
    """Return the documents of a token store; the tokens stay on disk.

    The store records the bytes of each original text. Characters and words are counted on the texts of the store,
    which are the originals where it keeps them and are decoded from the tokens otherwise.

    Args:
        store: Token store that holds the documents.
        tokenizer: Tokenizer of the model to evaluate.

    Raises:
        InputError: If the store was made with another tokenizer.
    """
    manifest = store.manifest
    if manifest.tokenizer_fingerprint != tokenizer.fingerprint:
        raise InputError(
            f"the token store {store.folder} was made with another tokenizer than the model's",
            "prepare the data again with the model's tokenizer, or give the original text files",
        )
    counts = np.array([(len(text), len(text.split())) for text in store.texts()], dtype=np.int64)
    offsets = np.asarray(store.offsets).astype(np.int64)
    return Documents(
        tokens=store.tokens,
        starts=offsets[:-1],
        ends=offsets[1:],
        bytes=np.asarray(store.document_bytes).astype(np.int64),
        characters=counts[:, 0],
        words=counts[:, 1],
        source=np.repeat(np.arange(len(manifest.sources)), [source.documents for source in manifest.sources]),
        sources=tuple(source.name for source in manifest.sources),
        bos=tokenizer.document_bos,
    )


def _groups(rows: Iterable[SourceDocument | str], size: int = 1024) -> Iterator[list[SourceDocument | str]]:
    group: list[SourceDocument | str] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
