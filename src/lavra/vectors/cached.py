"""An encoder with a cache: no text is read twice, and what was made before a kill is there when the work goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lavra.core.progress import Progress
from lavra.vectors.cache import VectorCache, key_of
from lavra.vectors.protocols import TextEncoder, TextKind

_BLOCK = 1024
"""Texts whose vectors are stored together. A block depends on the texts alone, so that a killed command that is given
again computes the same batches, to the last bit."""


class CachedEncoder:
    """Makes vectors by another encoder, unless the cache has them; see `TextEncoder`.

    Args:
        encoder: Makes the vectors.
        cache: The cache, which is asked before anything is computed.
        between: Is called between blocks of texts; what was made until then is in the cache, and it may raise an error
            to stop.
    """

    def __init__(self, encoder: TextEncoder, cache: VectorCache, between: Callable[[], None] = lambda: None) -> None:
        self.encoder, self._cache, self._between = encoder, cache, between
        self.fingerprint, self.dimensions, self.longest = encoder.fingerprint, encoder.dimensions, encoder.longest

    def encode(self, texts: Sequence[str], *, kind: TextKind = "text") -> NDArray[np.float32]:
        """Return the (texts, dimensions) float32 vectors of the texts, in their order.

        Args:
            texts: Texts, without the prompt of their kind.
            kind: What the texts are.
        """
        name = f"{self.fingerprint} {kind} {getattr(self.encoder, 'precision', 'fp32')}"
        places = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        different = list(places)
        vectors = np.empty((len(different), self.dimensions), np.float32)
        computed = False
        with Progress("embedding", len(different), "texts") as progress:
            for start in range(0, len(different), _BLOCK):
                self._between()
                block = different[start : start + _BLOCK]
                computed |= self._fill(vectors[start : start + _BLOCK], block, name, kind)
                done = start + len(block)
                if computed:
                    progress.update(done)
                else:  # all came from the cache so far, which does not measure the speed
                    progress.start_from(done)
        return vectors[[places[text] for text in texts]]

    def _fill(self, into: NDArray[np.float32], texts: Sequence[str], name: str, kind: TextKind) -> bool:
        """Fill in the vectors of the texts of a block; return whether any was computed."""
        keys = [key_of(text, name) for text in texts]
        found = self._cache.get(keys)
        missing = [number for number, key in enumerate(keys) if key not in found]
        if missing:
            made = self.encoder.encode([texts[number] for number in missing], kind=kind)
            new = {keys[number]: vector for number, vector in zip(missing, made, strict=True)}
            self._cache.put(new)
            found |= new
        for number, key in enumerate(keys):
            into[number] = found[key]
        return bool(missing)
