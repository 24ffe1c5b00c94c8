"""The law that forecasts before there is any run of one's own: fitted to the short runs below, all made by lavra.

How hard a text is, beside those that the runs learned from, is told best by how well pairs of tokens foretell it (to
2 %, on eleven texts), which a run knows that begins from them; else, to 7 %, by a general compressor.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import exp, inf, log

import numpy as np

from lavra.planning.scaling_law.law import Law, Observation, fit_law

_RUNS = (
    # parameters in matrix products, bytes read, bits per byte of held-out text, the same before the first step, weight:
    # the longest runs of shapes that a plan chooses count for more, since they are nearest to those that are forecast
    ("machado", 1.31e6, 34.40e6, 1.5753, inf, 3),
    ("machado", 1.31e6, 11.04e6, 1.6992, 2.061, 3),
    ("machado", 1.67e6, 10.37e6, 1.7179, 2.022, 1),
    ("machado", 3.00e6, 5.18e6, 1.7483, 2.022, 1),
    ("machado", 5.24e6, 4.36e6, 1.7350, 1.903, 1),
    ("machado", 0.53e6, 16.44e6, 1.7378, inf, 1),
    ("machado", 1.84e6, 7.38e6, 1.7660, inf, 1),
    ("machado", 2.62e6, 7.65e6, 1.7103, 2.007, 1),
    ("machado", 0.51e6, 15.19e6, 1.7636, inf, 1),
    ("machado", 0.85e6, 13.43e6, 1.7024, inf, 1),
    ("machado", 0.82e6, 13.01e6, 1.7466, 2.064, 1),
    ("machado", 0.23e6, 0.91e6, 2.2493, 2.395, 1),
    ("machado", 0.53e6, 0.91e6, 2.1890, 2.283, 1),
    ("machado", 1.05e6, 0.91e6, 2.1611, 2.229, 1),
    ("novels", 0.23e6, 0.91e6, 2.2950, 2.437, 1),
    ("novels", 0.53e6, 0.91e6, 2.2390, 2.317, 1),
    ("novels", 1.05e6, 0.91e6, 2.2138, 2.263, 1),
    ("wikipedia", 0.23e6, 0.90e6, 2.3089, 2.446, 1),
    ("wikipedia", 0.53e6, 0.90e6, 2.2396, 2.329, 1),
    ("wikipedia", 1.05e6, 0.90e6, 2.2108, 2.276, 1),
    ("machado", 0.23e6, 1.82e6, 2.1801, 2.395, 1),
    ("machado", 0.53e6, 1.82e6, 2.0925, 2.283, 1),
    ("machado", 1.05e6, 1.82e6, 2.0352, 2.229, 1),
    ("novels", 0.23e6, 1.83e6, 2.2197, 2.437, 1),
    ("novels", 0.53e6, 1.83e6, 2.1333, 2.317, 1),
    ("novels", 1.05e6, 1.83e6, 2.0965, 2.263, 1),
    ("wikipedia", 0.23e6, 1.80e6, 2.2231, 2.446, 1),
    ("wikipedia", 0.53e6, 1.80e6, 2.1292, 2.329, 1),
    ("wikipedia", 1.05e6, 1.80e6, 2.0880, 2.276, 1),
    ("machado", 6.82e6, 11.20e6, 1.6189, 1.903, 3),
    ("wikipedia", 6.82e6, 2.60e6, 1.8926, 1.935, 1),
    ("wikipedia", 6.82e6, 9.77e6, 1.7335, 1.935, 3),
    ("machado", 6.82e6, 1.35e6, 1.8898, 1.903, 1),
)

_LEVELS = {"machado": 1.0, "novels": 1.031, "wikipedia": 1.031}
"""Bits per byte on each text over those on the first: the works of Machado de Assis, nineteenth-century Portuguese
novels, passages of Wikipedia in English. All others count for what they would have been on the first."""

REFERENCE = 2.86
"""Bits per byte of xz -9 on 200 kB of the first text."""

_COMPRESSIBILITY, _BY_COMPRESSION, _BY_PAIRS = 0.54, 0.07, 0.025
"""Power with which the loss follows the compressor's; standard deviations of the logarithm that is left by compressor
and by pairs: from one run each on eleven texts, of which pairs mislead one by 5.5 %."""

GAIN_OF_PAIRS = 0.97
"""Bits per byte of a run with a table of pairs of tokens (`model.pairs`) by those of one without, from the first step
on: .967 to .973 in runs of 50,000 to 720,000 tokens."""

GAIN_OF_RECALL = 0.97
"""The same for a run that recalls what followed tokens in their document (`model.recall`): .96 on articles of an
encyclopaedia, whose names come again, .98 on novels."""

_OF_GAP = 0.25
"""Share of a contradiction between pairs and compressor that is doubt."""


@cache
def builtin_law() -> Law:
    """Return the law of the runs above; its noise is that of another run on texts like theirs."""
    seen = [
        Observation(parameters, text_bytes, bits / level, True, f"{text} {number}", weight, start / level)
        for number, (text, parameters, text_bytes, bits, start, weight) in enumerate(_RUNS)
        for level in (_LEVELS[text],)
    ]
    origin = f"{len(seen)} short runs on {len(_LEVELS)} texts in Portuguese and English"
    return fit_law(seen, origin=origin, least_noise=0.012)


def law_for(compressed: float | None, factor: float = 1.0, level: float | None = None) -> Law:
    """Return the built-in law for one's own text.

    Args:
        compressed: bits per byte of xz -9 on 200 kB of it; None when there is no text to look at.
        factor: what past runs on one's own texts were off by (`lavra plan --calibrate`).
        level: how much harder it is than the first of the texts above, as pairs of tokens tell (`level_by_start`).
    """
    law = builtin_law()
    share, spread = _level(compressed, level)
    return replace(law.shifted(share * factor), noise=float(np.hypot(law.noise, spread)))


def _level(compressed: float | None, by_pairs: float | None) -> tuple[float, float]:
    """Return how much harder a text is than the first, and the standard deviation of the logarithm.

    Both voices count by how exact they are; where they contradict each other, a text has something that one of them
    does not see, such as long repetitions, and there is more doubt.
    """
    by_compression = None if compressed is None else _level_by_compression(compressed)
    if by_pairs is None:
        return (1.0, 2.5 * _BY_COMPRESSION) if by_compression is None else (by_compression, _BY_COMPRESSION)
    if by_compression is None:
        return by_pairs, _BY_PAIRS
    gap = log(by_compression / by_pairs)
    share = _BY_PAIRS**2 / (_BY_PAIRS**2 + _BY_COMPRESSION**2)
    return by_pairs * exp(share * gap), float(np.hypot(_BY_PAIRS, _OF_GAP * gap))


def start_for(vocabulary: int, width: int, contexts: int, compressed: float | None = None) -> float:
    """Return the held-out bits per byte that pairs of tokens bring before the first step
    (`lavra.models.native.bigram_init`).

    Within 2 % of what was measured for vocabularies of 1,024 to 8,192 tokens and widths of 64 to 320.

    Args:
        vocabulary: token ids.
        width: of the model: the rank that the table of pairs is brought to.
        contexts: tokens whose followers are counted.
        compressed: bits per byte of xz -9 on 200 kB of the text; None for the first of the texts above.
    """
    share = 1.0 if compressed is None else _level_by_compression(compressed)
    by_shape = 0.671 - 0.108 * log(vocabulary / 4096) + 0.123 * 64 / width
    return share * exp(by_shape + 0.2 * (1.0 - contexts / vocabulary) ** 2)


def _level_by_compression(compressed: float) -> float:
    return (compressed / REFERENCE) ** _COMPRESSIBILITY


def level_by_start(start: float, vocabulary: int, width: int, contexts: int) -> float:
    """Return how much harder a text is than the first of those above, from the bits per byte of its pairs of tokens."""
    return start / start_for(vocabulary, width, contexts)
