"""Two processes that train together, as `torchrun` would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def in_two_processes(code: str) -> None:
    """Run code in two processes of one process group, and wait until both have ended well.

    Args:
        code: Statements of Python, which may import the modules of the tests and use `Path`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path])),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
    }
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    command = [sys.executable, "-c", f"from pathlib import Path; {code}"]
    processes = [subprocess.Popen(command, env=shared | rank) for rank in own]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda process: _ended(process, processes), processes)) == [0, 0]


def _ended(process: subprocess.Popen[bytes], processes: list[subprocess.Popen[bytes]]) -> int:
    """Wait for a process and return its exit code; one that failed takes those with it that would wait for it."""
    if process.wait():
        for other in processes:
            other.kill()
    return process.returncode
