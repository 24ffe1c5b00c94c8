"""The run folder: the whole record of one training run, which can be copied, resumed, compared and exported."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_atomically, write_json
from lavra.core.disk.json_lines import JsonLines
from lavra.core.disk.locks import exclusive, holder
from lavra.core.disk.replacing import check_replaceable
from lavra.core.disk.run_shapes import PLAN, RESULT
from lavra.core.disk.shapes import Shape, demand
from lavra.core.errors import CorruptFile, InputError

Status = Literal["running", "finished", "interrupted"]

_MARK = "# lavra run, format 1\n"

_LOST = "bring the file back from a copy; the checkpoints and the model in the folder are not touched by this"

LATER = (
    *("plan.json", "result.json", "metrics.jsonl", "samples.jsonl", "machines.jsonl", "checks.json", "text.json"),
    "stability.jsonl",
    *("predictions.parquet", "words.json", "folds.parquet", "out_of_fold*.parquet", "label_errors.jsonl", "linear/*"),
    *("folds/*.jsonl", "folds/folds.json", "learning_curve.json", "frozen/*"),
    *("sweep.json", "trials.jsonl", "best.toml"),
    *("events.log", "report.html", "document_losses.json", "doc2query*.json", ".lock", "tracker.json"),
    *("checkpoints/step-*", "checkpoints/.*", "tensorboard/*", "wandb/*", "mlruns/*"),
)
"""Patterns of everything that lavra writes into a run folder after it was made. The folders `data`, `base`, `adapter`
and `model` are not among them, because they have marks of their own."""


class RunFolder:
    """The folder of one training run; `create` makes a new one, and `open` opens an existing one.

    Attributes:
        path: Path of the folder.
        metrics: The file `metrics.jsonl`, with one object per logged step.
        samples: The file `samples.jsonl`, with the texts that the model generated during the run.
        stability: The file `stability.jsonl`, with the norms of every layer in some steps.
        checkpoints: Path of the folder of the checkpoints.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics = JsonLines(self.path / "metrics.jsonl")
        self.samples = JsonLines(self.path / "samples.jsonl")
        self.stability = JsonLines(self.path / "stability.jsonl")
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(
        cls, path: Path | str, config: str, *, force: bool = False, inputs: Iterable[str | Path] = ()
    ) -> RunFolder:
        """Make a new run folder, whole or not at all.

        Args:
            path: Path of the new folder; an empty folder may be there already.
            config: The text of `config.toml` (see `core.configuration.to_toml`).
            force: Replace a run folder that is there; nothing else is ever replaced (see `core.disk.replacing`).
            inputs: Files and folders that the run reads; a folder that holds one of these is never replaced.

        Returns:
            The new run folder, opened.

        Raises:
            InputError: if the path is taken, or its run is being trained.
        """
        path, inputs = Path(path), list(inputs)
        check_new_run(path, force=force, inputs=inputs)
        with building_folder(path, force=force, inputs=inputs, kind="run", later=LATER) as building:
            (building / "checkpoints").mkdir()
            config = config.removesuffix("\n") + "\n"
            write_atomically(building / "config.toml", f"{_MARK}{config}{_seal(config)}\n")
        return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run folder.

        Raises:
            InputError: if there is none at `path`.
        """
        path = Path(path)
        if is_run(path):
            return cls(path)
        if not path.exists():
            raise InputError(f"{path} does not exist", "`lavra runs FOLDER` lists the runs in a folder")
        raise InputError(
            f"{path} is no run folder (it has no config.toml written by lavra)",
            "give the folder that --out named; `lavra runs FOLDER` lists the runs in a folder",
        )

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config(self) -> str:
        """The text of `config.toml`: every option of the run, with defaults filled in.

        Raises:
            CorruptFile: if the file is missing, cannot be read, or is not what was written.
        """
        path = self.path / "config.toml"
        try:
            text = path.read_bytes().decode("utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptFile(f"{path} is damaged: {error}", _LOST) from error
        body, _, last = text.removesuffix("\n").rpartition("\n")
        body = (body + "\n").removeprefix(_MARK)
        if last != _seal(body):
            raise CorruptFile(f"{path} is not what lavra wrote: cut short, or changed since", _LOST)
        return body

    @property
    def plan(self) -> dict[str, Any]:
        """The decisions made before the first step, as in `plan.json`; empty when the run never came that far."""
        return self._optional("plan.json", PLAN)

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write the decisions made before the first step to `plan.json`."""
        write_json(self.path / "plan.json", plan)

    @property
    def result(self) -> dict[str, Any]:
        """The final figures, as in `result.json`; empty while the run is not finished."""
        return self._optional("result.json", RESULT)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the final figures to `result.json`, which makes the run finished."""
        write_json(self.path / "result.json", result)

    def _optional(self, name: str, shape: Shape) -> dict[str, Any]:
        path = self.path / name
        return demand(shape, read_json(path), str(path)) if path.exists() else {}

    def log(self, text: str) -> None:
        """Add one line, with the date and the time before it, to `events.log`."""
        with (self.path / "events.log").open("a", encoding="utf8") as handle:
            handle.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {' '.join(text.splitlines())}\n")

    @property
    def events(self) -> list[str]:
        """The lines of `events.log`."""
        path = self.path / "events.log"
        try:
            return path.read_text(encoding="utf8", errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise CorruptFile(f"{path} cannot be read: {error.strerror}") from error

    def rewind(self, step: int) -> None:
        """Remove the record of what came after `step`, so that the curve of a resumed run equals that of one run.

        Lines of the metrics, samples and stability with a later `step` are removed, and so is the result.
        """
        for lines in (self.metrics, self.samples, self.stability):
            lines.keep(lambda record: record.get("step", 0) <= step)
        (self.path / "result.json").unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    @contextmanager
    def training(self) -> Iterator[None]:
        """Hold the run's lock during the block, so that two processes never train in one folder.

        Raises:
            InputError: if another living process trains it; the message names that process.
        """
        with exclusive(self._lock, f"{self.path} is being trained"):
            yield

    @property
    def trainer(self) -> int | None:
        """The number of the process that trains this run now, or None where none does."""
        return holder(self._lock)

    @property
    def status(self) -> Status:
        """The state of the run: "running" while a process trains it, "finished" with a result, else "interrupted"."""
        if self.trainer is not None:
            return "running"
        return "finished" if (self.path / "result.json").exists() else "interrupted"


def check_new_run(path: Path, *, force: bool = False, inputs: Iterable[str | Path] = ()) -> None:
    """Raise an error unless a run may be made at `path`; the arguments are those of `RunFolder.create`.

    Raises:
        InputError: if the path is taken, or its run is being trained.
    """
    goes_on = f"`lavra resume {path}` goes on with it; choose another --out, or add --force to replace it"
    check_replaceable(path, force=force, inputs=inputs, remedy=goes_on if is_run(path) else "")
    if is_run(path):
        refuse_while_training(path)


def _seal(config: str) -> str:
    """Return the last line of `config.toml`: a hash, by which a file that was cut short or changed is recognised."""
    return f"# whole: {hashlib.blake2b(config.encode(), digest_size=8).hexdigest()}"


def is_run(path: Path) -> bool:
    """Return whether `path` is a run folder, that is, holds a `config.toml` that lavra wrote."""
    try:
        with (path / "config.toml").open("rb") as handle:
            return handle.readline(len(_MARK) + 1) == _MARK.encode()
    except OSError:
        return False


def check_removable(path: Path) -> None:
    """Raise an error unless a run may be removed.

    Raises:
        InputError: if it is being trained, or holds what lavra did not make.
    """
    refuse_while_training(path)
    check_replaceable(path, force=True)


def remove_run(path: Path) -> None:
    """Delete a run folder. It is first renamed, so that a killed deletion does not leave a part of a run in its place.

    Raises:
        InputError: if it is being trained, or holds what lavra did not make.
    """
    check_removable(path)
    grave = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.building-"))
    path.rename(grave / path.name)
    shutil.rmtree(grave)


def list_runs(root: Path | str) -> list[RunFolder]:
    """Return the run folders at `root` or up to two levels below it, the oldest first.

    Raises:
        InputError: if `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root} is no folder", "give the folder that holds your runs")
    marks = [mark for pattern in ("", "*/", "*/*/") for mark in root.glob(f"{pattern}config.toml")]
    found = [mark.parent for mark in marks if not _is_hidden(mark.parent, root) and is_run(mark.parent)]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (path / "config.toml").stat().st_mtime_ns)]


def _is_hidden(path: Path, root: Path) -> bool:
    """Return whether a part of the path below `root` is hidden, as that of a folder that is being made or removed."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def refuse_while_training(path: Path) -> None:
    """Raise an error if a process trains the run.

    Raises:
        InputError: if a process does; the message has its number.
    """
    process = RunFolder(path).trainer
    if process is not None:
        raise InputError(f"{path} is being trained by process {process}", "stop it first; it saves when asked to stop")
