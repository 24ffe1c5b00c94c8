"""Cuts windows from the token stream and tells their documents apart; nothing is padded, cropped or repeated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavra.data.shuffle import WindowPlace, WindowPlaces, WindowShuffle
from lavra.data.token_store.store import TokenStore


@dataclass(frozen=True, slots=True)
class Window:
    """One window: target i is `tokens[i + 1]` and its input is `inputs[i]`.

    An input is the token before the target, `tokens[i]`. Every document ends with an end-of-document token, which is
    the input of the next document's first target and so serves as its beginning-of-document token; where the tokenizer
    begins texts with another token, that one is the input instead. Segments and positions are those of the target's
    document.

    Attributes:
        tokens: (length + 1,) int64 token before the window in the circular stream, and the window's own tokens.
        documents: (length,) int64 number of each target's document in the store.
        document_ids: (length,) int32 number of each target's document within the window, from 0. Where the stream
            begins again in a store of one document, the segment changes though the document does not.
        positions: (length,) int64 index of each target within its segment, from 0.
        inputs: (length,) int64 ids that a causal model reads.
    """

    tokens: np.ndarray
    documents: np.ndarray
    document_ids: np.ndarray
    positions: np.ndarray
    inputs: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)


@dataclass(frozen=True, slots=True)
class Windows:
    """Many windows as the rows of arrays, which are as wide as the longest window.

    The arrays are those of `Window`. Beyond the length of a window, `tokens` and `inputs` hold the tokens that follow
    in the stream, which are not to be used.

    Attributes:
        tokens: (windows, width + 1) int64.
        documents: (windows, width) int64, -1 beyond the length of a window.
        document_ids: (windows, width) int32, -1 beyond the length of a window.
        positions: (windows, width) int64, 0 beyond the length of a window.
        inputs: (windows, width) int64.
        lengths: (windows,) int64 number of targets of each window.
    """

    tokens: np.ndarray
    documents: np.ndarray
    document_ids: np.ndarray
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
            self.document_ids[row, :length],
            self.positions[row, :length],
            self.inputs[row, :length],
        )


def cut(store: TokenStore, place: WindowPlace) -> Window:
    """Return the window at one place of a token store."""
    places = WindowPlaces(np.array([place.epoch]), np.array([place.start]), np.array([place.length]))
    return cut_many(store, places)[0]


def cut_many(store: TokenStore, places: WindowPlaces) -> Windows:
    """Return the windows at many places of a token store, which is faster than one by one."""
    width = int(places.lengths.max())
    offsets = np.arange(-1, width)
    tokens = np.asarray(store.tokens)[(places.starts[:, None] + offsets) % store.manifest.tokens].astype(np.int64)
    # The end-of-document token ends documents and occurs nowhere else, so counting it tells the documents apart.
    begins = tokens[:, :-1] == store.manifest.end_of_document
    inputs = np.where(begins, store.manifest.document_bos, tokens[:, :-1])
    begins[:, 0] = True
    document_ids = np.cumsum(begins, axis=1) - 1
    documents = (store.documents_at(places.starts)[:, None] + document_ids) % store.manifest.documents
    columns = np.arange(width)
    positions = columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    beyond = columns >= places.lengths[:, None]
    return Windows(
        tokens=tokens,
        inputs=inputs,
        documents=np.where(beyond, -1, documents),
        document_ids=np.where(beyond, -1, document_ids).astype(np.int32),
        positions=np.where(beyond, 0, positions),
        lengths=places.lengths,
    )


# The windows of a store by their number in the run.


class WindowSource:
    """The sequences of a training run: window `k` of the run is a pure function of the seed and of `k`.

    Args:
        store: The token store to train on.
        context: Number of targets of a window.
        seed: Seed of the order.
    """

    def __init__(self, store: TokenStore, context: int, seed: int) -> None:
        self.store = store
        self.order = WindowShuffle(store.manifest.tokens, context, seed)

    def rows(self, start: int, count: int) -> list[Window]:
        """Return the `count` windows from number `start` of the run on."""
        windows = cut_many(self.store, self.order.places(np.arange(start, start + count)))
        return [windows[row] for row in range(count)]
