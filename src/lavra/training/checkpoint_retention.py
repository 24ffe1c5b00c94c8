"""Which checkpoints are kept: the newest whole ones and the best. None goes before a newer one was seen to be whole."""

from __future__ import annotations

from collections.abc import Callable

from lavra.core.errors import Damaged
from lavra.training.checkpoint_folders import CheckpointFolders
from lavra.training.checkpoint_format import Checkpoint, Manifest


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
