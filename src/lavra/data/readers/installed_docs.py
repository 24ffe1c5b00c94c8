"""Reads the corpus that is on every machine: the docstrings of the installed Python packages and Python's reference."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from lavra.core.disk.scratch import scratch_folder
from lavra.core.errors import InputError, LavraError
from lavra.core.machine import usable_cores
from lavra.core.progress import Progress
from lavra.data.readers import docstrings
from lavra.data.readers.rows import UNPARSED, BadRows, SourceDocument

_TESTS = {"test", "tests", "testing", "_tests", "__pycache__"}  # folders that are left out

# Number of files from which several processes, one for each core, share the work; fewer do not repay their start.
_FEW = 200


def read_installed_docs(
    folder: Path | None = None, packages: Sequence[str] = (), bad_rows: BadRows | None = None
) -> Iterator[SourceDocument]:
    """Yield the docstrings of every installed package, then Python's own language reference, each text once.

    Python files are parsed, never imported; tests are left out. The order depends on the installed files only.

    Args:
        folder: Folder of the packages; by default the site-packages of this Python.
        packages: Names of the top-level packages to read; by default all, and Python's own language reference.
        bad_rows: Is filled with the files that this Python cannot parse; None for not counting them.

    Yields:
        Rows whose source is the package, and whose place is "file:object".

    Raises:
        InputError: if one of the packages is not installed, or `bad_rows` is strict and a file cannot be parsed.
    """
    root = folder or Path(sysconfig.get_paths()["purelib"])
    missing = sorted(name for name in packages if not (root / name).is_dir())
    if missing:
        raise InputError(f"{', '.join(missing)}: not installed in {root}", "name packages by their import names")
    files = [file for name in packages for file in python_files(root / name)] if packages else python_files(root)
    seen: set[bytes] = set()
    for path, name, text in _docstrings(files):
        if name is None:
            if bad_rows is not None:
                bad_rows.leave_out(str(path), UNPARSED)
        elif _is_new(text, seen):
            package = path.relative_to(root).parts[0].removesuffix(".py")
            yield SourceDocument(text, package, f"{path}:{name}" if name else str(path))
    for topic, text in () if packages else _language_reference():
        if _is_new(text, seen):
            yield SourceDocument(text, "python", f"pydoc_data.topics:{topic}")


def python_files(root: Path) -> list[Path]:
    """Return the Python files under `root`, without tests, in sorted order."""
    found = []
    for current, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _TESTS)
        kept = (
            name for name in files if name.endswith(".py") and not name.startswith("test_") and name != "conftest.py"
        )
        found.extend(Path(current) / name for name in kept)
    return sorted(found)


def _is_new(text: str, seen: set[bytes]) -> bool:
    digest = hashlib.blake2b(text.encode("utf8", "surrogatepass"), digest_size=16).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True


def _language_reference() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return
    yield from sorted(topics.items())


def _docstrings(paths: Sequence[Path]) -> Iterator[tuple[Path, str | None, str]]:
    if len(paths) < _FEW:
        for path in paths:
            for name, text in docstrings.docstrings(path):
                yield path, name, text
        return
    with ExitStack() as stack:
        shares = _start_readers(paths, stack)
        with Progress("reading docstrings", unit="bytes") as progress:
            for process, _ in shares:
                while process.poll() is None:
                    _wait(process)
                    progress.update(sum(output.stat().st_size for _, output in shares))
                if process.returncode:
                    raise LavraError("a reader of docstrings ended early", "try again; report it if it stays")
        for _, output in shares:
            with output.open(encoding="utf8") as lines:
                for line in lines:
                    path, name, text = json.loads(line)
                    yield Path(path), name, text


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return


def _start_readers(paths: Sequence[Path], stack: ExitStack) -> list[tuple[subprocess.Popen[str], Path]]:
    """Start one reader per core on consecutive shares of the paths, of about equal size in bytes.

    The readers are killed when `stack` is closed, whatever happens.
    """
    folder = Path(stack.enter_context(scratch_folder()))
    cores = usable_cores()
    sizes = [path.stat().st_size for path in paths]
    share, total = sum(sizes) / cores, 0
    names: list[list[Path]] = [[] for _ in range(cores)]
    for path, size in zip(paths, sizes, strict=True):
        names[min(cores - 1, int(total // max(1, share)))].append(path)
        total += size
    started = []
    for number, some in enumerate(names):
        listing, output = folder / f"paths-{number}", folder / f"docstrings-{number}"
        listing.write_text("".join(f"{path}\n" for path in some if "\n" not in str(path)), encoding="utf8")
        with listing.open() as source, output.open("w", encoding="utf8") as target:
            process = subprocess.Popen(
                [sys.executable, "-I", docstrings.__file__], stdin=source, stdout=target, text=True
            )
        stack.callback(process.kill)
        started.append((process, output))
    return started
