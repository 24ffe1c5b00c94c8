"""The checkpoints of a run: written in the background, complete or absent, verified when written and when read.

A checkpoint is written into a hidden folder, synced to the disk, read back and compared, and only then renamed to its
final name; older ones are removed after that. Whenever the process or the machine stops, the newest visible checkpoint
is therefore complete (write-ahead into a temporary folder and atomic rename).
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.disk.files import sync_file, sync_folder
from lavra.core.errors import NO_SPACE, CorruptFile, LavraError
from lavra.core.machine import is_out_of_memory
from lavra.core.progress import log
from lavra.core.units import show_size
from lavra.training.checkpoints.folders import CheckpointFolders, Retention
from lavra.training.checkpoints.format import (
    MANIFEST,
    STATE,
    TENSORS,
    Checkpoint,
    Manifest,
    finite_or_none,
    read_manifest,
    state_text,
)
from lavra.training.checkpoints.tensor_files import FileRecord, SnapshotBuffer, checksum_file, write_tensors
from lavra.training.fault_injection import fault_point

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "CheckpointStore"]


Groups = Mapping[str, Mapping[str, "torch.Tensor"]]
"""Tensors by name, by name of the group, such as `master_weights` and `optimizer`; each group is one file."""


class CheckpointStore:
    """The checkpoints in one folder, to which only one process at a time writes.

    Args:
        folder: Folder of the checkpoints, e.g. `runs/mine/checkpoints`; it is made with the first checkpoint.
        keep: Number of the newest checkpoints that are kept, 1 or more. The one with the best score is kept in
            addition. When the disk is full, only the newest and the best are kept.
        on_warning: Function that receives a line about a checkpoint that could not be written or is damaged. It may be
            called from the writing thread. The line is shown on standard error in any case.

    Attributes:
        damaged: Folders that the last call of `latest` or `best` skipped, each with the reason.
        written: Step of the last checkpoint that this object has written and verified; None before the first. After
            `wait`, it tells whether a save succeeded.

    Raises:
        ValueError: if `keep` is below 1.

    Examples:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = CheckpointStore(Path(folder))
        ...     store.save(120, {"masters": {"w": torch.ones(2)}}, {"seed": 7}, background=False)
        ...     checkpoint = store.latest()
        ...     print(checkpoint.step, checkpoint.state, checkpoint.load("masters"))
        120 {'seed': 7} {'w': tensor([1., 1.])}
    """

    def __init__(self, folder: Path, keep: int = 2, on_warning: Callable[[str], None] | None = None) -> None:
        if keep < 1:
            raise ValueError("a store keeps at least one checkpoint")
        self.folder = Path(folder)
        self.damaged: list[tuple[Path, str]] = []
        self.written: int | None = None
        self._folders = CheckpointFolders(self.folder)
        self._retention = Retention(self._folders, keep, self._warn)
        self._on_warning = on_warning
        self._buffer = SnapshotBuffer()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(
        self,
        step: int,
        tensors: Groups,
        state: Mapping[str, Any],
        *,
        background: bool = True,
        score: float | None = None,
    ) -> None:
        """Save a checkpoint, and replace one of the same step.

        In the background, this returns once the tensors are copied to CPU memory, where a second copy of them stays. A
        full disk then costs a warning and this checkpoint, and every other error is raised by the next call. In the
        foreground, nothing is copied and every error is raised at once. Either way, a checkpoint that is still being
        written is waited for first.

        Checkpoints of later steps are removed: they belong to a continuation that was abandoned by a rollback.

        Args:
            step: Number of optimiser steps done.
            tensors: Tensors by name, by name of the group. A group is written to `<group>.safetensors`.
            state: Everything else, in plain JSON values.
            background: Whether to return before the files are written.
            score: Validation loss at this step; lower is better. None if it was not measured.

        Raises:
            LavraError: if this checkpoint (in the foreground) or the previous one could not be written.
            TypeError: if the state is not plain JSON, or the safetensors format cannot express a tensor.
            ValueError: if the name of a group does not consist of small letters, digits, hyphens and underscores.
        """
        self.wait()
        if not all(re.fullmatch(r"[a-z][a-z0-9_-]*", group) for group in tensors):
            raise ValueError(f"groups need names of small letters, digits, - and _, not {sorted(tensors)}")
        text, score = state_text(state), finite_or_none(score)
        if not background:
            try:
                self._write(step, tensors, text, score)
            except OSError as error:
                raise self._explained(step, error) from error
            return
        snapshot = self._snapshot(tensors)
        if snapshot is None:
            self._write_behind(step, tensors, text, score)
            self.wait()
            return
        arguments = (step, snapshot, text, score)
        # Not a daemon thread: a program that ends by an error still completes the checkpoint that it has started.
        self._thread = threading.Thread(target=self._write_behind, args=arguments, name="lavra-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until no checkpoint is being written.

        Raises:
            LavraError: if the last checkpoint could not be written, unless the disk was full, which is only a warning.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, complete or damaged, in ascending order."""
        return self._folders.steps()

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, after verifying every byte of it, or None if there is none at all.

        Damaged and incomplete ones are reported, listed in `damaged`, and skipped.

        Raises:
            CorruptFile: if there are checkpoints, and none is intact.
        """
        self.wait()
        self.damaged = []
        for folder in self._folders.unfinished():  # no damage: the checkpoint before it is intact
            self.damaged.append((folder, "its writing was not finished"))
            log(f"checkpoint {folder.name} was not finished and is skipped")
        return self._first_whole(self.steps()[::-1])

    def best(self) -> Checkpoint | None:
        """Return the intact checkpoint with the lowest score, verified as by `latest`, or None if none has a score.

        Raises:
            CorruptFile: if there are checkpoints with a score, and none of them is intact.
        """
        self.wait()
        self.damaged = []
        scores: dict[int, float] = {}
        for step in self.steps():
            try:
                score = read_manifest(self._folders.of(step)).score
            except CorruptFile as error:
                self._skip(step, error.message)
                continue
            if score is not None:
                scores[step] = score
        return self._first_whole(sorted(scores, key=lambda step: (scores[step], step)))

    def _first_whole(self, steps: list[int]) -> Checkpoint | None:
        for step in steps:
            try:
                checkpoint = Checkpoint.open(self._folders.of(step))
            except CorruptFile as error:
                self._skip(step, error.message)
                continue
            self._retention.remember(step, checkpoint.manifest)
            return checkpoint
        if steps:
            reasons = "; ".join(reason for _, reason in self.damaged)
            raise CorruptFile(
                f"none of the checkpoints in {self.folder} is intact: {reasons}",
                "restore the folder from a backup, or start the training again",
            )
        return None

    def _skip(self, step: int, reason: str) -> None:
        self._retention.forget(step)
        self.damaged.append((self._folders.of(step), reason))
        self._warn(f"checkpoint of step {step} is skipped: {reason}")

    def _snapshot(self, tensors: Groups) -> Groups | None:
        """Return copies of the tensors, or None when there is no memory for them."""
        try:
            return self._buffer.copy(tensors)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._buffer = SnapshotBuffer()
            self._warn("not enough memory for a second copy of the training state: training waits for each checkpoint")
            return None

    def _write_behind(self, step: int, tensors: Groups, text: str, score: float | None) -> None:
        """Write a checkpoint without raising: a full disk is a warning, any other error is raised by the next call."""
        try:
            self._write(step, tensors, text, score)
        except OSError as error:
            failure = self._explained(step, error)
            if error.errno in NO_SPACE:
                self._warn(f"{failure.message}; training continues, and the previous checkpoint is kept")
            else:
                failure.__cause__, self._failure = error, failure
        except BaseException as error:
            self._failure = error

    def _write(self, step: int, tensors: Groups, text: str, score: float | None) -> None:
        """Write, verify and rename a checkpoint, after making room where needed; then remove superfluous ones."""
        try:
            self._write_once(step, tensors, text, score)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._retention.make_room():
                raise
            self._write_once(step, tensors, text, score)
        try:
            self._folders.sweep()
            self._retention.trim(step)
        except OSError as error:
            self._warn(f"the checkpoint of step {step} is safe, but older ones could not be removed: {error}")

    def _write_once(self, step: int, tensors: Groups, text: str, score: float | None) -> None:
        folder = self._folders.begin(step)
        try:
            manifest = _fill(folder, step, tensors, text, score)
        except BaseException:
            self._folders.discard(step)
            raise
        self._folders.publish(step)
        self._retention.remember(step, manifest)
        self.written = step

    def _explained(self, step: int, error: OSError) -> LavraError:
        if error.errno not in NO_SPACE:
            return LavraError(
                f"the checkpoint of step {step} could not be written to {self.folder}: {error}",
                "check that the folder exists, that you may write to it and that its disk works; then resume the run",
            )
        try:
            free = f"{show_size(shutil.disk_usage(self.folder).free)} free"
        except OSError:
            free = "free space unknown"
        return LavraError(
            f"DISK FULL: could not write the checkpoint of step {step} to {self.folder} ({error.strerror}; {free})",
            "free space on that disk, or raise the limit on file sizes (ulimit -f), and resume the run: "
            "it continues from the previous checkpoint",
        )

    def _warn(self, text: str) -> None:
        log(f"warning: {text}")
        if self._on_warning is not None:
            try:
                self._on_warning(text)
            except OSError as error:  # most likely the log is on the same full disk
                log(f"warning: the line above could not be written to the log: {error}")


def _fill(folder: Path, step: int, tensors: Groups, text: str, score: float | None) -> Manifest:
    """Write the files of a checkpoint, read them back from the disk, and return the manifest."""
    files: dict[str, FileRecord] = {}
    for group in sorted(tensors):
        files[f"{group}{TENSORS}"] = write_tensors(folder / f"{group}{TENSORS}", tensors[group])
    _write_text(folder / STATE, text)
    files[STATE] = checksum_file(folder / STATE)
    manifest = Manifest(step, score, files)
    fault_point("checkpoint.before_manifest")
    _write_text(folder / MANIFEST, manifest.text())
    sync_folder(folder)
    try:
        Checkpoint.open(folder, from_disk=True)
    except CorruptFile as error:
        raise CorruptFile(
            f"the disk returned other data than was written: {error.message}",
            "the disk or the memory of this machine is failing; resume the run on another machine",
        ) from error
    return manifest


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf8")
    sync_file(path)
