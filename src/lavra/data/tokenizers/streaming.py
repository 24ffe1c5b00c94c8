"""Cuts long texts into pieces where no token lies across the cut, and works on the next item while one is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import TypeVar

PIECE = 32768
"""Characters of a piece: large enough that the cuts cost nothing, small enough to keep every core busy."""


class Cut(Enum):
    """What happens to the space at which a text is cut."""

    BEFORE_SPACE = "the piece after the cut begins with the space"
    AT_SPACE = "the space is dropped, for tokenizers that put one before every piece themselves"


_SPACE = re.compile(r"(?<=\S) (?=\S)")
_LINE = re.compile(r"(?<=[^\W\d_])\r?\n(?=[^\W\d_])|(?<=[.,;:!?])\r?\n(?=[^\W\d_])")


def cut_chunks(text: str, cut: Cut, size: int = PIECE) -> Iterator[str]:
    """Yield `text` in pieces of at most `size` characters (one more at a space that is dropped).

    A cut is at the last single space, which is a border of tokens for every tokenizer in use; else after a line end
    before a letter; else, in text that has neither in its second half, anywhere.

    Args:
        text: The text.
        cut: What happens to the space at a cut.
        size: Characters of a piece; `PIECE` by default.

    Examples:
        >>> from lavra.data.tokenizers.streaming import Cut, cut_chunks
        >>> list(cut_chunks("one two three", Cut.BEFORE_SPACE, size=10))
        ['one two', ' three']
    """
    start = 0
    while len(text) - start > size:
        low, high = start + size // 2, start + size
        space = _last(_SPACE, text, low, high)
        if space is not None:
            end, following = space.start(), space.end() if cut is Cut.AT_SPACE else space.start()
        else:
            line = _last(_LINE, text, low, high)
            end = following = line.end() if line is not None else high
        yield text[start:end]
        start = following
    yield text[start:]


def cuts(text: str, cut: Cut) -> Iterator[tuple[str, str]]:
    """Yield the parts of `text` before and after the cut for every space at which `cut_chunks` may cut it."""
    for space in _SPACE.finditer(text):
        yield text[: space.start()], text[space.end() if cut is Cut.AT_SPACE else space.start() :]


def _last(pattern: re.Pattern[str], text: str, low: int, high: int) -> re.Match[str] | None:
    """Return the last match that starts in [low, high), looking at the last thousand characters first."""
    for begin in (max(low, high - 1000), low):
        found = list(pattern.finditer(text, begin, high))
        if found:
            return found[-1]
    return None


Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result]]:
    """Yield every item with `work(item)`, in order, while a thread already works on the next item (prefetching).

    This saves time where `work` releases the interpreter lock, as the `tokenizers` library does. A single item starts
    no thread.

    Args:
        items: The items; one more than is used is taken from it.
        work: Function of an item.

    Examples:
        >>> from lavra.data.tokenizers.streaming import prefetch
        >>> list(prefetch(["a", "bb", "ccc"], len))
        [('a', 1), ('bb', 2), ('ccc', 3)]
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
