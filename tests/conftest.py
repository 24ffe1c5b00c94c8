"""What every test runs under: one thread per worker, no network, the same examples each time."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers of pytest-xdist already use every core
os.environ["LAVRA_LANG"] = "en"  # whatever the locale of the person who runs the tests
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # else each worker starts a pool of compiling processes
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_MODE="offline")

import pytest
from hypothesis import settings

settings.register_profile("lavra", max_examples=50, deadline=None, derandomize=True, print_blob=True)
settings.load_profile("lavra")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to Ctrl-C


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device where there is none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _loud():
    """Undo a `--quiet` that a test of the command line has set for the process."""
    from lavra.core.progress import set_quiet

    yield
    set_quiet(False)


@pytest.fixture(autouse=True, scope="session")
def _quick_measurement() -> None:
    """Measure this machine by small matrix products: the real ones take a second before every training."""
    from lavra.planning.machine import hardware

    hardware._SIDES["cpu"] = 64


@pytest.fixture
def reference_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the certificate's other program in this process, which has paid for its imports already."""
    import subprocess
    from pathlib import Path

    from lavra.models import reference

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder, tokens, out = command[-3:]
        reference.run(folder, Path(tokens), Path(out))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `lavra check` find no compiler and trace no graph, which take seconds and have tests of their own."""
    monkeypatch.setattr("lavra.checks.kernels.can_compile", lambda device: False)
    monkeypatch.setattr("lavra.checks.speed._graphs", lambda check_context: None)
