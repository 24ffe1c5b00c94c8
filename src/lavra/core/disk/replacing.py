"""Decides what a command may replace: only what lavra made, as a mark in it says, and never what the command reads.

Every folder that lavra makes holds a mark, `.lavra.json`, with the names of what lavra writes into it. A folder without
the mark, or with anything in it that the mark does not name, belongs to somebody else, and `--force` does not touch it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lavra.core.errors import InputError

MARK = ".lavra.json"
"""Name of the file that says that lavra made the folder in which it lies."""

# Names of the files that file managers leave in every folder that they show; they may be removed with it.
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})

# Matches a file that was being written when its process was killed: `.plan.json.x8f3a` for `plan.json`.
_HALF_WRITTEN = re.compile(r"(?P<folder>(?:.*/)?)\.(?P<name>[^/]+)\.[^/.]+")

# Matches a folder that was being made when its process was killed, and the lock of such a folder.
_REMAINS = re.compile(r"\..+\.(?:building-.+|lock)")

_CHOOSE = "choose another --out"
_NAMED = 3  # files of somebody else that a message names at most


def write_mark(folder: Path, kind: str, later: Sequence[str] = (), request: str = "") -> None:
    """Write the mark into a folder that lavra made: it names what is there now.

    Args:
        folder: The folder, which must exist.
        kind: What the folder is, for people: "run", "prepared text".
        later: Patterns of the relative paths of the files that lavra may write there later. `checkpoints/step-*` covers
            everything below such a folder too.
        request: Fingerprint of everything that decided the folder's content, see `was_made_by`.
    """
    there = sorted(_relative(path, folder) for path in folder.rglob("*") if not path.is_dir())
    values = {"made_by": "lavra", "kind": kind, "files": there, "later": list(later), "request": request}
    (folder / MARK).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf8")


def was_made_by(folder: Path, request: str) -> bool:
    """Return whether a folder is complete and was made by the request with this fingerprint.

    So a command that is repeated, because it was killed just after it finished, finds that nothing is left to do.
    """
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf8"))
        same = mark["request"] == request and all((folder / name).is_file() for name in mark["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return bool(request) and same and strange_files(folder) == []


def check_replaceable(
    path: Path, *, force: bool, inputs: Iterable[str | Path] = (), remedy: str = "", ours: bool = False
) -> None:
    """Raise an error unless a command may make the folder `path`.

    It may if nothing is there, or an empty folder, or, with `force`, a folder that lavra made.

    Args:
        path: The folder to make.
        force: Whether the user allows to replace what is there.
        inputs: Files, folders, globs and models that the command reads; a folder that holds one is never replaced.
        remedy: What the error tells the user to do where `force` would help; a sentence about `--force` by default.
        ours: The place lies in a folder that lavra made and belongs to lavra, whatever is in it.

    Raises:
        InputError: if something else is there, or a folder that lavra made and `force` is false.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a link, and a link is never replaced", "name the folder itself, or another --out")
    if not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    _refuse_what_is_needed(path, inputs)
    if not path.is_dir():
        raise InputError(f"{path} is a file, and a folder is to be made there", _CHOOSE)
    if ours:
        return
    _refuse_strangers(path)
    if not force:
        raise InputError(f"{path} exists already", remedy or f"{_CHOOSE}, or add --force to replace it")


def check_replaceable_file(path: Path, *, force: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raise an error unless a command may write the file `path`.

    It may if nothing is there, or, with `force`, a plain file that the command does not read.

    Args:
        path: The file to write.
        force: Whether the user allows to replace what is there.
        inputs: Files, folders, globs and models that the command reads; none of them is ever replaced.

    Raises:
        InputError: if a folder, a link or something that the command reads is there, or a file and `force` is false.
    """
    if path.is_symlink():
        raise InputError(f"{path} is a link, and a link is never replaced", "name the file itself, or another one")
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name the file to write")
    if not path.exists():
        return
    if not path.is_file():
        raise InputError(f"{path} is no plain file", "name another file")
    _refuse_what_is_needed(path, inputs)
    if not force:
        raise InputError(f"{path} exists already", "choose another file, or add --force to replace it")


def strange_files(folder: Path) -> list[str] | None:
    """Return the relative paths of the files in a folder that its mark does not name.

    The files of a subfolder that has a mark of its own are compared with that mark.

    Returns:
        The paths, or None if the folder has no readable mark of lavra.
    """
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf8"))
        names, patterns = {str(name) for name in mark["files"]}, [str(name) for name in mark["later"]]
        if mark["made_by"] != "lavra":
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None

    def is_ours(name: str) -> bool:
        half = _HALF_WRITTEN.fullmatch(name)
        name = half["folder"] + half["name"] if half else name
        return name in names or any(fnmatchcase(name, pattern) for pattern in patterns)

    return [name for name in _unanswered(folder, folder) if not is_ours(name)]


def _unanswered(folder: Path, top: Path) -> list[str]:
    """Return the relative paths of the files below a folder that have to be named by the mark of the folder `top`.

    Of subfolders with marks of their own, only the files that these marks do not name are among them.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name in _LITTER or path.name == MARK or _REMAINS.fullmatch(path.name):
            continue
        if not path.is_dir() or path.is_symlink():
            found.append(_relative(path, top))
            continue
        strange = strange_files(path)
        if strange is None:
            found += _unanswered(path, top)
        else:
            found += [_relative(path / name, top) for name in strange]
    return found


def _refuse_strangers(path: Path) -> None:
    strange = strange_files(path)
    if strange is None:
        raise InputError(
            f"{path} exists and is no folder that lavra made (it has no {MARK}); no other is ever replaced",
            f"{_CHOOSE}, or remove the folder yourself",
        )
    if strange:
        more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
        raise InputError(
            f"{path} holds what lavra did not make: {', '.join(strange[:_NAMED])}{more}",
            f"move that away, or {_CHOOSE}",
        )


def _refuse_what_is_needed(path: Path, inputs: Iterable[str | Path]) -> None:
    place = path.resolve()
    for what, needed in (("the folder in which you are", Path.cwd()), ("your home folder", Path.home())):
        if _holds(place, needed.resolve()):
            raise InputError(f"{path} is or holds {what}, and is not replaced", _CHOOSE)
    for given in inputs:
        needed = _fixed_part(str(given))
        if needed is not None and _holds(place, needed.resolve()):
            raise InputError(f"{path} is or holds {given}, which this command reads, and is not replaced", _CHOOSE)


def _holds(place: Path, needed: Path) -> bool:
    return place == needed or place in needed.parents


def _fixed_part(location: str) -> Path | None:
    """Return the part of a location before its first wildcard, if it is there on this machine."""
    path = Path(location)
    if path.exists():
        return path
    parts = []
    for part in path.parts:
        if _is_pattern(part):
            break
        parts.append(part)
    else:
        return None
    fixed = Path(*parts)
    return fixed if fixed.exists() else None


def _is_pattern(name: str) -> bool:
    return re.search(r"[*?\[]", name) is not None


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
