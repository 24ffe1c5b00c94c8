"""The folders of the checkpoints of a run: their names, renaming and removal, and which checkpoints are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lavra.core.disk.files import sync_folder
from lavra.core.errors import CorruptFile
from lavra.training.checkpoints.format import Checkpoint, Manifest, folder_name, step_of
from lavra.training.fault_injection import fault_point

_WRITING = ".writing"
"""Suffixes that tell why a folder is hidden: it is being written, it was replaced by a new one of the same step, or it
is being removed."""
_REPLACED = ".replaced"
_REMOVING = ".removing"


class CheckpointFolders:
    """The visible folders of checkpoints, such as `step-00000120`, and the hidden ones beside them.

    Args:
        root: Folder that contains them; it is made when the first checkpoint is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def steps(self) -> list[int]:
        """Return the steps that have a folder, in ascending order, without verifying the folders."""
        if not self.root.is_dir():
            return []
        names = (path.name for path in self.root.iterdir() if path.is_dir())
        found = (step_of(name[1:].removesuffix(_REPLACED) if _is_replaced(name) else name) for name in names)
        return sorted({step for step in found if step is not None})

    def of(self, step: int) -> Path:
        """Return the folder of a step; it is a hidden one if the process was killed while replacing it."""
        visible, replaced = self.root / folder_name(step), self._hidden(step, _REPLACED)
        return replaced if replaced.exists() and not visible.exists() else visible

    def unfinished(self) -> list[Path]:
        """Return the hidden folders whose writing was interrupted, or is in progress in another process."""
        return sorted(self.root.glob(f".step-*{_WRITING}"))

    def begin(self, step: int) -> Path:
        """Make and return the hidden folder into which the checkpoint of `step` is to be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        writing = self._hidden(step, _WRITING)
        writing.mkdir()
        return writing

    def discard(self, step: int) -> None:
        """Remove the hidden folder of a checkpoint that could not be completed."""
        shutil.rmtree(self._hidden(step, _WRITING), ignore_errors=True)

    def publish(self, step: int) -> None:
        """Rename the folder that `begin` made to its final name, durably.

        A folder that has this name already is moved aside first, and removed only by the next `sweep`, so that there is
        a complete checkpoint of this step at every moment.
        """
        visible = self.root / folder_name(step)
        fault_point("checkpoint.before_rename")
        if visible.exists():
            os.rename(visible, self._hidden(step, _REPLACED))
            fault_point("checkpoint.between_renames")
        os.rename(self._hidden(step, _WRITING), visible)
        sync_folder(self.root)
        fault_point("checkpoint.after_rename")

    def remove(self, step: int) -> None:
        """Remove the folder of a step; it is renamed first, so that an interruption leaves no incomplete checkpoint."""
        removing = self._hidden(step, _REMOVING)
        os.rename(self.of(step), removing)
        fault_point("checkpoint.half_removed")
        shutil.rmtree(removing)

    def sweep(self) -> None:
        """Remove hidden folders of earlier work; a checkpoint whose replacement was interrupted gets its name back."""
        for hidden in self.root.glob(".step-*"):
            visible = self.root / hidden.name[1:].partition(".")[0]
            if _is_replaced(hidden.name) and not visible.exists():
                os.rename(hidden, visible)
            elif hidden.name.endswith((_WRITING, _REPLACED, _REMOVING)):
                shutil.rmtree(hidden)
        sync_folder(self.root)

    def _hidden(self, step: int, suffix: str) -> Path:
        return self.root / f".{folder_name(step)}{suffix}"


def _is_replaced(name: str) -> bool:
    return name.startswith(".") and name.endswith(_REPLACED)


class Retention:
    """Retention policy: records which checkpoints are intact, and removes superfluous ones.

    Args:
        folders: Folders of the checkpoints.
        keep: Number of the newest intact checkpoints that are kept, besides the one with the best score.
        warn: Function that receives a line about checkpoints that are damaged, or removed to free space.
    """

    def __init__(self, folders: CheckpointFolders, keep: int, warn: Callable[[str], None]) -> None:
        self._folders, self._keep, self._warn = folders, keep, warn
        self._whole: dict[int, Manifest] = {}

    def remember(self, step: int, manifest: Manifest) -> None:
        """Record that the checkpoint of `step` was verified and is intact."""
        self._whole[step] = manifest

    def forget(self, step: int) -> None:
        """Record that the checkpoint of `step` is damaged."""
        self._whole.pop(step, None)

    def trim(self, newest: int) -> None:
        """Remove the checkpoints that are superfluous now that the one of step `newest` is verified."""
        self._remove_all_but(self._keep, newest)

    def make_room(self) -> bool:
        """Remove all but the newest intact checkpoint, verified anew, and the best; return whether any was removed."""
        for newest in self._folders.steps()[::-1]:
            try:
                self.remember(newest, Checkpoint.open(self._folders.of(newest), from_disk=True).manifest)
            except CorruptFile:
                continue
            removed = self._remove_all_but(1, newest)
            if removed:
                self._warn(f"disk full: removed the checkpoints of steps {removed}; that of step {newest} is intact")
            return bool(removed)
        return False

    def _remove_all_but(self, keep: int, newest: int) -> list[int]:
        """Remove all but the last `keep` intact checkpoints up to `newest`, and the best; return the removed steps."""
        self._check_older(newest)
        steps = self._folders.steps()
        whole = [step for step in steps if step in self._whole and step <= newest]
        kept = set(whole[-keep:])
        scores = {step: score for step in whole if (score := self._whole[step].score) is not None}
        if scores:
            kept.add(min(scores, key=lambda step: (scores[step], step)))
        superfluous = [step for step in steps if step not in kept]
        for step in superfluous:
            self._folders.remove(step)
            self.forget(step)
        return superfluous

    def _check_older(self, newest: int) -> None:
        """Verify checkpoints that an earlier process wrote, so that no damaged one counts as one that is kept."""
        for step in self._folders.steps():
            if step < newest and step not in self._whole:
                try:
                    self.remember(step, Checkpoint.open(self._folders.of(step)).manifest)
                except CorruptFile as error:
                    self._warn(f"a damaged checkpoint is removed, since a newer one is intact: {error.message}")
