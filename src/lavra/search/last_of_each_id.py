"""A collection without the documents whose id comes again later: the last one counts, as in the index."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from lavra.data.bad_rows import BadRows
from lavra.search.documents import Document
from lavra.search.formats import Collection
from lavra.search.segments import key_of
from lavra.search.update import DUPLICATE_ID


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
