"""Nothing that others wrote steers the terminal: no control characters, no marks that turn the direction of text."""

from __future__ import annotations

import io
import sys

import pytest

from lavra.cli.main import main
from lavra.core.progress import log, printable, shield_terminal
from lavra.reports.formatting import text_table

MARKS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_controls_and_marks_of_direction_are_shown_and_all_else_stays() -> None:
    for mark in (*MARKS, "\x1b", "\x07", "\x9b", "\x7f", "\r"):
        assert printable(f"a{mark}b") == "a�b"
    text = "Às vezes, עברית العربية 🙂 e\u0301 \u200f\ttab\nline"
    assert printable(text) == text


def test_messages_and_tables_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    log(f"reading {MARKS}\x1b[2Jfile")
    assert capsys.readouterr().err == "reading " + "�" * 10 + "[2Jfile\n"
    assert text_table(["name", "n"], [[f"{MARKS[4]}txt", "1"]]).splitlines()[2] == "�txt  1"


def test_errors_that_name_a_file_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "run\u202etxt.exe\x1b[2J", "x"]) == 2
    told = capsys.readouterr().err
    assert "run�txt.exe�[2J" in told
    assert not set(told) & set(MARKS + "\x1b")


def test_whatever_is_written_to_a_terminal_is_without_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, piped = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", piped)
    shield_terminal()
    shield_terminal()
    assert sys.stdout.isatty()
    print(f"a{MARKS}b\x1b[1mbold\x1b[0m")
    sys.stdout.writelines(["x\u202ey", "\u2066z"])
    print("a\u202eb", file=sys.stderr)
    assert shown.getvalue() == "a" + "�" * 9 + "b\x1b[1mbold\x1b[0m\nx�y�z"
    assert piped.getvalue() == "a\u202eb\n"


def test_a_command_shields_the_terminal_that_it_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", shown)
    assert main(["report", "a\u202eb"]) == 2
    assert "�" in shown.getvalue() or "\\u202e" in shown.getvalue()
    assert "\u202e" not in shown.getvalue()
