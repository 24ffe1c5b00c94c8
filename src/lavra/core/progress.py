"""One progress line with time left, on standard error: a live bar for a terminal, a line now and then for a log."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar, cast

from lavra.core.messages.catalogue import told, told_number
from lavra.core.units import show_count, show_duration

# Text that others wrote, made safe to show on a terminal.

# Unicode's marks that change the writing direction, with which text can be made to look like other text.
_BIDIRECTIONAL = "\u202a-\u202e\u2066-\u2069"

_CONTROLS = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDIRECTIONAL}]")
_MARKS = re.compile(rf"[{_BIDIRECTIONAL}]")


def printable(text: str) -> str:
    """Return `text` with `�` in the place of control characters (but not of tab and newline) and direction marks.

    A model can generate the escape sequences of a terminal, which would then clear the screen or change its colours.

    Examples:
        >>> from lavra.core.progress import printable
        >>> printable("safe, " + chr(27) + "[2J not safe")
        'safe, �[2J not safe'
    """
    return _CONTROLS.sub("�", text)


def shield_terminal() -> None:
    """Replace direction marks by `�` in everything that this process writes to a terminal from now on.

    Standard output and standard error are wrapped where they are terminals, so that libraries are covered too.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty() and not isinstance(stream, _Shielded):
            setattr(sys, name, cast(TextIO, _Shielded(stream)))


class _Shielded:
    """A stream that replaces direction marks in what is written to it; everything else is left to the inner stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_MARKS.sub("�", text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# One progress line with time left, on standard error: a live bar for a terminal, a line now and then for a log.

Item = TypeVar("Item")

_quiet = False
_asked_quiet = False  # whether the person asked for quiet, and not only a block of the program
_line_is_live = False  # whether a progress line stands in the terminal, without an end of line
_waiting = 0  # number of `with Waiting` blocks that are running, one inside the other
_open = 0  # number of `with Progress` blocks that are running, one inside the other


def set_quiet(quiet: bool) -> None:
    """Turn every message and progress line of this process off (`quiet` true, as by `--quiet`) or on again."""
    global _quiet, _asked_quiet
    _quiet = _asked_quiet = quiet


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Turn every message and progress line off for the length of a block; with `on` false, nothing changes."""
    global _quiet
    before = _quiet
    _quiet = before or on
    try:
        yield
    finally:
        _quiet = before


@contextmanager
def heard() -> Iterator[None]:
    """Let messages and progress through for the length of a block that lies inside one of `quiet`.

    Where the person asked for quiet, all stays off.
    """
    global _quiet
    before = _quiet
    _quiet = _asked_quiet
    try:
        yield
    finally:
        _quiet = before


def log(text: str, *, as_it_is: bool = False) -> None:
    """Print a message for the person watching, on standard error (standard output is for results).

    Args:
        text: The message in English, which is printed in the language of the user (see `lavra.core.messages`).
        as_it_is: Whether the text is none of lavra's own, such as what a model wrote, and is not looked up.
    """
    if not _quiet:
        _clear()
        print(printable(text if as_it_is else told(text)), file=sys.stderr, flush=True)


def fitted(text: str, columns: int) -> str:
    """Return a line shortened to fit a terminal; the last column stays free, because some terminals wrap there.

    Whole parts, which two spaces separate, are left out from the end; a first part that is too long itself is cut.

    Args:
        text: The line.
        columns: Width of the terminal in characters.

    Examples:
        >>> from lavra.core.progress import fitted
        >>> fitted("tokenising:  40%  2 min 03 s left", 20)
        'tokenising:  40%'
    """
    parts = text.split("  ")
    while len(parts) > 1 and len("  ".join(parts)) >= columns:
        parts.pop()
    shown = "  ".join(parts)
    return shown if len(shown) < columns else shown[: max(0, columns - 2)] + "…"


def _clear() -> None:
    """Erase the live line, so that what is written next does not continue it."""
    global _line_is_live
    if _line_is_live:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
        _line_is_live = False


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _show_line(text: str, live: bool) -> None:
    """Show a line of progress: in the place of the one before it on a terminal (`live`), else below it."""
    global _line_is_live
    if live and not _quiet:
        sys.stderr.write("\r\x1b[2K" + fitted(text, _columns()))
        sys.stderr.flush()
        _line_is_live = True
    elif not live:
        log(text, as_it_is=True)  # its words are in the language of the user already


class Progress:
    """Progress towards a total, shown only for work that lasts longer than two seconds.

    Where `with` blocks of it are nested, only the outermost is shown.

    Args:
        title: What is being done, such as "tokenising".
        total: Amount of work in `unit`; None when it is unknown.
        unit: Plural noun of what is counted, such as "documents".
        every: Seconds between lines when standard error is no terminal; 15 by default.

    Examples:
        >>> from lavra.core.progress import Progress
        >>> with Progress("tokenising", total=2000, unit="documents") as progress:
        ...     progress.update(500)
        ...     progress.line(elapsed=30.0)
        'tokenising:  25%  500/2.0k documents  1 min 30 s left'
    """

    def __init__(self, title: str, total: float | None = None, unit: str = "", *, every: float = 15.0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._before = 0.0
        self._start = time.monotonic()
        self._live = sys.stderr.isatty()
        self._gap = 0.2 if self._live else every
        self._next = self._start + 2.0
        self._shown = False
        self._inner = False

    def start_from(self, done: float) -> None:
        """Set the amount done before, by a run that is resumed; the time left is estimated from new work alone."""
        self.done = self._before = done

    def __enter__(self) -> Progress:
        global _open
        self._inner = _open > 0
        _open += 1
        return self

    def __exit__(self, *_: object) -> None:
        global _open
        _open -= 1
        self.close()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count `amount` more as done, and show the line when it is due; `note` is added at its end."""
        self.update(self.done + amount, note)

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done, and show the line when it is due."""
        self.done = done
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._gap
            self._show(self.line(now - self._start, note))

    def line(self, elapsed: float, note: str = "") -> str:
        """Return the progress line after `elapsed` seconds, with `note` at its end."""
        if self.total:
            share = min(1.0, self.done / self.total)
            now = self.done - self._before
            known = now > 0.01 * self.total  # the first hundredth says too little of the speed
            left = show_duration(elapsed * max(0.0, self.total - self.done) / now) if known else "?"
            done = told_number(f"{show_count(self.done)}/{show_count(self.total)}")
            amount = f"{share:4.0%}  {done} {told(self.unit)}  {told(f'{left} left')}"
        else:
            amount = f"{told_number(show_count(self.done))} {told(self.unit)}  {told_number(show_duration(elapsed))}"
        notes = "  ".join(map(told, note.split("  "))) if note else ""
        return f"{told(self.title)}: {amount}" + (f"  {notes}" if note else "")

    def _show(self, text: str) -> None:
        if _quiet or self._inner:
            return
        self._shown = True
        _show_line(text, self._live)

    def close(self) -> None:
        """Erase the progress line from the terminal."""
        if self._shown and self._live:
            _clear()


class Waiting:
    """Says what is being done where that cannot be counted, from two seconds on, from a thread of its own.

    On a terminal the line is renewed each second, in a log every 15 seconds. Where blocks of it are nested, only the
    outermost is shown.

    Args:
        title: What is being done, such as "training a tokenizer".

    Examples:
        >>> from lavra.core.progress import Waiting
        >>> with Waiting("training a tokenizer"):
        ...     pass
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._done = threading.Event()
        self._thread = threading.Thread(target=self.say, args=(self._done.wait,), daemon=True)

    def __enter__(self) -> Waiting:
        global _waiting
        _waiting += 1
        if _waiting == 1:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _waiting
        _waiting -= 1
        if not _waiting:
            self._done.set()
            self._thread.join()
            _clear()

    def say(self, wait: Callable[[float], bool]) -> None:
        """Show the line when it is due, until the work is done.

        Args:
            wait: The function that waits a number of seconds, and returns whether the work is done then.
        """
        live = sys.stderr.isatty()
        pause, elapsed = 2.0, 0.0
        while not wait(pause):
            elapsed += pause
            pause = 1.0 if live else 15.0
            _show_line(f"{told(self.title)}: {told_number(show_duration(elapsed))}", live)


def track(items: Iterable[Item], title: str, total: float | None = None, unit: str = "") -> Iterator[Item]:
    """Yield the items while showing progress over them."""
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
