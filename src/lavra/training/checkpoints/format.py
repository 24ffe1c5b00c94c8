"""Format of a checkpoint on the disk: its files, and how they are verified and read.

    step-00000120/
        master_weights.safetensors     one file for each group of tensors
        optimizer.safetensors
        state.json              everything that is not a tensor
        manifest.json           size and checksum of each file above, and a checksum of itself; written last

Any change of any byte is detected. Every file must have the size and checksum that the manifest records, and the
manifest itself must be, byte for byte, what lavra would write from its own content.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.core.errors import CorruptFile, InputError
from lavra.training.checkpoints.tensor_files import FileRecord, checksum_file

if TYPE_CHECKING:
    import torch

FORMAT = 2
"""Version of the format; a file with another one is not read."""

MANIFEST = "manifest.json"
"""Names of the manifest and of the file of plain values, and the suffix of the files of tensors."""
STATE = "state.json"
TENSORS = ".safetensors"


@dataclass(frozen=True)
class Manifest:
    """List of the files of a checkpoint.

    Attributes:
        step: Number of optimiser steps done.
        score: Validation loss at this step in nats per token (lower is better); None if it was not measured.
        files: Size and checksum of each file by its name.
    """

    step: int
    score: float | None
    files: dict[str, FileRecord]

    def text(self) -> str:
        """Return the text of `manifest.json`."""
        files = {name: {"size": record.size, "xxh3": record.xxh3} for name, record in sorted(self.files.items())}
        return _with_checksum({"format": FORMAT, "step": self.step, "score": self.score, "files": files})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified to be intact.

    Attributes:
        folder: Folder of the checkpoint.
        manifest: List of its files.
        state: Everything that is not a tensor, as plain JSON values.
    """

    folder: Path
    manifest: Manifest
    state: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, *, from_disk: bool = False) -> Checkpoint:
        """Verify every byte of a checkpoint, and return it.

        Args:
            folder: Folder of the checkpoint, e.g. `runs/mine/checkpoints/step-00000120`.
            from_disk: Whether to drop the page cache first, so that the content of the disk itself is verified.

        Raises:
            CorruptFile: if a file is missing or differs from what was written; the message names the file.
            InputError: if the checkpoint has another version of the format.
        """
        manifest = read_manifest(folder)
        for name, expected in manifest.files.items():
            check_file(folder / name, expected, from_disk=from_disk)
        return cls(folder, manifest, json.loads((folder / STATE).read_text(encoding="utf8")))

    @property
    def step(self) -> int:
        """Number of optimiser steps done."""
        return self.manifest.step

    @property
    def score(self) -> float | None:
        """Validation loss at this step in nats per token; None if it was not measured."""
        return self.manifest.score

    @property
    def groups(self) -> list[str]:
        """Names of the groups of tensors, sorted."""
        return sorted(name.removesuffix(TENSORS) for name in self.manifest.files if name.endswith(TENSORS))

    def load(self, group: str) -> dict[str, torch.Tensor]:
        """Verify and read one group of tensors, and return them by name, on the CPU.

        Args:
            group: Name of the group, such as `master_weights`.

        Raises:
            CorruptFile: if the file changed since the checkpoint was opened.
            KeyError: if there is no such group.
        """
        from safetensors.torch import load_file

        path = self.folder / f"{group}{TENSORS}"
        check_file(path, self.manifest.files[path.name])
        return load_file(path)


def folder_name(step: int) -> str:
    """Return the name of the folder of the checkpoint of a step.

    Examples:
        >>> folder_name(120)
        'step-00000120'
    """
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step in the name of a folder, or None if it is not the name of a checkpoint.

    Examples:
        >>> step_of("step-00000120")
        120
    """
    match = re.fullmatch(r"step-(\d{8,})", name)
    return int(match[1]) if match else None


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint, verify it, compare it with the name of the folder, and return it.

    Raises:
        CorruptFile: if the manifest is missing, differs from what was written, or belongs to another step.
        InputError: if the checkpoint has another version of the format.
    """
    path = folder / MANIFEST
    content = _checked_content(path)
    if content["format"] != FORMAT:
        raise InputError(f"{path} has format {content['format']}, and this lavra reads format {FORMAT}", "update lavra")
    files = {name: FileRecord(**record) for name, record in content["files"].items()}
    manifest = Manifest(content["step"], content["score"], files)
    named = step_of(folder.name)
    if named is not None and named != manifest.step:
        raise CorruptFile(f"{path} is the manifest of step {manifest.step}, not of step {named}")
    return manifest


def _checked_content(path: Path) -> dict[str, Any]:
    """Return the content of a manifest, after verifying that its text is exactly the one that was written."""
    text = _read(path).decode("utf8", errors="replace")
    try:
        content = json.loads(text)
        claimed = content.pop("xxh3")
        as_written = _with_checksum(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptFile(f"{path} is damaged: it is not a manifest ({error})") from error
    if text != as_written:
        raise CorruptFile(f"{path} is damaged: its content is not what was written (checksum {claimed})")
    return content


def check_file(path: Path, expected: FileRecord, *, from_disk: bool = False) -> None:
    """Verify the size and the checksum of a file.

    Args:
        path: File.
        expected: Size and checksum that the file must have.
        from_disk: Whether to drop the page cache first, so that the content of the disk itself is verified.

    Raises:
        CorruptFile: if the file is missing, cannot be read, or differs from what was written.
    """
    try:
        size = path.stat().st_size
        found = checksum_file(path, from_disk=from_disk) if size == expected.size else FileRecord(size, "")
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing") from error
    except OSError as error:
        raise CorruptFile(f"{path} can't be read: {error}") from error
    if found.size != expected.size:
        raise CorruptFile(f"{path} is damaged: it has {found.size} bytes, and {expected.size} were written")
    if found != expected:
        raise CorruptFile(f"{path} is damaged: its content is not what was written (checksum {found.xxh3})")


def state_text(state: Mapping[str, Any]) -> str:
    """Return the state as JSON text, which is read back as equal values.

    Raises:
        TypeError: if a value would be read back as a different one, such as a tuple or a key that is not a string. The
            message names its place.

    Examples:
        >>> state_text({"step": 3})
        '{"step": 3}\\n'
    """
    _check_plain(state, "state")
    return json.dumps(state) + "\n"


def _check_plain(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}: keys in JSON are strings")
            _check_plain(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_plain(inner, f"{place}[{number}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{place} is a {type(value).__name__}, which JSON would not give back unchanged")


def finite_or_none(score: float | None) -> float | None:
    """Return the score, or None for one that cannot be compared, such as the NaN of a diverged run."""
    return score if score is not None and math.isfinite(score) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing") from error
    except OSError as error:
        raise CorruptFile(f"{path} can't be read: {error}") from error


def _with_checksum(content: dict[str, Any]) -> str:
    """Return the content as JSON text, whose last entry is the checksum of all others."""
    import xxhash

    checksum = xxhash.xxh3_128_hexdigest(json.dumps(content).encode())
    return json.dumps(content | {"xxh3": checksum}, indent=1) + "\n"
