"""The order: a permutation in every epoch, a pure function of the seed and the number, at the same cost anywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.data.shuffle import WindowPlace, WindowShuffle

sizes = st.integers(1, 3000)


@given(tokens=sizes, context=st.integers(1, 200), seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6))
def test_every_token_is_a_target_exactly_once_per_epoch(tokens: int, context: int, seed: int, epoch: int) -> None:
    order = WindowShuffle(tokens, context, seed)
    places = order.places(np.arange(order.windows) + epoch * order.windows)
    targets = np.concatenate(
        [(start + np.arange(length)) % tokens for start, length in zip(places.starts, places.lengths, strict=True)]
    )
    assert sorted(targets.tolist()) == list(range(tokens))
    assert (places.epochs == epoch).all()
    assert (places.lengths < context).sum() <= 1
    assert ((places.starts >= 0) & (places.starts < tokens)).all()


@given(st.integers(1, 5000), st.integers(0, 2**62))
def test_an_epoch_is_a_permutation_of_windows(windows: int, seed: int) -> None:
    order = WindowShuffle(windows * 7, 7, seed)
    assert sorted(order.permuted(3, np.arange(windows)).tolist()) == list(range(windows))


def test_any_window_can_be_asked_for_alone_in_any_order() -> None:
    order = WindowShuffle(10_007, 64, seed=5)
    numbers = np.random.default_rng(0).integers(0, 10**6, 300)
    places = order.places(numbers)
    for row, number in enumerate(numbers.tolist()):
        expected = WindowPlace(int(places.epochs[row]), int(places.starts[row]), int(places.lengths[row]))
        assert WindowShuffle(10_007, 64, seed=5).window(number) == expected


def test_window_ten_to_the_twelve_costs_what_window_zero_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    encipher, enciphered = WindowShuffle._encipher, 0

    def counted(self: WindowShuffle, values: np.ndarray, keys: tuple[int, ...]) -> np.ndarray:
        nonlocal enciphered
        enciphered += len(values)
        return encipher(self, values, keys)

    monkeypatch.setattr(WindowShuffle, "_encipher", counted)

    def cost(number: int) -> int:
        before, order = enciphered, WindowShuffle(10**13, 1024, seed=1)
        for offset in range(200):
            order.window(number + offset)
        return enciphered - before

    assert 200 <= cost(10**12) < 1.5 * cost(0) < 1.5 * 4 * 200  # cycle walking takes fewer than four on average
    assert WindowShuffle(10**13, 1024, seed=1).window(10**12).epoch == 10**12 // -(-(10**13) // 1024)


def test_seeds_and_epochs_give_different_orders_and_the_same_seed_the_same() -> None:
    def starts(seed: int, epoch: int) -> list[int]:
        order = WindowShuffle(100_000, 100, seed)
        return order.places(np.arange(1000) + epoch * 1000).starts.tolist()

    assert starts(1, 0) == starts(1, 0)
    assert starts(1, 0) != starts(2, 0)
    assert starts(1, 0) != starts(1, 1)
    assert WindowShuffle(100_000, 100, 1).phase(0) != WindowShuffle(100_000, 100, 1).phase(1)


def test_this_order_does_not_change_between_versions() -> None:
    order = WindowShuffle(1000, 16, seed=7)
    assert order.places(np.arange(6)).starts.tolist() == [717, 13, 413, 829, 933, 901]


@pytest.mark.parametrize("windows", [5, 37, 1000])
def test_every_place_of_the_epoch_is_equally_likely_for_a_window(windows: int) -> None:
    seeds = 2000
    firsts = np.array([int(WindowShuffle(windows, 1, seed).permuted(0, np.array([0]))[0]) for seed in range(seeds)])
    counts = np.bincount(firsts * min(windows, 20) // windows, minlength=min(windows, 20))
    bins = np.bincount(np.arange(windows) * min(windows, 20) // windows) / windows
    chi_squared = ((counts - seeds * bins) ** 2 / (seeds * bins)).sum()
    assert chi_squared < 50  # 19 degrees of freedom: p = 0.0001


def test_neighbours_are_scattered() -> None:
    places = WindowShuffle(10**6, 10, seed=3).permuted(0, np.arange(10**5))
    correlation = np.corrcoef(places[:-1], places[1:])[0, 1]
    assert abs(correlation) < 0.02


def test_an_order_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        WindowShuffle(0, 16, 0)
