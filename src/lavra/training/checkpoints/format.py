"""A checkpoint on the disk: which files it has, how it is checked, and how it is read.

    step-00000120/
        masters.safetensors     one file for each group of tensors
        optimizer.safetensors
        state.json              everything that is no tensor
        manifest.json           the size and checksum of each file above, and a checksum of itself; written last

Whatever a disk or a copy can do to these files is found: the manifest must be, byte for byte, what we would write from
what it says, so that no byte of it is without effect, and every other file must have the size and checksum it says.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.errors import Damaged, InputError
from lavra.training.checkpoints.tensor_files import FileRecord, checksum_file

if TYPE_CHECKING:
    import torch

FORMAT = 1
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", ".safetensors"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    `score` is the validation loss (nats per token; lower is better) at `step`, if one was measured; `files` maps each
    file's name to its record.
    """

    step: int
    score: float | None
    files: dict[str, FileRecord]

    def text(self) -> str:
        """Return the manifest as it is written."""
        files = {name: {"size": record.size, "xxh3": record.xxh3} for name, record in sorted(self.files.items())}
        return _with_checksum({"format": FORMAT, "step": self.step, "score": self.score, "files": files})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    manifest: Manifest
    state: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, *, from_disk: bool = False) -> Checkpoint:
        """Check every byte of the checkpoint in `folder`, and return it.

        Args:
            folder: e.g. `runs/mine/checkpoints/step-00000120`.
            from_disk: check what the disk holds, not what the system remembers of it.

        Raises:
            Damaged: naming the file and what is wrong with it.
            InputError: if a newer version of lavra wrote it.
        """
        manifest = read_manifest(folder)
        for name, expected in manifest.files.items():
            check_file(folder / name, expected, from_disk=from_disk)
        return cls(folder, manifest, json.loads((folder / STATE).read_text(encoding="utf8")))

    @property
    def step(self) -> int:
        """The optimiser steps that were done."""
        return self.manifest.step

    @property
    def score(self) -> float | None:
        """The validation loss (nats per token) at this step, if one was measured."""
        return self.manifest.score

    @property
    def groups(self) -> list[str]:
        """The names of the groups of tensors."""
        return sorted(name.removesuffix(TENSORS) for name in self.manifest.files if name.endswith(TENSORS))

    def load(self, group: str) -> dict[str, torch.Tensor]:
        """Return the tensors of one group, on the CPU, checked once more.

        Raises:
            Damaged: if the file is no longer what it was when the checkpoint was opened.
            KeyError: if there is no such group.
        """
        from safetensors.torch import load_file

        path = self.folder / f"{group}{TENSORS}"
        check_file(path, self.manifest.files[path.name])
        return load_file(path)


def folder_name(step: int) -> str:
    """Return the name of the folder of the checkpoint of `step`."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step that a folder's name says, or None if it is no name of a checkpoint."""
    match = re.fullmatch(r"step-(\d{8,})", name)
    return int(match[1]) if match else None


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint, and check it against itself and against the folder's name.

    Raises:
        Damaged: if it is missing or not what was written.
        InputError: if a newer version of lavra wrote it.
    """
    path = folder / MANIFEST
    content = _checked_content(path)
    if content["format"] != FORMAT:
        raise InputError(f"{path} has format {content['format']}, and this lavra reads format {FORMAT}", "update lavra")
    files = {name: FileRecord(**record) for name, record in content["files"].items()}
    manifest = Manifest(content["step"], content["score"], files)
    named = step_of(folder.name)
    if named is not None and named != manifest.step:
        raise Damaged(f"{path} is the manifest of step {manifest.step}, not of step {named}")
    return manifest


def _checked_content(path: Path) -> dict[str, Any]:
    """Return what a manifest says, if its text is exactly the one that was written."""
    text = _read(path).decode("utf8", errors="replace")
    try:
        content = json.loads(text)
        claimed = content.pop("xxh3")
        as_written = _with_checksum(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{path} is damaged: it does not read as a manifest ({error})") from error
    if text != as_written:
        raise Damaged(f"{path} is damaged: its content is not what was written (checksum {claimed})")
    return content


def check_file(path: Path, expected: FileRecord, *, from_disk: bool = False) -> None:
    """Compare a file with its record.

    Raises:
        Damaged: naming the file and what is wrong with it.
    """
    try:
        size = path.stat().st_size
        found = checksum_file(path, from_disk=from_disk) if size == expected.size else FileRecord(size, "")
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except OSError as error:
        raise Damaged(f"{path} can't be read: {error}") from error
    if found.size != expected.size:
        raise Damaged(f"{path} is damaged: it has {found.size} bytes, and {expected.size} were written")
    if found != expected:
        raise Damaged(f"{path} is damaged: its content is not what was written (checksum {found.xxh3})")


def state_text(state: Mapping[str, Any]) -> str:
    """Return the state as JSON that reads back equal.

    Raises:
        TypeError: naming the place of a value that would come back different: a tuple, a key that is no text.
    """
    _check_plain(state, "state")
    return json.dumps(state) + "\n"


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}: JSON has only text for keys")
            _check_plain(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_plain(inner, f"{place}[{number}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{place} is a {type(value).__name__}, which would not come back from JSON as it was")


def finite_or_none(score: float | None) -> float | None:
    """Return the score, or None for one that can't be compared (a diverged validation)."""
    return score if score is not None and math.isfinite(score) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except OSError as error:
        raise Damaged(f"{path} can't be read: {error}") from error


def _with_checksum(content: dict[str, Any]) -> str:
    """Return the content as JSON, with the checksum of itself as its last entry."""
    import xxhash

    checksum = xxhash.xxh3_128_hexdigest(json.dumps(content).encode())
    return json.dumps(content | {"xxh3": checksum}, indent=1) + "\n"
