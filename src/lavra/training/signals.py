"""Handling of Ctrl-C (SIGINT) and SIGTERM: the first finishes the step and saves, the second stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from lavra.core.progress import log

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_PRESS_SECONDS = 0.2
"""Seconds within which a second signal counts as the same one. A single Ctrl-C can arrive twice: from the terminal, and
forwarded by a launcher that received it as well (`uv run`, `torchrun`)."""


class StopRequest:
    """Context manager that turns SIGINT and SIGTERM into a request to stop after the current step.

    The previous handlers are restored when the block ends. A signal that the process was started to ignore (`nohup`, a
    background job) stays ignored. Outside the main thread, where Python allows no handlers, the block does nothing.

    Args:
        meaning: What the first signal does, and what a second one would do; it is said when the first arrives.

    Attributes:
        requested: Number of the signal that asked to stop; 0 before any did.

    Examples:
        >>> with StopRequest() as stop:
        ...     stop.requested
        0
    """

    def __init__(
        self, meaning: str = "finishing this step and saving; a second Ctrl-C stops at once, without saving"
    ) -> None:
        self.meaning = meaning
        self.requested = 0
        self._asked_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._asked_at = number, now
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            _log_inside_handler(f"{name}: {self.meaning}")
        elif number != self.requested or now - self._asked_at > _SAME_PRESS_SECONDS:
            self._stop_at_once(number)

    def _stop_at_once(self, number: int) -> None:
        """Restore the default handlers, so that nothing can delay the end of the process, and end it."""
        self._previous.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        os.kill(os.getpid(), number)


def _log_inside_handler(text: str) -> None:
    """Print a line from a signal handler, which may have interrupted the printing of another line."""
    try:
        log(text)
    except RuntimeError:  # "reentrant call": the stream is in use further up this very stack
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
