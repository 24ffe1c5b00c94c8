"""Windows of the token stream, with the documents that they hold told apart; nothing is padded, cropped or repeated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavra.data.order import WindowOrder, WindowPlace, WindowPlaces
from lavra.data.token_store.store import TokenStore


@dataclass(frozen=True, slots=True)
class Window:
    """One window: target i is `tokens[i + 1]` and its input is `inputs[i]`.

    An input is the token before the target, `tokens[i]`. Every document ends with an end-of-document token, so that of
    the document before is the input of a document's first target, and serves as its beginning; where the tokenizer
    begins texts with another token, that one is the input instead. Segments and positions are those of the target's
    document.

    Attributes:
        tokens: (length + 1,) int64: the token before the window in the circular stream, then the window's own.
        documents: (length,) int64: the number of each target's document in the store.
        segments: (length,) int32: the number of the target's document within the window, from 0. Where the stream
            begins again in a store of one document, the segment changes though the document does not.
        positions: (length,) int64: the place of each target within its segment, from 0.
        inputs: (length,) int64: what a causal model reads.
    """

    tokens: np.ndarray
    documents: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    inputs: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)


@dataclass(frozen=True, slots=True)
class Windows:
    """Many windows as the rows of arrays, as wide as the longest.

    Attributes:
        tokens: (windows, width + 1) int64, as in `Window`; beyond a row's length the stream simply goes on.
        documents: (windows, width) int64, -1 beyond a row's length.
        segments: (windows, width) int32, -1 beyond a row's length.
        positions: (windows, width) int64, 0 beyond a row's length.
        inputs: (windows, width) int64, as in `Window`; beyond a row's length the stream simply goes on.
        lengths: (windows,) int64 targets of each row.
    """

    tokens: np.ndarray
    documents: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    inputs: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Window:
        length = int(self.lengths[row])
        return Window(
            self.tokens[row, : length + 1],
            self.documents[row, :length],
            self.segments[row, :length],
            self.positions[row, :length],
            self.inputs[row, :length],
        )


def cut(store: TokenStore, place: WindowPlace) -> Window:
    """Return one window of the store."""
    places = WindowPlaces(np.array([place.epoch]), np.array([place.start]), np.array([place.length]))
    return cut_many(store, places)[0]


def cut_many(store: TokenStore, places: WindowPlaces) -> Windows:
    """Return many windows of the store at once."""
    width = int(places.lengths.max())
    offsets = np.arange(-1, width)
    tokens = np.asarray(store.tokens)[(places.starts[:, None] + offsets) % store.manifest.tokens].astype(np.int64)
    # The end-of-document token ends documents and occurs nowhere else, so counting it tells the documents apart.
    begins = tokens[:, :-1] == store.manifest.end_of_document
    inputs = np.where(begins, store.manifest.document_bos, tokens[:, :-1])
    begins[:, 0] = True
    segments = np.cumsum(begins, axis=1) - 1
    documents = (store.documents_at(places.starts)[:, None] + segments) % store.manifest.documents
    columns = np.arange(width)
    positions = columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    beyond = columns >= places.lengths[:, None]
    return Windows(
        tokens=tokens,
        inputs=inputs,
        documents=np.where(beyond, -1, documents),
        segments=np.where(beyond, -1, segments).astype(np.int32),
        positions=np.where(beyond, 0, positions),
        lengths=places.lengths,
    )


# The windows of a store by their number in the run's endless order.


class WindowSource:
    """Rows for training: window `k` of the run is a pure function of the seed and of `k`.

    Args:
        store: of tokens.
        context: targets of a window.
        seed: of the order.
    """

    def __init__(self, store: TokenStore, context: int, seed: int) -> None:
        self.store = store
        self.order = WindowOrder(store.manifest.tokens, context, seed)

    def rows(self, start: int, count: int) -> list[Window]:
        """Return `count` windows from number `start` on."""
        windows = cut_many(self.store, self.order.places(np.arange(start, start + count)))
        return [windows[row] for row in range(count)]
