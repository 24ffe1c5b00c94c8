"""No label comes from a model that saw the fold in which its row is validated, on any way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.blindness import Learner, refuse_unblind, student

FOLDS = {"a": 1, "b": 2, "c": None}


def test_a_model_may_not_label_rows_of_folds_that_it_saw() -> None:
    teacher = Learner("T", frozenset({1, 3}))
    refuse_unblind(teacher, ["b", "c", "unknown"], FOLDS)
    with pytest.raises(InputError, match="T may not label 'a' of fold 1: T saw the labels of fold 1"):
        refuse_unblind(teacher, ["b", "a"], FOLDS)


def test_a_row_made_from_another_is_that_row() -> None:
    teacher = Learner("T", frozenset({1}))
    parents = {"a2": "a1", "a1": "a", "c1": "c"}
    refuse_unblind(teacher, ["c1"], FOLDS, parents)
    with pytest.raises(InputError, match=r"T may not label 'a2 \(made from a\)' of fold 1"):
        refuse_unblind(teacher, ["a2"], FOLDS, parents)
    with pytest.raises(InputError, match="'x' is made from itself"):
        refuse_unblind(teacher, ["x"], FOLDS, {"x": "y", "y": "x"})


def test_the_indirect_leak_is_refused() -> None:
    # The teacher of folds 1 and 3 labels a row of no fold, which it may; the student is validated on fold 1.
    teacher = Learner("T2", frozenset({1, 3}))
    refuse_unblind(teacher, ["c"], FOLDS)
    with pytest.raises(
        InputError,
        match="S1 cannot be validated on fold 1: S1 learns from labels of T2, and T2 saw the labels of fold 1",
    ):
        student("S1", 1, {2, 3}, [teacher])
    student("S2", 2, {1, 3}, [teacher])


def test_the_leak_over_two_teachers_is_refused() -> None:
    first = Learner("first", frozenset({"test"}))
    second = student("second", None, {2}, [first])
    with pytest.raises(InputError, match="second learns from labels of first, and first saw the labels of fold test"):
        student("third", "test", {1}, [second])
    with pytest.raises(InputError, match="train it without fold 1"):
        student("third", 1, {1}, [])
    with pytest.raises(InputError, match="second may not label 'x' of fold test"):
        refuse_unblind(second, ["x"], {"x": "test"})


@given(st.lists(st.tuples(st.sets(st.integers(0, 4), max_size=3), st.integers(0, 3)), min_size=1, max_size=6))
def test_what_is_seen_is_what_a_way_leads_to(models: list[tuple[set[int], int]]) -> None:
    learners: list[Learner] = []
    for number, (folds, teacher) in enumerate(models):
        teachers = (learners[teacher],) if teacher < len(learners) else ()
        learners.append(Learner(f"m{number}", frozenset(folds), teachers))
    for learner in learners:
        assert {fold for fold in range(5) if learner.way_to(fold) is not None} == learner.seen()


def test_many_rows_are_counted_in_the_message() -> None:
    with pytest.raises(InputError, match="'r2' of fold 1 and 5 more rows"):
        refuse_unblind(
            Learner("T", frozenset({1})), [f"r{row}" for row in range(8)], {f"r{row}": 1 for row in range(8)}
        )
