"""The progress line in a real (pseudo-)terminal: it fits, and messages are not glued to it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavra.core.progress import Waiting, fitted

_PROGRAM = """
from lavra.core import progress
line = progress.Progress("training", 1000, "steps")
line._start -= 60; line._next = 0.0
with line:
    for step in range(100, 1000, 300):
        note = "2.4M tokens  loss 3.123  validation 1.234 bits/byte  12.3k tokens/s  38% of peak"
        line._next = 0.0
        line.update(step, note)
        progress.log(f"forecast: message after step {step}")
progress.log("done")
"""


def shown(columns: int) -> list[str]:
    """Run the program in a terminal of so many columns, and return the rows that a person sees in the end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM], stderr=slave, stdin=slave, stdout=slave)
    os.close(slave)
    written = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        if not block:
            break
        written += block
    os.close(master)
    assert process.wait() == 0
    rows, row = [], ""
    for piece in re.split(r"(\r\n|\r|\x1b\[2K)", written.decode()):
        if piece == "\r\n":
            rows.append(row)
            row = ""
        elif piece == "\x1b[2K":
            row = ""
        elif piece != "\r":
            row += piece
            assert len(row) < columns, "the line would wrap, and its first part could never be cleared"
    return [*rows, row]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_line_fits_and_messages_stand_alone(columns: int) -> None:
    messages = [f"forecast: message after step {step}" for step in (100, 400, 700)]
    assert shown(columns) == [*messages, "done", ""]


@given(text=st.text("ab  %", max_size=200), columns=st.integers(1, 250))
def test_a_fitted_line_is_shorter_than_the_terminal_and_begins_alike(text: str, columns: int) -> None:
    found = fitted(text, columns)
    assert len(found) < max(columns, 2)
    assert text.startswith(found.removesuffix("…"))
    if len(text) < columns:
        assert found == text


def test_work_that_cannot_be_counted_is_named_from_two_seconds_on(capsys: pytest.CaptureFixture[str]) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 4

    Waiting("timing steps").say(wait)
    assert waited == [2.0, 15.0, 15.0, 15.0]
    told = capsys.readouterr().err.splitlines()
    assert told == ["timing steps: 2.0 s", "timing steps: 17 s", "timing steps: 32 s"]
    with Waiting("outer"), Waiting("inner") as inner:
        assert not inner._thread.is_alive()
    assert not capsys.readouterr().err
