"""Two processes that train together, as `torchrun` would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
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
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
