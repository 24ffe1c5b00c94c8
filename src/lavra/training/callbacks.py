"""Observers of a run: they receive its events and may ask to stop, save or validate; their errors never end a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from lavra.core.errors import LavraError
from lavra.core.progress import log

_MOST_FAILURES = 10
"""Number of consecutive errors after which an observer is not called any more: it would only fill the log."""


@dataclass(frozen=True)
class Request:
    """What an observer asks the training loop to do after the current step.

    Attributes:
        stop: Save a checkpoint and end the run.
        save: Save a checkpoint.
        evaluate: Measure the loss on the validation text.
        reason: Why, in words; it is written to the log.

    Examples:
        >>> Request(save=True) | Request(stop=True, reason="the loss rises")
        Request(stop=True, save=True, evaluate=False, reason='the loss rises')
    """

    stop: bool = False
    save: bool = False
    evaluate: bool = False
    reason: str = ""

    def __or__(self, other: Request) -> Request:
        """Return a request for everything that either of the two asks for."""
        return Request(
            self.stop or other.stop,
            self.save or other.save,
            self.evaluate or other.evaluate,
            "; ".join(filter(None, (self.reason, other.reason))),
        )


class Callback(Protocol):
    """Protocol of an observer (a callback): an object whose method `on` is called at every event of a run.

    `info` is read-only and holds plain values.

    | event | info |
    |---|---|
    | `start` | `config` (nested mapping), `step` (0, or the step that the run goes on from) |
    | `step` | `step` and the metrics of `metrics.jsonl` |
    | `validation` | `step` and metrics; an estimate is `{"value", "low", "high"}` |
    | `checkpoint` | `step`, `path` |
    | `end` | `step`, `status`: `done`, `interrupted` or `failed` |
    """

    def on(self, event: str, info: Mapping[str, Any]) -> Request | None:
        """Handle an event, and return a request to the training loop, or None.

        Args:
            event: One of the names in the table above.
            info: What the table lists for that event.
        """
        ...


class Callbacks:
    """Calls several observers at each event, and combines their requests.

    An error in an observer is reported and the run goes on: the first error of each kind is shown, and after ten
    consecutive errors the observer is not called any more. Only at `start` is a `LavraError` raised, because it
    explains a wrong request, such as a tracker that is not installed.

    Args:
        callbacks: The observers, in the order in which they are called.
        report: Function that receives one line about an error, e.g. to write it to `events.log`. By default the line
            is shown on standard error.
    """

    def __init__(self, callbacks: Iterable[Callback] = (), report: Callable[[str], None] = log) -> None:
        self._callbacks = list(callbacks)
        self._report = report
        self._failures = [0] * len(self._callbacks)
        self._said: set[tuple[int, type[BaseException]]] = set()

    def on(self, event: str, info: Mapping[str, Any]) -> Request:
        """Call every observer and return their combined request.

        Args:
            event: Name of the event, see `Callback`.
            info: Plain values that belong to the event.

        Raises:
            LavraError: if an observer refuses to start.
        """
        view, joined = MappingProxyType(dict(info)), Request()
        for number, callback in enumerate(self._callbacks):
            if self._failures[number] >= _MOST_FAILURES:
                continue
            try:
                request = callback.on(event, view)
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
        name = type(self._callbacks[number]).__name__
        self._failures[number] += 1
        if (number, type(error)) not in self._said:
            self._said.add((number, type(error)))
            self._report(f"warning: {name} failed at {event!r}, training goes on: {type(error).__name__}: {error}")
        if self._failures[number] == _MOST_FAILURES:
            self._report(f"warning: {name} failed {_MOST_FAILURES} times in a row and is not called any more")
