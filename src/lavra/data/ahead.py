"""Working on the next item while the last result is being used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result]]:
    """Yield every item with `work(item)`, in order, while a thread already works on the next item.

    A gain where `work` releases the interpreter, as the tokenizers library does. A single item starts no thread.
    """
    remaining = iter(items)
    first = list(_take(remaining, 2))
    if len(first) < 2:
        yield from ((item, work(item)) for item in first)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: list[tuple[Item, Future[Result]]] = [(item, pool.submit(work, item)) for item in first]
        while waiting:
            item, future = waiting.pop(0)
            result = future.result()
            waiting.extend((following, pool.submit(work, following)) for following in _take(remaining, 1))
            yield item, result


def _take(items: Iterator[Item], count: int) -> Iterator[Item]:
    for _ in range(count):
        try:
            yield next(items)
        except StopIteration:
            return
