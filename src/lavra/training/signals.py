"""Ctrl-C and SIGTERM as a request: the first one finishes the step and saves, the second one stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from lavra.core.progress import say

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# One Ctrl-C can arrive twice: from the terminal, and passed on by a launcher that got it as well (uv run, torchrun).
_SAME_PRESS_SECONDS = 0.2


class StopRequest:
    """While its block runs, SIGINT and SIGTERM ask for a stop after the step that is being computed.

    `requested` is 0, or the number of the signal that asked. The handlers that were there before come back when the
    block ends. A signal that the process was started to ignore (`nohup`, a background job) stays ignored, and outside
    the main thread, where Python allows no handlers, the block does nothing.
    """

    def __init__(self) -> None:
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
            _say_inside_handler(
                f"{name}: finishing this step and saving; a second Ctrl-C stops at once, without saving"
            )
        elif number != self.requested or now - self._asked_at > _SAME_PRESS_SECONDS:
            self._stop_at_once(number)

    def _stop_at_once(self, number: int) -> None:
        """Give the signals back to the system, so that nothing can hold the process any longer, and stop."""
        self._previous.clear()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        os.kill(os.getpid(), number)


def _say_inside_handler(text: str) -> None:
    """Print a line although the signal may have come in the middle of printing another one."""
    try:
        say(text)
    except RuntimeError:  # "reentrant call": the stream is in use further up this very stack
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
