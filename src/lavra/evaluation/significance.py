"""Paired significance tests over queries, and Holm's correction for several comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        system: Name of the system.
        measure: Name of the measure, such as "MRR@10".
        difference: Mean over queries of system minus baseline, with its bootstrap interval.
        wins: Number of queries on which the system is better.
        losses: Number of queries on which the system is worse. On all others both are equal.
        p_t: Two-sided p-value of the paired t-test.
        p_randomisation: Two-sided p-value of the paired randomisation test.
        p_holm: `p_randomisation` after Holm's correction for the number of systems compared on this measure.
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
    """Return the two-sided p-value of the paired t-test of the hypothesis that the mean difference is zero.

    Args:
        differences: System minus baseline for each query, (queries,).

    Returns:
        The p-value. It is 1 where all differences are zero or there are fewer than two queries.

    Examples:
        >>> round(paired_t_test([0.1, 0.2, 0.3, 0.2]), 4)
        0.0163
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

    Under the null hypothesis the two systems are exchangeable on each query, so that each difference may have either
    sign (Smucker, Allan and Carterette, CIKM 2007). The p-value is `(1 + extreme) / (1 + samples)`: the observed signs
    are one of the possible assignments, so that it is never zero (Phipson and Smyth 2010).

    Args:
        differences: System minus baseline for each query, (queries,).
        samples: Number of random assignments of signs.
        seed: Seed of the assignments, which depend on nothing else but the number of queries that differ.

    Returns:
        The p-value. It is 1 where all differences are zero.

    Examples:
        Two of the 2^10 assignments of signs are as extreme as ten gains of the same size, a probability of 0.002:

        >>> randomisation_test([0.1] * 10) < 0.01
        True
        >>> randomisation_test([0.1, -0.1])
        1.0
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]  # a zero keeps its value under either sign
    if not len(values):
        return 1.0
    # Every bit is a fair coin: a query's difference is added to the sum where its bit is 1 and subtracted where it
    # is 0. That sum is twice the sum of the differences added, minus the sum of all.
    observed = abs(values.sum())
    margin = 1e-12 * np.abs(values).sum()  # sums that are equal on paper differ by rounding
    extreme = 0
    for bits in fair_coins(len(values), samples=samples, seed=seed):
        sums = 2 * (bits.astype(np.float64) @ values) - values.sum()
        extreme += int((np.abs(sums) >= observed - margin).sum())
    return (1 + extreme) / (1 + samples)


def fair_coins(units: int, *, samples: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the random assignments of a paired randomisation test, (rows, units) of 0 and 1, some rows at a time.

    Args:
        units: Number of queries, or rows, whose results may be exchanged.
        samples: Number of assignments.
        seed: Seed of the assignments, which depend on nothing else but the number of units.
    """
    random = numpy_stream(seed, "randomisation test")
    packed = (units + 7) // 8
    at_once = max(1, 2**22 // units)
    for first in range(0, samples, at_once):
        rows = min(at_once, samples - first)
        yield np.unpackbits(random.integers(0, 256, (rows, packed), dtype=np.uint8), axis=1, count=units)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method (Holm 1979).

    The probability of even one false finding stays below the significance level. With m tests, the i-th smallest
    p-value is multiplied by m - i, where i is counted from 0, and never falls below the adjusted one before it.

    Args:
        p_values: One p-value for each test, in any order.

    Returns:
        The adjusted p-values, at most 1, in the order of `p_values`.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
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
    """Compare each system with the baseline on every measure.

    Holm's correction is applied to all systems on one measure.

    Args:
        baseline: Scores of the baseline.
        systems: Scores of each system under its name.
        samples: Number of random assignments of the randomisation test.
        seed: Seed of the randomisation test and of the bootstrap.

    Returns:
        A comparison for each measure and system, measure by measure.

    Raises:
        InputError: If a system was measured on other queries or with other measures than the baseline.

    Examples:
        >>> queries = tuple(f"q{number}" for number in range(8))
        >>> baseline = RetrievalScores(queries, ("MRR@10",), np.linspace(0.1, 0.8, 8)[:, None])
        >>> better = RetrievalScores(queries, ("MRR@10",), np.linspace(0.2, 0.9, 8)[:, None])
        >>> found = compare_with_baseline(baseline, {"expanded": better})[0]
        >>> found.wins, round(found.difference.value, 2), found.p_holm < 0.05
        (8, 0.1, True)
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
    """Return a comparison for each system on one measure; `differences` is (queries, systems)."""
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
