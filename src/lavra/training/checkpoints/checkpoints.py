"""The checkpoints of a run: written while training goes on, whole or absent, checked when written and when read.

A checkpoint is written into a hidden folder, synced, read back from the disk and compared, and only then renamed to its
name; older ones are removed after that. Whenever the process or the machine stops, the newest visible one is whole.
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
from lavra.core.errors import NO_SPACE, Damaged, LavraError
from lavra.core.machine import is_out_of_memory
from lavra.core.progress import say
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


class CheckpointStore:
    """The checkpoints in one folder, of which one process at a time is the writer.

    Args:
        folder: e.g. `runs/mine/checkpoints`; made when the first checkpoint is.
        keep: how many of the newest are kept, 1 or more. The one with the best score is kept besides. When the disk
            is full, only the newest and the best are kept.
        on_warning: takes a line about a checkpoint that could not be written, or that is damaged; it may be called from
            the writing thread. The line is shown on standard error in any case.

    `damaged` lists what the last `latest()` or `best()` skipped: the folder, and why. `written` is the step of the last
    checkpoint that this object has written and checked, or None; after `wait()`, it tells whether a save succeeded.
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
        """Save a checkpoint, replacing one of the same step.

        In the background, this returns when the tensors are copied to the memory of the CPU, which from then on holds a
        second copy of them; a full disk costs a warning and this checkpoint, and every other failure is raised by the
        next call. In the foreground, nothing is copied, and every failure is raised at once. Either way, the checkpoint
        before is waited for first.

        Checkpoints of later steps are removed: they belong to a continuation that was given up by going back.

        Args:
            step: the optimiser steps that are done.
            tensors: name of the group, name of the tensor, tensor. A group is written to `<group>.safetensors`.
            state: everything else, in plain JSON values.
            background: go on while the files are written.
            score: the validation loss at this step; lower is better.

        Raises:
            LavraError: if this checkpoint (in the foreground) or the one before could not be written.
            TypeError: if the state is not plain JSON, or a tensor has no place in a safetensors file.
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
        # Not a daemon: a program that ends by an error still completes the checkpoint that it has begun.
        self._thread = threading.Thread(target=self._write_behind, args=arguments, name="lavra-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            LavraError: if the last checkpoint could not be written, unless the disk was full (that was a warning).
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, whole or not, in ascending order."""
        return self._folders.steps()

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, with every byte of it checked, or None if there is none at all.

        Those that are damaged or unfinished are named, listed in `damaged`, and skipped.

        Raises:
            Damaged: if there are checkpoints, and none is whole.
        """
        self.wait()
        self.damaged = []
        for folder in self._folders.unfinished():  # no damage: the one before is whole
            self.damaged.append((folder, "its writing was not finished"))
            say(f"checkpoint {folder.name} was not finished and is left aside")
        return self._first_whole(self.steps()[::-1])

    def best(self) -> Checkpoint | None:
        """Return the checkpoint with the lowest score, checked as by `latest`; None if none has a score.

        Raises:
            Damaged: if there are some with a score, and none is whole.
        """
        self.wait()
        self.damaged = []
        scores: dict[int, float] = {}
        for step in self.steps():
            try:
                score = read_manifest(self._folders.of(step)).score
            except Damaged as error:
                self._skip(step, error.message)
                continue
            if score is not None:
                scores[step] = score
        return self._first_whole(sorted(scores, key=lambda step: (scores[step], step)))

    def _first_whole(self, steps: list[int]) -> Checkpoint | None:
        for step in steps:
            try:
                checkpoint = Checkpoint.open(self._folders.of(step))
            except Damaged as error:
                self._skip(step, error.message)
                continue
            self._retention.remember(step, checkpoint.manifest)
            return checkpoint
        if steps:
            reasons = "; ".join(reason for _, reason in self.damaged)
            raise Damaged(
                f"none of the checkpoints in {self.folder} is whole: {reasons}",
                "bring the folder back from a backup, or start the training again",
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
            self._warn(
                "no memory for a second copy of the training state: training waits while a checkpoint is written"
            )
            return None

    def _write_behind(self, step: int, tensors: Groups, text: str, score: float | None) -> None:
        """Write a checkpoint without raising: a full disk is a warning, anything else waits for the next call."""
        try:
            self._write(step, tensors, text, score)
        except OSError as error:
            failure = self._explained(step, error)
            if error.errno in NO_SPACE:
                self._warn(f"{failure.message}; training goes on, the checkpoint before is kept")
            else:
                failure.__cause__, self._failure = error, failure
        except BaseException as error:
            self._failure = error

    def _write(self, step: int, tensors: Groups, text: str, score: float | None) -> None:
        """Write, check and publish a checkpoint, if need be after making room; remove what it makes superfluous."""
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
                "see that the folder exists, is yours to write to, and that its disk is in order; then resume the run",
            )
        try:
            free = f"{show_size(shutil.disk_usage(self.folder).free)} free"
        except OSError:
            free = "free space unknown"
        return LavraError(
            f"DISK FULL: could not write the checkpoint of step {step} to {self.folder} ({error.strerror}; {free})",
            "make room on that disk, or lift the limit on file sizes (ulimit -f), and resume the run: "
            "it goes on from the checkpoint before",
        )

    def _warn(self, text: str) -> None:
        say(f"warning: {text}")
        if self._on_warning is not None:
            try:
                self._on_warning(text)
            except OSError as error:  # the log lies, most likely, on the same full disk
                say(f"warning: that could not be written to the log: {error}")


def _fill(folder: Path, step: int, tensors: Groups, text: str, score: float | None) -> Manifest:
    """Write the files of a checkpoint, and return its manifest once the disk is seen to hold them."""
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
    except Damaged as error:
        raise Damaged(
            f"what the disk gives back is not what was written: {error.message}",
            "the disk or the memory of this machine is failing; resume the run elsewhere",
        ) from error
    return manifest


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf8")
    sync_file(path)
