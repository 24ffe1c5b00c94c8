"""Folds hold their share of every class, never divide what belongs together, and name what cannot be divided."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.folds import ALWAYS_TRAINING, make_folds
from lavra.data.leaks import leaks_between


@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_fold_has_its_share_of_each_class(counts: list[int], folds: int, seed: int) -> None:
    labels = [f"c{number}" for number, count in enumerate(counts) for _ in range(count)]
    found = make_folds(labels, folds, seed=seed)
    assert set(found.fold.tolist()) == set(range(folds))
    for name, count in zip(sorted(set(labels)), counts, strict=True):
        shares = np.bincount(found.fold[np.array(labels) == name], minlength=folds)
        assert count // folds <= shares.min()
        assert shares.max() <= -(-count // folds)
    sizes = np.bincount(found.fold)
    assert sizes.max() - sizes.min() <= 2


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2)), min_size=60, max_size=120), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_groups_are_never_divided_and_rows_are_validated_once(rows: list[tuple[int, int]], count: int) -> None:
    groups, labels = [group for group, _ in rows], [label for _, label in rows]
    try:
        found = make_folds(labels, count, groups=groups, rare=True)
    except InputError:
        return
    for group in set(groups):
        assert len({fold for fold, one in zip(found.fold.tolist(), groups, strict=True) if one == group}) == 1
    validated = np.concatenate([found.validation(fold) for fold in range(count)])
    assert sorted(validated.tolist()) == list(range(len(rows)))
    for fold in range(count):
        assert not set(found.training(fold).tolist()) & set(found.validation(fold).tolist())


def test_groups_are_stratified_as_far_as_they_allow() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 200, 2000)
    labels = (random.random(2000) < 0.2).astype(int)
    found = make_folds(labels.tolist(), 5, groups=groups.tolist())
    shares = [labels[found.validation(fold)].mean() for fold in range(5)]
    assert np.ptp(shares) < 0.02
    assert np.ptp(np.bincount(found.fold)) < 40


def test_folds_depend_on_the_seed_and_on_nothing_else() -> None:
    labels = list("aabb" * 20)
    one, again, other = (make_folds(labels, 4, seed=seed).fold.tolist() for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_rows_sorted_by_label_are_mixed() -> None:
    found = make_folds(["a"] * 50 + ["b"] * 50, 5)
    assert [len(set(found.fold[:50])), len(set(found.fold[50:]))] == [5, 5]


def test_near_duplicates_stay_together_and_are_counted() -> None:
    words = [f"w{number}" for number in range(400)]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 12)) for _ in range(60)]
    texts[40:] = [text + "!" for text in texts[:20]]
    found = make_folds(["a", "b"] * 30, 3, texts=texts)
    assert (found.fold[40:] == found.fold[:20]).all()
    assert found.notes == ("40 rows that are nearly the same as another are kept together with it",)


def test_groups_and_near_duplicates_join_into_one_unit() -> None:
    texts = ["one two three four five six", "other", "one two three four five six.", *map(str, range(37))]
    groups = ["g", "g", "h", *range(37)]
    found = make_folds(None, 4, texts=texts, groups=groups)
    assert len(set(found.fold[:3])) == 1


def test_rows_with_several_labels() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((600, 8)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01]).astype(int)
    found = make_folds(labels, 3)
    for column in labels.T:
        shares = [column[found.validation(fold)].sum() for fold in range(3)]
        assert max(shares) - min(shares) <= 2
    assert np.ptp(np.bincount(found.fold)) <= 6


def test_values_are_spread_evenly() -> None:
    values = np.random.default_rng(0).normal(size=300)
    found = make_folds(values, 5, values=True)
    means = [values[found.validation(fold)].mean() for fold in range(5)]
    assert np.ptp(means) < 0.2


def test_rows_without_label_are_a_stratum() -> None:
    found = make_folds([None, "a", "b", float("nan")] * 30, 3)
    unknown = np.arange(120) % 4 % 3 == 0
    assert np.bincount(found.fold[unknown]).tolist() == [20, 20, 20]


def test_time_never_runs_backwards() -> None:
    days = np.random.default_rng(0).permutation(np.arange(100) // 2)
    found = make_folds(None, 3, times=[f"2024-{day:03}" for day in days])
    assert (found.fold == ALWAYS_TRAINING).sum() == 26
    for fold in range(3):
        assert days[found.training(fold)].max() < days[found.validation(fold)].min()
    assert sorted(np.bincount(found.fold + 1)) == [24, 24, 26, 26]


def test_a_group_across_time_is_not_trained_on_where_it_is_validated() -> None:
    found = make_folds(None, 2, times=list(range(12)), groups=["g", *range(10), "g"])
    assert 0 not in found.training(1)
    assert 0 in found.training(0)
    assert "1 rows are not trained on" in found.notes[-1]


def test_uneven_times() -> None:
    found = make_folds(None, 3, times=[0] * 97 + [1, 2, 3])
    assert np.bincount(found.fold + 1).tolist() == [97, 1, 1, 1]
    found = make_folds(None, 3, times=[0, 1, 2] + [3] * 97)
    assert np.bincount(found.fold + 1).tolist() == [1, 1, 1, 97]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"labels": ["a"] * 20 + ["b"] * 2}, "'b' has 2 rows, which is fewer than the 5 folds"),
        ({"labels": ["a"] * 20 + ["b"]}, "'b' has 1 row, which is fewer than the 5 folds"),
        ({"labels": ["a"] * 20}, "'a' is the only class"),
        ({"labels": [None] * 20}, "no row has a label"),
        ({"labels": ["a", "b"]}, "2 rows cannot be divided into 5 folds"),
        ({"labels": ["a", "b"] * 5, "count": 1}, "10 rows cannot be divided into 1 folds"),
        ({"labels": ["a", "b"] * 5, "groups": ["g", "h"] * 5}, "10 rows form only 2 groups"),
        (
            {"labels": ["a", "b"] * 10, "groups": [*range(0, 20, 2), *[99, 98] * 5]},
            "which is fewer than the 5 folds",
        ),
        ({"labels": ["a", "b"] * 5, "texts": ["x"]}, "10 labels, 1 texts"),
        ({"labels": None, "times": [1, 2, 3, 3, 3, 3]}, "3 different times cannot be divided into 5 folds"),
        ({"labels": None, "times": [1.0, float("nan")] * 5}, "some rows have no time"),
        ({"labels": [f"c{number // 2}" for number in range(40)]}, "and 15 more classes have too few"),
    ],
)
def test_what_cannot_be_divided_is_named(given_, said: str) -> None:
    if "groups" in given_ and said.startswith("which"):
        given_ = given_ | {"labels": ["a"] * 10 + ["b"] * 10}
    with pytest.raises(InputError, match=said):
        make_folds(**given_)


def test_the_remedy_fits_and_rare_classes_can_be_allowed() -> None:
    labels = ["a"] * 20 + ["b"] * 3
    with pytest.raises(InputError, match="use 3 folds, label more rows of this class"):
        make_folds(labels, 5)
    with pytest.raises(InputError, match="what to do: label more rows of this class"):
        make_folds(["a"] * 20 + ["b"], 5)
    allowed = make_folds(labels, 5, rare=True)
    assert allowed.notes == ("'b' has 3 rows: not every one of 5 folds has rows of each class",)
    assert len(set(allowed.fold[20:])) == 3


def test_a_group_that_is_larger_than_a_fold_is_noted() -> None:
    found = make_folds(["a", "b"] * 20, 4, groups=["g"] * 20 + list(range(20)))
    assert "the largest group has 20 of 40 rows" in found.notes[-1]


def test_leaks_are_found_with_their_places() -> None:
    long = "the film begins slowly and then it becomes one of the best of the whole year for me"
    training = ["short text", long, "Short  text", "another"]
    found = leaks_between(
        training, ["new", "short text ", long.replace("year", "year,"), long + " truly", "SHORT TEXT"]
    )
    assert [(leak.test, leak.training, leak.exact) for leak in found.found] == [
        (1, 0, True),
        (2, 1, False),
        (3, 1, False),
        (4, 0, False),
    ]
    assert found.rows().tolist() == [1, 2, 3, 4]
    assert found.sentence().startswith("4 of 5 test rows (80.0%) stand in the training rows too, 1 word for word")
    assert leaks_between(training, ["new"]).sentence() == "none of the 1 test rows stands in the training rows too"
