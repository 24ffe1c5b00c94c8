"""Tells by their names which files are for training, for validation and for testing, and which hold no documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lavra.core.errors import InputError
from lavra.data.readers.formats import STRUCTURED, split_name
from lavra.data.readers.locations import DataFile, FoundFiles
from lavra.data.readers.rows import OTHER_VALIDATION, QUERIES, TEST_FILE

Side = Literal["train", "validation", "test"]

_NAMES: dict[str, Side] = {
    **dict.fromkeys(("train", "training", "treino"), "train"),
    **dict.fromkeys(("dev", "devel", "val", "valid", "validation", "validacao"), "validation"),
    **dict.fromkeys(("test", "testing", "teste"), "test"),
}


@dataclass(frozen=True)
class _Named:
    """What the name of a file says.

    Attributes:
        side: Training, validation or test data; None where the name does not say.
        shared: The part of the name that the files of the other sides have too.
    """

    side: Side | None
    shared: tuple[str, ...]


def assign_validation(found: FoundFiles, *, validation: bool) -> None:
    """Mark the files of `found` that are validation data by their names, and leave test data out.

    A name says so by a word of its own (`dev.jsonl`, `news-test.csv`, a file in `validation/`), where the same name
    with "train" is there too, or else other rows in the same folder. Beside a `corpus` and `queries`, as BEIR has them,
    only the corpus is read.

    Args:
        found: The files of some locations, which is changed in place.
        validation: Whether the user named validation data, so that no file is chosen as such by its name.

    Raises:
        InputError: if nothing is left to train on.
    """
    if not found.files:
        return
    files = _without_queries(found)
    named = _by_named_folders(files, [_named(file) for file in files])
    train = {name.shared for name in named if name.side == "train"}
    plain = {file.path.parent for file, name in zip(files, named, strict=True) if name.side is None and _has_rows(file)}
    kept = []
    for file, name in zip(files, named, strict=True):
        known = name.shared in train or (_has_rows(file) and file.path.parent in plain)
        if name.side in (None, "train") or not known:
            kept.append(file)
        elif name.side == "test":
            found.leave_out(Path(file.name), TEST_FILE)
        elif validation:
            found.leave_out(Path(file.name), OTHER_VALIDATION)
        else:
            kept.append(replace(file, is_validation=True))
    found.files = kept
    if all(file.is_validation for file in kept):
        raise InputError("there is nothing to train on beside validation and test data", "name data to train on")


def _has_rows(file: DataFile) -> bool:
    return file.format in STRUCTURED.values()


def _named(file: DataFile) -> _Named:
    """Return what the folders below the one that the user named say, else the words of the file's own name."""
    inside = Path(file.path.name if file.member is None else file.member)
    parts = file.source.split("/")[1:]
    stem = split_name(inside)[0]
    folders: Sequence[str] = parts[:-1] if _has_rows(file) else parts
    top = file.source.split("/")[0] if "/" in file.source else str(file.path.parent)
    for place, folder in enumerate(folders):
        if folder.lower() in _NAMES:
            return _Named(_NAMES[folder.lower()], (top, *folders[:place]))
    words = re.split(r"[-_. ]+", stem.lower())
    for place, word in enumerate(words):
        if word in _NAMES:
            return _Named(_NAMES[word], (str(file.path.parent), *folders, *words[:place]))
    return _Named(None, ())


def _by_named_folders(files: Sequence[DataFile], named: Sequence[_Named]) -> list[_Named]:
    """Return what the names say, else what the folders that the user named say (`lavra train a/train a/test`)."""
    above = [
        _Named(_NAMES.get(file.path.parent.name.lower()), (str(file.path.parent.parent), "folder"))
        if "/" not in file.source and file.member is None
        else _Named(None, ())
        for file in files
    ]
    known = {name.shared for name in above if name.side == "train"}
    return [
        other if name.side is None and other.shared in known else name for name, other in zip(named, above, strict=True)
    ]


def _without_queries(found: FoundFiles) -> list[DataFile]:
    """Return the files without the queries and judgements that a retrieval collection (BEIR) has beside its corpus."""
    stems = {(file.path.parent, split_name(file.path)[0]) for file in found.files if _has_rows(file)}
    folders = {folder for folder, stem in stems if stem == "corpus" and (folder, "queries") in stems}
    kept = []
    for file in found.files:
        beside = file.path.parent in folders and split_name(file.path)[0].startswith("queries")
        judged = file.path.parent.name == "qrels" and file.path.parent.parent in folders
        if beside or judged:
            found.leave_out(Path(file.name), QUERIES)
        else:
            kept.append(file)
    return kept
