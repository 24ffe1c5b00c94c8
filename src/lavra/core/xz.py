"""How small xz makes a text."""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable

XZ_DICTIONARY = 64 * 2**20
"""The window of `xz -9`."""


def xz_size(pieces: Iterable[bytes], about: int) -> int:
    """Return the bytes of `xz -9` of the pieces together.

    The dictionary is no larger than the text needs, which changes the memory (up to 674 MiB) and not the result.

    Args:
        pieces: of the text.
        about: bytes of all of them, within a factor of two.
    """
    needed = 2 ** max(12, math.ceil(math.log2(max(2, 2 * about))))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(XZ_DICTIONARY, needed)}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())
