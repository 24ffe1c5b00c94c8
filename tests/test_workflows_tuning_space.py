"""The space of a sweep, its points, and the rungs of successive halving."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.config.training import TrainConfig
from lavra.core.errors import InputError
from lavra.workflows.tuning.halving import cost, rung_step, rungs_of, starts, survivors
from lavra.workflows.tuning.points import choose_points, next_point
from lavra.workflows.tuning.space import Field, field_from, parse_fields, with_point


def field(text: str) -> Field:
    return parse_fields([text])[0]


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("optimization.learning-rate=1e-4,3e-4,1e-3", "optimization.learning_rate", (1e-4, 3e-4, 1e-3)),
        ("optimization.learning_rate=1", "optimization.learning_rate", (1.0,)),
        ("--model.depth=2, 4", "model.depth", (2, 4)),
        ("context=64,128", "model.context", (64, 128)),
        ("optimization.batch-tokens=16k,32k", "optimization.batch_tokens", (16_000, 32_000)),
        ("model.activation=relu2,swiglu", "model.activation", ("relu2", "swiglu")),
        ("model.tied=yes,no", "model.tied", (True, False)),
        ("model.bigram-embedding=none,65536", "model.bigram_embedding", (None, 65536)),
        ("from=one/a,two/..b", "base", ("one/a", "two/..b")),
        ("epochs=1,2.5", "epochs", (1.0, 2.5)),
    ],
)
def test_a_list_has_the_type_of_its_option(text: str, name: str, values: tuple[Any, ...]) -> None:
    found = field(text)
    assert (found.name, found.scale, found.values) == (name, "choice", values)
    assert [type(one) for one in found.values] == [type(one) for one in values]
    assert field_from(found.to_json()) == found


def test_a_range_by_factors_has_a_grid_of_threes_with_both_ends() -> None:
    found = field("optimization.muon-lr=log:0.001..0.1")
    assert found.grid == (0.001, 0.003162, 0.01, 0.03162, 0.1)
    assert field("optimization.label-smoothing=0..0.2").grid == (0.0, 0.05, 0.1, 0.15, 0.2)


def test_whole_numbers_of_a_range_are_whole_and_sizes_are_multiples_of_powers_of_two() -> None:
    assert field("model.width=log:128..512").grid == (128, 256, 512)
    assert {field("model.width=log:64..512").at(place / 99) for place in range(100)} == set(range(64, 513, 64))
    assert {field("model.depth=2..8").at(place / 99) for place in range(100)} == set(range(2, 9))
    assert {field("optimization.batch-tokens=8192..32768").at(place / 9) for place in range(10)} == {
        8192,
        16384,
        24576,
        32768,
    }


@given(st.floats(0.0, 1.0), st.sampled_from(["optimization.muon-lr=log:1e-3..0.5", "model.dropout=0.05..0.3"]))
def test_every_place_of_a_range_lies_in_it_and_is_found_again(place: float, text: str) -> None:
    found = field(text)
    assert found.low <= found.at(place) <= found.high
    assert found.place(found.at(place)) == pytest.approx(place, abs=2e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimization.learnin-rate=1", "did you mean optimization.learning-rate"),
        ("learning-rate=1,2", "did you mean optimization.learning-rate"),
        ("widht=1", "did you mean model.width"),
        ("zzzzzz=1", "lists the options"),
        ("model.depth", "names no values"),
        ("model.depth=", "names no values"),
        ("model.depth=two", "must be a whole number"),
        ("model.depth=1.5", "must be a whole number"),
        ("optimization.learning-rate=fast", "must be a number"),
        ("optimization.name=sgd", "is not one of"),
        ("optimization.batch-tokens=many", "many"),
        ("model.depth=2,2", "names 2 twice"),
        ("optimization.muon-lr=log:0..1", "above 0"),
        ("optimization.muon-lr=1..0.1", "smaller than the second"),
        ("optimization.muon-lr=log:1", "is no range"),
        ("model.activation=gelu..relu", "is not one of"),
        ("out=a,b", "is not possible"),
        ("seed=1,2", "--seeds N"),
        ("update=a,b", "several values itself"),
    ],
)
def test_what_cannot_be_swept_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_fields([text])
    assert said in str(caught.value)


def test_a_field_is_named_once() -> None:
    with pytest.raises(InputError, match=r"names model\.context twice"):
        parse_fields(["context=64,128", "model.context=256"])


def test_a_point_changes_its_fields_and_nothing_else() -> None:
    config = TrainConfig(data=("x",), steps=3)
    found = with_point(config, {"optimization.muon_lr": 0.5, "epochs": 2.0})
    assert (found.optimization.muon_lr, found.epochs, found.steps, found.data) == (0.5, 2.0, 3, ("x",))
    assert with_point(found, {"optimization.muon_lr": None, "epochs": None}) == config


FINITE = ["model.depth=1,2", "model.activation=relu2,gelu,swiglu"]
RANGES = ["optimization.muon-lr=log:1e-3..1e-1", "model.depth=2,4"]


def test_halving_takes_all_of_a_small_space_and_the_grid_its_product() -> None:
    for method in ("halving", "grid"):
        points = choose_points(parse_fields(FINITE), method, None, 0)
        assert len(points) == 6
        assert points[0] == {"model.depth": 1, "model.activation": "relu2"}
    assert len(choose_points(parse_fields(FINITE), "halving", 4, 0)) == 4
    assert len(choose_points(parse_fields(RANGES), "grid", None, 0)) == 10


@pytest.mark.parametrize("method", ["random", "sobol", "halving"])
def test_points_are_different_in_the_space_and_the_same_for_the_same_seed(method: Any) -> None:
    if method != "random":
        pytest.importorskip("scipy")
    fields = parse_fields(RANGES)
    points = choose_points(fields, method, 7, 3)
    assert len(points) == 7
    assert all(point not in points[:number] for number, point in enumerate(points))
    assert all(1e-3 <= point["optimization.muon_lr"] <= 1e-1 for point in points)
    assert points == choose_points(fields, method, 7, 3)
    assert points != choose_points(fields, method, 7, 4)
    assert len(choose_points(fields, method, None, 0)) == 9
    assert len(choose_points(parse_fields(FINITE), method, 50, 0)) == 6  # there are no more


def test_a_sobol_sequence_covers_both_ends_of_a_range_better_than_chance() -> None:
    pytest.importorskip("scipy")
    field = parse_fields(["optimization.muon-lr=log:1e-4..1"])
    places = sorted(field[0].place(one["optimization.muon_lr"]) for one in choose_points(field, "sobol", 16, 0))
    assert all(number / 16 <= place <= (number + 1) / 16 for number, place in enumerate(places))


def test_a_space_of_one_point_and_a_grid_larger_than_asked_for_are_refused() -> None:
    with pytest.raises(InputError, match="one point"):
        choose_points(parse_fields(["model.depth=2"]), "halving", None, 0)
    with pytest.raises(InputError, match="6 points, and --trials says 4"):
        choose_points(parse_fields(FINITE), "grid", 4, 0)


@pytest.mark.parametrize("package", ["scipy", "optuna"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavra.workflows.tuning.points.find_spec", lambda name: None)
    method: Any = {"scipy": "sobol", "optuna": "tpe"}[package]
    with pytest.raises(InputError) as caught:
        choose_points(parse_fields(RANGES), method, 5, 0)
    assert "lavra[tune]" in caught.value.remedy


def test_the_next_point_is_new_and_failed_points_count_as_the_worst() -> None:
    fields, asked = parse_fields(FINITE), []

    def suggest(fields: Any, history: Any, seed: int, random: int) -> list[float]:
        asked.append(history)
        return [0.0, float(len(asked) - 1)]

    first = {"model.depth": 1, "model.activation": "relu2"}
    second = {"model.depth": 2, "model.activation": "gelu"}
    found = next_point(fields, [(first, 2.0), (second, None)], 0, trials=9, suggest=suggest)
    assert found == {"model.depth": 1, "model.activation": "gelu"}  # the first suggestion was tried before
    assert asked[0] == [(first, 2.0), (second, 2.0)]


def test_optuna_suggests_by_the_points_before() -> None:
    pytest.importorskip("optuna")
    fields = parse_fields(RANGES)
    done: list[Any] = []
    for _ in range(18):
        point = next_point(fields, done, 5, trials=9)
        done.append((point, abs(fields[0].place(point["optimization.muon_lr"]) - 0.7) + (point["model.depth"] == 4)))
    assert point == next_point(fields, done[:-1], 5, trials=9)  # a sweep that goes on chooses the same
    assert min(value for _, value in done[9:]) < 0.1
    assert [one["model.depth"] for one, _ in done[9:]].count(2) > 5


@given(st.integers(2, 200))
def test_rungs_grow_by_three_to_the_whole_run_and_points_shrink_to_one_at_least(points: int) -> None:
    rungs = rungs_of(points)
    assert rungs[-1] == 1.0
    assert all(later == pytest.approx(3 * before) for before, later in itertools.pairwise(rungs))
    there = [survivors(points, rung) for rung in range(len(rungs))]
    assert there[0] == points
    assert all(later == max(1, before // 3) for before, later in itertools.pairwise(there))
    assert cost(points, rungs) < points
    assert starts(points, rungs) == sum(there)


@given(st.integers(1, 5000), st.integers(2, 100))
def test_pauses_come_in_order_and_the_last_is_the_end(steps: int, points: int) -> None:
    found = [rung_step(share, steps) for share in rungs_of(points)]
    assert found == sorted(found)
    assert found[0] >= 1
    assert found[-1] == steps
