"""The points of a space that a sweep tries: all of a grid, some of them, or one after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from lavra.config.tuning import Method
from lavra.core.errors import InputError
from lavra.core.seeds import derive_seed, numpy_stream
from lavra.core.units import counted
from lavra.workflows.tuning.space import Field, Point

TRIALS = 9
"""Points of a sweep whose number is not given: three rungs of successive halving."""

_ALL = 27
"""Most points of a space of choices of which all are tried by default."""

_DRAWS = 64
"""Draws for each wanted point after which a space is taken to have no further ones."""


def size_of(fields: Sequence[Field]) -> float:
    """Return the number of points of a space; infinite where a field is a range."""
    return math.prod(len(field.values) if field.is_finite else math.inf for field in fields)


def choose_points(fields: Sequence[Field], method: Method, trials: int | None, seed: int) -> list[Point]:
    """Return the points that are tried; none for `tpe`, which chooses each by those before it.

    Args:
        fields: The fields of the space.
        method: How points are chosen.
        trials: Number of points; None for the default.
        seed: Seed of what is random.

    Raises:
        InputError: If the space has one point only, a grid has more points than were asked for, or a package is
            missing.
    """
    size = size_of(fields)
    if size < 2:
        raise InputError("the space has one point, and there is nothing to choose", "give --sweep two values or more")
    if method == "tpe":
        require_optuna()
        return []
    if method == "grid":
        points = _grid(fields)
        if trials is not None and len(points) > trials:
            raise InputError(
                f"the grid has {counted(len(points), 'point')}, and --trials says {trials}",
                "give fewer values, or --method sobol, which spreads the trials over the space",
            )
        return points
    if method == "halving" and size <= (_ALL if trials is None else trials):
        return _grid(fields)
    draw = _random if method == "random" else _sobol
    return _distinct(fields, draw(len(fields), seed), int(min(TRIALS if trials is None else trials, size)))


def _grid(fields: Sequence[Field]) -> list[Point]:
    values = itertools.product(*(field.grid for field in fields))
    return [dict(zip((field.name for field in fields), row, strict=True)) for row in values]


def _distinct(fields: Sequence[Field], places: Iterator[Sequence[float]], wanted: int) -> list[Point]:
    """Return the first different points of a sequence of places."""
    found: list[Point] = []
    for row in itertools.islice(places, _DRAWS * wanted):
        point = {field.name: field.at(place) for field, place in zip(fields, row, strict=True)}
        if point not in found:
            found.append(point)
        if len(found) == wanted:
            break
    return found


def _random(fields: int, seed: int) -> Iterator[Sequence[float]]:
    stream = numpy_stream(seed, "sweep")
    while True:
        yield stream.random(fields).tolist()


def _sobol(fields: int, seed: int) -> Iterator[Sequence[float]]:
    """Yield the places of a scrambled Sobol sequence, which covers a space more evenly than random ones."""
    if find_spec("scipy") is None:
        raise InputError(
            "a Sobol sequence needs SciPy", "pip install 'lavra[tune]', or choose --method random, which needs nothing"
        )
    from scipy.stats import qmc

    sequence = qmc.Sobol(fields, scramble=True, rng=numpy_stream(seed, "sobol"))
    while True:
        yield from sequence.random_base2(4 if sequence.num_generated == 0 else _next_power(sequence.num_generated))


def _next_power(drawn: int) -> int:
    """Return the power of two with which a sequence of so many points is doubled, which keeps it balanced."""
    return int(math.log2(drawn))


# The tree-structured Parzen estimator (Bergstra et al. 2011), by Optuna.


def require_optuna() -> None:
    """Raise an error where Optuna is not installed."""
    if find_spec("optuna") is None:
        raise InputError("--method tpe needs Optuna", "pip install 'lavra[tune]', or choose --method sobol")


def next_point(
    fields: Sequence[Field],
    done: Sequence[tuple[Point, float | None]],
    seed: int,
    *,
    trials: int,
    suggest: Callable[[Sequence[Field], Sequence[tuple[Point, float]], int, int], list[float]] | None = None,
) -> Point:
    """Return the next point by the measures of those before it; the same history gives the same point.

    Args:
        fields: The fields of the space.
        done: The points so far with their measures, of which less is better; None for one that failed or that is
            still trained, which counts as the worst.
        seed: Seed of the sweep.
        trials: Number of points of the sweep, of which the first third is random.
        suggest: What gives the places of the next point; Optuna's estimator if None.
    """
    known = [value for _, value in done if value is not None and math.isfinite(value)]
    worst = max(known, default=0.0)
    history = [(point, value if value is not None and math.isfinite(value) else worst) for point, value in done]
    suggest = suggest or _by_optuna
    point: Point = {}
    for attempt in range(_DRAWS):
        places = suggest(fields, history, derive_seed(seed, "tpe", len(done), attempt), max(2, trials // 3))
        point = {field.name: _value(field, place) for field, place in zip(fields, places, strict=True)}
        if all(point != before for before, _ in done):
            break
    return point


def _value(field: Field, place: float) -> object:
    return field.values[int(place)] if field.is_finite else field.at(place)


def _by_optuna(fields: Sequence[Field], history: Sequence[tuple[Point, float]], seed: int, random: int) -> list[float]:
    import optuna  # pyright: ignore[reportMissingImports]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces: dict[str, Any] = {
        field.name: (
            optuna.distributions.CategoricalDistribution(list(range(len(field.values))))
            if field.is_finite
            else optuna.distributions.FloatDistribution(0.0, 1.0)
        )
        for field in fields
    }
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=random)
    study = optuna.create_study(direction="minimize", sampler=sampler)  # in memory: the sweep's folder is the record
    for point, value in history:
        places = {field.name: _place(field, point) for field in fields}
        study.add_trial(optuna.trial.create_trial(params=places, distributions=spaces, value=value))
    found = study.ask(spaces).params
    return [float(found[field.name]) for field in fields]


def _place(field: Field, point: Point) -> float | int:
    place = field.place(point[field.name])
    return int(place) if field.is_finite else float(np.clip(place, 0.0, 1.0))
