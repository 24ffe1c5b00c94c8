"""Is the difference between two systems more than chance? Paired tests over queries, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lavra.core.errors import InputError
from lavra.core.seeds import numpy_stream
from lavra.evaluation.intervals import Estimate
from lavra.evaluation.retrieval import RetrievalScores, mean_estimates


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against the baseline on one measure.

    Attributes:
        system: its name.
        measure: e.g. "MRR@10".
        difference: mean of (system - baseline) over queries, with its bootstrap interval.
        wins: queries on which the system is better.
        losses: queries on which it is worse; on the others both are equal.
        p_t: two-sided p-value of the paired t-test.
        p_randomisation: two-sided p-value of the paired randomisation test.
        p_holm: `p_randomisation` after Holm's correction for the systems compared on this measure.
    """

    system: str
    measure: str
    difference: Estimate
    wins: int
    losses: int
    p_t: float
    p_randomisation: float
    p_holm: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with the fields as named here."""
        fields = {name: getattr(self, name) for name in ("system", "measure", "wins", "losses")}
        chances = {name: getattr(self, name) for name in ("p_t", "p_randomisation", "p_holm")}
        return {**fields, "difference": self.difference.to_json(), **chances}


def paired_t_test(differences: ArrayLike) -> float:
    """Return the two-sided p-value of the paired t-test that the mean difference is zero.

    Equal systems (every difference zero) give 1; fewer than two queries give 1, for nothing can be said.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not values.any():
        return 1.0
    spread = values.std(ddof=1)
    if spread == 0:  # the same non-zero difference everywhere
        return 0.0
    from scipy.special import stdtr

    t = values.mean() / (spread / np.sqrt(len(values)))
    return float(2 * stdtr(len(values) - 1, -abs(t)))


def randomisation_test(differences: ArrayLike, *, samples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of Fisher's paired randomisation test on the mean difference.

    Under the null hypothesis the two systems are exchangeable on each query, so each difference may have either sign.
    The p-value is `(1 + extreme) / (1 + samples)`: the observed labelling is one of those possible, so it is never
    zero (Smucker, Allan and Carterette, CIKM 2007; the correction is Phipson and Smyth's, 2010).

    Args:
        differences: (queries,) system - baseline.
        samples: number of random sign assignments.
        seed: the draw is a function of this number and of the number of queries that differ.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]  # a zero keeps its value under either sign
    if not len(values):
        return 1.0
    observed = abs(values.sum())
    margin = 1e-12 * np.abs(values).sum()  # sums that are equal on paper differ by rounding
    random = numpy_stream(seed, "randomisation test")
    packed = (len(values) + 7) // 8
    at_once = max(1, 2**22 // len(values))
    extreme = 0
    for first in range(0, samples, at_once):
        rows = min(at_once, samples - first)
        bits = np.unpackbits(random.integers(0, 256, (rows, packed), dtype=np.uint8), axis=1, count=len(values))
        sums = 2 * (bits.astype(np.float64) @ values) - values.sum()
        extreme += int((np.abs(sums) >= observed - margin).sum())
    return (1 + extreme) / (1 + samples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down method: the chance of any false finding stays below the level.

    (Holm, 1979.) With m tests, the i-th smallest is multiplied by m - i (counted from 0) and never falls below the
    one before it.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def compare_with_baseline(
    baseline: RetrievalScores, systems: Mapping[str, RetrievalScores], *, samples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Compare each system with the baseline on every measure; Holm's correction runs over the systems of a measure.

    Raises:
        InputError: if a system was measured on other queries or measures than the baseline.
    """
    if not systems:
        return []
    for name, scores in systems.items():
        if scores.queries != baseline.queries or scores.measures != baseline.measures:
            raise InputError(
                f"{name} was not measured on the same queries and measures as the baseline",
                "evaluate both on the same judgements",
            )
    differences = np.stack([scores.values - baseline.values for scores in systems.values()])
    found: list[Comparison] = []
    for column, measure in enumerate(baseline.measures):
        found += _compare_on_measure(list(systems), measure, differences[:, :, column].T, samples, seed)
    return found


def _compare_on_measure(
    names: Sequence[str], measure: str, differences: NDArray[np.float64], samples: int, seed: int
) -> list[Comparison]:
    """Compare on one measure; `differences` is (queries, systems)."""
    estimates = mean_estimates(differences, names, seed=seed)
    chances = [randomisation_test(column, samples=samples, seed=seed) for column in differences.T]
    return [
        Comparison(
            system=name,
            measure=measure,
            difference=estimates[name],
            wins=int((column > 0).sum()),
            losses=int((column < 0).sum()),
            p_t=paired_t_test(column),
            p_randomisation=chance,
            p_holm=corrected,
        )
        for name, column, chance, corrected in zip(names, differences.T, chances, holm(chances), strict=True)
    ]
