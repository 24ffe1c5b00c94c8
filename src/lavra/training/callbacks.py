"""Observers of a run: they are told what happens and may ask to stop, save or evaluate; their failures stop nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from lavra.core.errors import LavraError
from lavra.core.progress import say

_MOST_FAILURES = 10  # in a row; whoever fails that often is not called any more


@dataclass(frozen=True)
class Request:
    """What an observer asks of the loop, to be done after this step: stop the run, save a checkpoint, validate."""

    stop: bool = False
    save: bool = False
    evaluate: bool = False
    reason: str = ""

    def __or__(self, other: Request) -> Request:
        """Return a request for all that either asks for."""
        return Request(
            self.stop or other.stop,
            self.save or other.save,
            self.evaluate or other.evaluate,
            "; ".join(filter(None, (self.reason, other.reason))),
        )


class Observer(Protocol):
    """Whoever wants to know what happens in a run. `info` is read-only, and holds plain values.

    | event | info |
    |---|---|
    | `start` | `config` (nested mapping), `step` (0, or the step that the run goes on from) |
    | `step` | `step` and the metrics of `metrics.jsonl` |
    | `validation` | `step` and metrics; an estimate is `{"value", "low", "high"}` |
    | `checkpoint` | `step`, `path` |
    | `end` | `step`, `status`: `done`, `interrupted` or `failed` |
    """

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Take notice of an event, and ask for something or not."""
        ...


class Observers:
    """Tells several observers of each event, and adds up what they ask for.

    An observer that raises is reported and the run goes on: the first failure of each kind is said, and after ten in a
    row the observer is left out. Only `start` lets an explained error (`LavraError`: wrong request) through.

    Args:
        observers: whom to tell, in this order.
        report: takes one line about a failure, e.g. to write it to `events.log`; by default it is shown.
    """

    def __init__(self, observers: Iterable[Observer] = (), report: Callable[[str], None] = say) -> None:
        self._observers = list(observers)
        self._report = report
        self._failures = [0] * len(self._observers)
        self._said: set[tuple[int, type[BaseException]]] = set()

    def on(self, event: str, info: Mapping[str, Any]) -> Request:
        """Tell everyone, and return the requests of all, joined."""
        view, joined = MappingProxyType(dict(info)), Request()
        for number, observer in enumerate(self._observers):
            if self._failures[number] >= _MOST_FAILURES:
                continue
            try:
                request = observer.on(event, view)
                self._failures[number] = 0
            except Exception as error:
                if event == "start" and isinstance(error, LavraError):
                    raise
                self._failed(number, event, error)
                continue
            if request is not None:
                joined |= request
        return joined

    def _failed(self, number: int, event: str, error: Exception) -> None:
        name = type(self._observers[number]).__name__
        self._failures[number] += 1
        if (number, type(error)) not in self._said:
            self._said.add((number, type(error)))
            self._report(f"warning: {name} failed at {event!r}, training goes on: {type(error).__name__}: {error}")
        if self._failures[number] == _MOST_FAILURES:
            self._report(f"warning: {name} failed {_MOST_FAILURES} times in a row and is left out from now on")
