"""The record of a run's text: where it lies, also after the run has been moved, and how it is recognised."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import CorruptFile, InputError
from lavra.data.token_store.prepare import TRAIN, VALIDATION

FILE = "text.json"
"""Name of the record in the folder of a run."""

_MANIFEST = "manifest.json"
"""Name of the manifest in the folder of a token store."""


def write_text_record(run: Path, folder: Path) -> None:
    """Record in the folder of a run where its prepared text lies, and the fingerprints by which it is recognised.

    Args:
        run: The folder of the run, which gets `text.json`.
        folder: The folder of the prepared text or examples, in the run or elsewhere.
    """
    place = {"folder": str(folder.resolve()), "from_the_run": os.path.relpath(folder.resolve(), run.resolve())}
    write_json(run / FILE, {**place, **text_fingerprints(folder)})


def text_fingerprints(folder: Path) -> dict[str, str]:
    """Return the fingerprints of the text in a prepared folder.

    Args:
        folder: The folder of prepared text or examples.

    Returns:
        A hash of the tokens of `train` and of `validation`, and the fingerprint of the `tokenizer`.

    Raises:
        CorruptFile: If a manifest is missing or damaged.
    """
    found: dict[str, str] = {}
    for side in (TRAIN, VALIDATION):
        manifest = read_json(folder / side / _MANIFEST)
        try:
            hashes, tokenizer = dict(manifest["hashes"]), str(manifest["tokenizer_fingerprint"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"{folder / side / _MANIFEST} is damaged: {error!r}", "prepare the text again") from error
        found[side] = hashlib.blake2b(one_line(sorted(hashes.items())).encode(), digest_size=16).hexdigest()
        found["tokenizer"] = tokenizer
    return found


def recorded_folder(run: Path) -> Path | None:
    """Return the folder in which the text of a run lies now.

    It is looked for in the run, at its old place relative to the run, and at its old absolute place, so that a run may
    be moved alone or together with its text.

    Args:
        run: The folder of the run.

    Returns:
        The folder; None for a run without a record, which was stopped before its text was prepared.

    Raises:
        InputError: If the text is in none of these places, or another text is there now.
        CorruptFile: If the record is damaged.
    """
    if not (run / FILE).exists():
        return None
    record = read_json(run / FILE)
    places = [run / "data", *_places(record, run)]
    there = [place for place in dict.fromkeys(places) if (place / TRAIN / _MANIFEST).exists()]
    if not there:
        raise InputError(f"the text of the run is gone: {places[-1]}", "bring the folder back, or train anew")
    differing = {place: _difference(record, text_fingerprints(place)) for place in there}
    for place, difference in differing.items():
        if not difference:
            return place
    place, difference = next(iter(differing.items()))
    raise InputError(
        f"{place} is not the text that {run} learned from: {difference}",
        "restore that folder, or train a new run; a run is never resumed with another text",
    )


def _places(record: Any, run: Path) -> list[Path]:
    try:
        return [Path(os.path.normpath(run.absolute() / str(record["from_the_run"]))), Path(str(record["folder"]))]
    except (KeyError, TypeError) as error:
        raise CorruptFile(
            f"{run / FILE} is damaged: {error!r}", "bring the file back from a copy of the run"
        ) from error


def _difference(record: dict[str, Any], found: dict[str, str]) -> str:
    """Return in words what is different; an empty string where nothing is."""
    names = {"tokenizer": "its tokenizer", TRAIN: "its training text", VALIDATION: "its validation text"}
    other = [words for name, words in names.items() if record.get(name) != found.get(name)]
    return f"{' and '.join(other)} differ{'s' if len(other) == 1 else ''}" if other else ""
