"""Working one item ahead: the same results in the same order, and failures reach the caller."""

import threading

import pytest

from lavra.data.tokenizers.streaming import prefetch


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_comes_with_its_result_in_order(count: int) -> None:
    assert list(prefetch(range(count), lambda item: item * item)) == [(item, item * item) for item in range(count)]


def test_the_next_item_is_worked_on_while_a_result_is_used() -> None:
    begun = [threading.Event() for _ in range(3)]
    for item, _ in prefetch(range(3), lambda item: begun[item].set()):
        assert begun[min(item + 1, 2)].wait(5)


def test_items_are_not_taken_long_before_they_are_needed() -> None:
    taken: list[int] = []
    items = (taken.append(item) or item for item in range(10))
    next(prefetch(items, lambda item: item))
    assert len(taken) <= 3


def test_a_failure_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prefetch([1, 0, 2], lambda item: 1 / item))
