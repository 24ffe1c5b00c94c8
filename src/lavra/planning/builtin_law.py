"""The law that forecasts before there is any run of one's own: fitted to the short runs below, all made by lavra.

Their texts: the works of Machado de Assis and nineteenth-century Portuguese novels, passages of Wikipedia in English,
Brazilian news, docstrings. What they are off by on another text is, for the most part, how much there is to be learned
in it, which a general compressor tells before any training.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from lavra.planning.law import Law, Observation, fit_law

_RUNS = (
    # parameters in matrix products, bytes read, bits per byte of held-out text
    ("machado", 1.05e6, 4.17e6, 1.967),
    ("machado", 1.05e6, 6.10e6, 1.864),
    ("machado", 0.53e6, 2.31e6, 2.196),
    ("machado", 0.53e6, 3.63e6, 2.098),
    ("machado", 1.05e6, 2.60e6, 2.094),
    ("machado", 2.56e6, 1.35e6, 2.159),
    ("machado", 0.53e6, 4.38e6, 2.112),
    ("machado", 1.31e6, 2.33e6, 2.118),
    ("machado", 2.56e6, 1.35e6, 2.159),
    ("machado", 6.03e6, 0.72e6, 2.203),
    ("machado", 1.05e6, 18.29e6, 1.716),
    ("machado", 1.05e6, 15.04e6, 1.743),
    ("machado", 0.23e6, 0.91e6, 2.630),
    ("docstrings", 1.05e6, 6.98e6, 1.835),
    ("novels", 0.23e6, 0.91e6, 2.650),
    ("wikipedia", 0.23e6, 0.90e6, 2.637),
    ("wikipedia", 0.53e6, 1.80e6, 2.326),
    ("machado", 0.23e6, 3.04e6, 2.246),
    ("novels", 0.53e6, 1.83e6, 2.316),
    ("wikipedia", 1.05e6, 1.80e6, 2.257),
    ("news", 0.23e6, 0.88e6, 2.730),
)

REFERENCE = 2.9
"""Bits per byte of xz -9 on 200 kB of the texts that most of the runs learned from."""

_COMPRESSIBILITY, _TEXTS = 0.5, 0.09
"""Power with which the loss follows the compressor's, and the standard deviation of the logarithm that is left: from
one small run each on eight texts, four of them far easier than novels (see the lab notebook)."""


@cache
def builtin_law() -> Law:
    """Return the law of the runs above; its noise is that of another run on texts like theirs."""
    seen = [
        Observation(parameters, text_bytes, bits, run=f"{corpus} {number}")
        for number, (corpus, parameters, text_bytes, bits) in enumerate(_RUNS)
    ]
    corpora = len({corpus for corpus, *_ in _RUNS})
    origin = f"{len(seen)} short runs on {corpora} texts in Portuguese and English"
    return fit_law(seen, origin=origin, least_noise=0.015)


def law_for(compressed: float | None, factor: float = 1.0) -> Law:
    """Return the built-in law for one's own text.

    Args:
        compressed: bits per byte of xz -9 on 200 kB of it; None when there is no text to look at.
        factor: what past runs on one's own texts were off by (`lavra plan --calibrate`).
    """
    law = builtin_law()
    share = 1.0 if compressed is None else (compressed / REFERENCE) ** _COMPRESSIBILITY
    spread = 2.5 * _TEXTS if compressed is None else _TEXTS
    return replace(law.shifted(share * factor), noise=float(np.hypot(law.noise, spread)))
