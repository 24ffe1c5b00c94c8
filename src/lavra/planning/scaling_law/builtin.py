"""The built-in scaling law, for forecasts before there are runs of one's own: fitted to the short runs below.

How difficult a text is compared with the texts of these runs is best estimated from the loss of a bigram model on it
(with an error of 2 % on eleven texts), which a run with a warm start measures; otherwise from its size under a general
compressor (with an error of 7 %).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import exp, inf, log

import numpy as np

from lavra.planning.scaling_law.law import Observation, ScalingLaw, fit_scaling_law

_RUNS = (
    # text, parameters in matrix products, bytes trained on, validation bits per byte, the same before the first step,
    # weight; the longest runs of shapes that a plan chooses weigh more, since they are nearest to the runs to forecast
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
"""Difficulty of each text: its bits per byte relative to the first. The texts are the works of Machado de Assis,
Portuguese novels of the nineteenth century, and passages of the English Wikipedia. Losses are divided by this factor
before the fit."""

REFERENCE = 2.86
"""Bits per byte of `xz -9` on 200 kB of the first text."""

_COMPRESSIBILITY = 0.54
"""Exponent with which the loss follows the bits per byte of the compressor, and the standard deviations of the log loss
that remain with the compressor and with bigrams. From one run on each of eleven texts; on one of them bigrams are off
by 5.5 %."""
_BY_COMPRESSION = 0.07
_BY_PAIRS = 0.025

GAIN_OF_BIGRAM_EMBEDDING = 0.97
"""Ratio of the bits per byte of a run with a bigram embedding (`model.bigram_embedding`) to those without, from the
first step on: 0.967 to 0.973 in runs of 50,000 to 720,000 tokens."""

GAIN_OF_NGRAM_COPY = 0.97
"""Ratio of the bits per byte of a run with n-gram copying (`model.ngram_copy`) to those without: 0.96 on articles of an
encyclopaedia, which repeat names, and 0.98 on novels."""

_OF_GAP = 0.25
"""Share of the disagreement between bigrams and compressor (as a log ratio) that is added to the standard deviation."""


@cache
def builtin_scaling_law() -> ScalingLaw:
    """Return the scaling law of the runs above, for texts as difficult as the first of them.

    Its noise is that of a further run on texts of the same kinds. The law is fitted once for each process.

    Examples:
        >>> law = builtin_scaling_law()
        >>> law.loss(1e6, 1e7) > law.loss(1e7, 1e8)
        True
    """
    seen = [
        Observation(parameters, text_bytes, bits / level, True, f"{text} {number}", weight, start / level)
        for number, (text, parameters, text_bytes, bits, start, weight) in enumerate(_RUNS)
        for level in (_LEVELS[text],)
    ]
    origin = f"{len(seen)} short runs on {len(_LEVELS)} texts in Portuguese and English"
    return fit_scaling_law(seen, origin=origin, least_noise=0.012)


def scaling_law_for(compressed: float | None, factor: float = 1.0, level: float | None = None) -> ScalingLaw:
    """Return the built-in law, adapted to a text.

    Args:
        compressed: Bits per byte of `xz -9` on 200 kB of the text; None if there is no text yet.
        factor: Ratio of the losses of past runs to their forecasts, which `lavra plan --calibrate` measures.
        level: Difficulty of the text relative to the first text above, from bigrams (`level_by_start`); None if the run
            has no warm start.
    """
    law = builtin_scaling_law()
    share, spread = _level(compressed, level)
    return replace(law.shifted(share * factor), noise=float(np.hypot(law.noise, spread)))


def _level(compressed: float | None, by_pairs: float | None) -> tuple[float, float]:
    """Return the difficulty of a text relative to the first, and the standard deviation of its logarithm.

    The two estimates are combined with weights of their reciprocal variances (inverse-variance weighting). If they
    disagree, the text has a property that one of them does not see, such as long repetitions, so the standard deviation
    grows with the disagreement.
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
    """Return the bits per byte that a warm start from bigram counts is expected to have before the first step.

    The formula is within 2 % of what was measured for vocabularies of 1,024 to 8,192 tokens and widths of 64 to 320;
    `lavra.models.native.bigram_init` makes the warm start.

    Args:
        vocabulary: Vocabulary size.
        width: Width of the model, which is the rank of the approximated bigram table.
        contexts: Number of tokens whose followers are counted.
        compressed: Bits per byte of `xz -9` on 200 kB of the text; None for the first of the texts above.
    """
    share = 1.0 if compressed is None else _level_by_compression(compressed)
    by_shape = 0.671 - 0.108 * log(vocabulary / 4096) + 0.123 * 64 / width
    return share * exp(by_shape + 0.2 * (1.0 - contexts / vocabulary) ** 2)


def _level_by_compression(compressed: float) -> float:
    return (compressed / REFERENCE) ** _COMPRESSIBILITY


def level_by_start(start: float, vocabulary: int, width: int, contexts: int) -> float:
    """Return the difficulty of a text relative to the first text above, from the loss of its warm start.

    Args:
        start: Measured bits per byte before the first step.
        vocabulary: Vocabulary size.
        width: Width of the model.
        contexts: Number of tokens whose followers were counted.
    """
    return start / start_for(vocabulary, width, contexts)
