"""The folders of a run's checkpoints: their names, every renaming and removal, and which of them are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from lavra.core.disk.files import sync_folder
from lavra.core.errors import Damaged
from lavra.training.checkpoints.format import Checkpoint, Manifest, folder_name, step_of
from lavra.training.fault_injection import fault_point

# What a hidden folder is: being written, replaced by a new one of the same step, or being removed.
_WRITING, _REPLACED, _REMOVING = ".writing", ".replaced", ".removing"


class CheckpointFolders:
    """The visible folders `step-00000120` and the hidden ones beside them.

    Args:
        root: the folder that holds them; made when the first is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def steps(self) -> list[int]:
        """Return the steps that have a folder, in ascending order; whether it is whole is not looked at."""
        if not self.root.is_dir():
            return []
        names = (path.name for path in self.root.iterdir() if path.is_dir())
        found = (step_of(name[1:].removesuffix(_REPLACED) if _is_replaced(name) else name) for name in names)
        return sorted({step for step in found if step is not None})

    def of(self, step: int) -> Path:
        """Return the folder of a step, which is hidden if the process was killed while it replaced it."""
        visible, replaced = self.root / folder_name(step), self._hidden(step, _REPLACED)
        return replaced if replaced.exists() and not visible.exists() else visible

    def unfinished(self) -> list[Path]:
        """Return the hidden folders whose writing was cut short, or is under way in another process."""
        return sorted(self.root.glob(f".step-*{_WRITING}"))

    def begin(self, step: int) -> Path:
        """Make and return the hidden folder in which the checkpoint of `step` is to be written."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        writing = self._hidden(step, _WRITING)
        writing.mkdir()
        return writing

    def discard(self, step: int) -> None:
        """Remove what was begun and can't be completed."""
        shutil.rmtree(self._hidden(step, _WRITING), ignore_errors=True)

    def publish(self, step: int) -> None:
        """Give the folder that was begun its name, durably; one that has the name already goes only after that."""
        visible = self.root / folder_name(step)
        fault_point("checkpoint.before_rename")
        if visible.exists():
            os.rename(visible, self._hidden(step, _REPLACED))
            fault_point("checkpoint.between_renames")
        os.rename(self._hidden(step, _WRITING), visible)
        sync_folder(self.root)
        fault_point("checkpoint.after_rename")

    def remove(self, step: int) -> None:
        """Remove the folder of a step; if this is cut short, no half of it is left under its name."""
        removing = self._hidden(step, _REMOVING)
        os.rename(self.of(step), removing)
        fault_point("checkpoint.half_removed")
        shutil.rmtree(removing)

    def sweep(self) -> None:
        """Remove what earlier work left hidden; a checkpoint that was not replaced after all gets its name back."""
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
    """Remembers which checkpoints are whole, and removes those that are superfluous.

    Args:
        folders: the folders of the checkpoints.
        keep: how many of the newest are kept.
        warn: takes a line about what is lost.
    """

    def __init__(self, folders: CheckpointFolders, keep: int, warn: Callable[[str], None]) -> None:
        self._folders, self._keep, self._warn = folders, keep, warn
        self._whole: dict[int, Manifest] = {}

    def remember(self, step: int, manifest: Manifest) -> None:
        """Note that every byte of the checkpoint of `step` was checked."""
        self._whole[step] = manifest

    def forget(self, step: int) -> None:
        """Note that the checkpoint of `step` is damaged."""
        self._whole.pop(step, None)

    def trim(self, newest: int) -> None:
        """Remove what the checkpoint of `newest`, just checked, makes superfluous."""
        self._remove_all_but(self._keep, newest)

    def make_room(self) -> bool:
        """Remove all but the newest whole checkpoint, checked anew, and the best; return whether there were others."""
        for newest in self._folders.steps()[::-1]:
            try:
                self.remember(newest, Checkpoint.open(self._folders.of(newest), from_disk=True).manifest)
            except Damaged:
                continue
            removed = self._remove_all_but(1, newest)
            if removed:
                self._warn(f"disk full: removed the checkpoints of steps {removed}; that of step {newest} is whole")
            return bool(removed)
        return False

    def _remove_all_but(self, keep: int, newest: int) -> list[int]:
        """Remove all but the last `keep` whole checkpoints up to `newest`, and the best; return the removed steps."""
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
        """Look at the checkpoints that an earlier process left, so that none that is damaged counts as one to keep."""
        for step in self._folders.steps():
            if step < newest and step not in self._whole:
                try:
                    self.remember(step, Checkpoint.open(self._folders.of(step)).manifest)
                except Damaged as error:
                    self._warn(f"a damaged checkpoint is removed, now that a newer one is safe: {error.message}")
