"""Real processes without the seconds that each takes to import: forks of a process that has imported the packages.

A fork is a process of its own, with its own signals, locks and memory, and can be killed like any other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

_SERVER = """
import json, os, sys, traceback

def run(job):
    null = os.open(os.devnull, os.O_RDONLY)
    out, errors = (os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in job["files"])
    for opened, number in ((null, 0), (out, 1), (errors, 2)):
        os.dup2(opened, number)
    os.environ.update(job["environment"])
    sys.argv = ["-c", *job["words"]]
    code = 0
    try:
        exec(compile(job["program"], "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

exec(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

LAVRA = """
import os, sys
from lavra.cli.main import main
from lavra.training.fault_injection import injected
with injected(os.environ["LAVRA_FAULT"]):  # the variable is read at the import, which was before the fork
    sys.exit(main())
"""
"""The program that `python -m lavra` is, with faults."""

TRAINING = """
import lavra.cli.main, lavra.cli.prepare, lavra.cli.resume, lavra.cli.train, lavra.workflows.check
import lavra.workflows.training.resume, lavra.workflows.training.train, lavra.reports.run_summary, torch._dynamo
from lavra.planning.machine import hardware
hardware._SIDES["cpu"] = 64  # this machine is measured by small matrix products, as in every test
"""
"""Statements that import what a training needs."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended; it can be asked what a `subprocess.Popen` can."""

    args: list[str]
    returncode: int
    out: Path
    errors: Path

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Return the bytes of its standard output and standard error."""
        return self.out.read_bytes(), self.errors.read_bytes()


class ForkServer:
    """A process that imports once, and forks for every program that it is asked to run.

    Args:
        folder: Folder for what the programs print.
        imports: Statements that it runs once; they may start no threads.
    """

    def __init__(self, folder: Path, imports: str) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, imports], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._stream(self._process.stdout).readline() == "ready\n"

    def run(self, program: str, words: Sequence[str], environment: dict[str, str] | None = None) -> Ended:
        """Run a program with some arguments to its end, however it ends."""
        files = self._folder / "out", self._folder / "errors"
        job = {
            "program": program,
            "words": list(words),
            "environment": environment or {},
            "files": [str(file) for file in files],
        }
        send = self._stream(self._process.stdin)
        send.write(json.dumps(job) + "\n")
        send.flush()
        return Ended(list(words), int(self._stream(self._process.stdout).readline()), *files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is the end of its work

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream
