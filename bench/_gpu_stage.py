"""One stage of bench/gpu.sh: a command with a limit, its log with the time of every line, and its row in gpu.jsonl.

    python bench/_gpu_stage.py NAME --out FOLDER --walk ID [--limit S] [--budget S] [--run RUN] -- COMMAND …
    python bench/_gpu_stage.py --table --out FOLDER --walk ID

The command's whole process group ends with its limit: first asked to, then killed. Whatever happens, there is a row.
The exit code is the command's; 124 is the limit's, as of `timeout`, and 143 that of a walk which was asked to end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from _gpu_figures import answer_of, figures_of, read_lines, table

TIMED_OUT = 124
NOT_RUN = 125
LEAST_SECONDS = 5.0
"""A stage with a shorter limit, because the walk is nearly over, is not begun."""

GRACE = 8.0
"""Seconds between asking a command to end and killing it."""

_POLL = 0.1
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Log(threading.Thread):
    """Writes what a command says to a file, each line after the seconds since the command began, and keeps it.

    Args:
        stream: what the command says, output and errors together.
        path: the file.
        began: `time.monotonic` when the command began.

    Attributes:
        lines: without their times.
    """

    def __init__(self, stream: IO[str], path: Path, began: float) -> None:
        super().__init__(daemon=True)
        self._stream, self._path, self._began = stream, path, began
        self.lines: list[str] = []

    def run(self) -> None:
        """Read to the end of the stream. A bar that draws over itself gives a line each time."""
        with self._path.open("w", encoding="utf-8") as file:
            for line in self._stream:
                words = line.rstrip("\n")
                self.lines.append(words)
                file.write(f"{time.monotonic() - self._began:7.1f}  {words}\n")
                file.flush()

    @property
    def last(self) -> str:
        """The last line that says something: no answer in JSON, and no advice after an error."""
        said = (line.strip() for line in reversed(self.lines))
        return next((line for line in said if line and not line.startswith(("{", "what to do:"))), "it said nothing")


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, with one pipe for all that it says."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def run_stage(command: Sequence[str], log: Path, limit: float, run: Path | None = None) -> tuple[dict[str, Any], Log]:
    """Run a command to its end or its limit.

    Args:
        command: program and words.
        log: the file for what it says.
        limit: seconds.
        run: the folder in which the command trains; the time until its first metrics is noted.

    Returns:
        `exit`, `seconds` and `first_step_seconds` (where there was one), and the log.
    """
    began = time.monotonic()
    process = start(command)
    assert process.stdout is not None
    heard = Log(process.stdout, log, began)
    heard.start()
    row: dict[str, Any] = {}
    stopped = TIMED_OUT
    try:
        while process.poll() is None and time.monotonic() - began < limit:
            if run is not None and "first_step_seconds" not in row and has_content(run / "metrics.jsonl"):
                row["first_step_seconds"] = time.monotonic() - began
            time.sleep(_POLL)
    except SystemExit as asked:  # this process was asked to end: so is the command, and there is a row all the same
        stopped = int(asked.code or 0)
    early = process.poll() is None
    end(process)
    row |= {"exit": stopped if early else process.returncode, "seconds": time.monotonic() - began}
    heard.join(timeout=2.0)  # a process that left the group may hold the pipe open
    return row, heard


def has_content(path: Path) -> bool:
    """Say whether something was written to a file."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def end(process: subprocess.Popen[str]) -> None:
    """End what is left of a process group, and wait for its first process."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def stage(options: argparse.Namespace) -> dict[str, Any]:
    """Run a stage, append its row to gpu.jsonl, and return the row."""
    row: dict[str, Any] = {"walk": options.walk, "stage": options.name, "limit": options.limit}
    if options.limit < LEAST_SECONDS:
        row |= {"exit": NOT_RUN, "says": "not run: the walk's time is over"}
    else:
        measured, log = run_stage(options.command, options.out / f"{options.name}.log", options.limit, options.run)
        answer = answer_of(log.lines)
        row |= figures_of(answer, options.run, measured["seconds"], options.budget) | measured
        row["command"] = " ".join(options.command)
        row["says"] = said(row, log.last, options)
    with (options.out / "gpu.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def said(row: dict[str, Any], last: str, options: argparse.Namespace) -> str:
    """Return the words of a row: of a stage that failed also its last line, first where no verdict of its own is."""
    figures = row.get("says", "")
    if not row["exit"]:
        return figures
    if row["exit"] == TIMED_OUT:
        last = f"ended at its limit of {options.limit:.0f} s: {last}"
    return f"{figures} [{last}]" if figures and options.run is None else f"{last} [{figures or 'no figures'}]"


def rows_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of this walk, in the order of the stages."""
    return [row for row in read_lines(options.out / "gpu.jsonl") if row.get("walk") == options.walk and "stage" in row]


def request(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="of the stage, and of its log")
    parser.add_argument("--out", type=Path, required=True, help="folder of the logs and of gpu.jsonl")
    parser.add_argument("--walk", required=True, help="what tells this walk's rows from earlier ones")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    parser.add_argument("--budget", type=float, help="seconds that the command was asked to take")
    parser.add_argument("--run", type=Path, help="the folder that the command trains in")
    parser.add_argument("--table", action="store_true", help="show the stages of the walk")
    words = list(sys.argv[1:] if words is None else words)
    place = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:place])
    options.command = words[place + 1 :]
    if not options.table and not (options.name and options.command):
        parser.error("a stage needs a name, and a command after --")
    return options


def asked_to_end(number: int, _: object) -> None:
    """End this process in order; a second request does not disturb that."""
    for one in _ENDING:
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    options = request()
    for number in _ENDING:
        signal.signal(number, asked_to_end)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.table:
        rows = rows_of(options)
        print(table(rows))
        return int(any(row["exit"] for row in rows))
    row = stage(options)
    print(table([row]).splitlines()[1], file=sys.stderr, flush=True)
    return row["exit"] if row["exit"] >= 0 else 128 - row["exit"]


if __name__ == "__main__":
    sys.exit(main())
