"""Which text a run learns from: where it lies, from wherever one looks, and by what it is known again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.disk.json_lines import one_line
from lavra.core.errors import Damaged, InputError
from lavra.data.token_store.prepare import TRAIN, VALIDATION

FILE = "text.json"
_MANIFEST = "manifest.json"


def write_text_record(run: Path, folder: Path) -> None:
    """Write down, in the folder of a run, where its prepared text lies and by what it is known again.

    Args:
        run: the run's folder.
        folder: of the prepared text or examples, in the run or elsewhere.
    """
    place = {"folder": str(folder.resolve()), "from_the_run": os.path.relpath(folder.resolve(), run.resolve())}
    write_json(run / FILE, {**place, **text_fingerprints(folder)})


def text_fingerprints(folder: Path) -> dict[str, str]:
    """Return what tells the text of a prepared folder from any other: a hash of each store's tokens, and of its words.

    Raises:
        Damaged: if a manifest is missing or damaged.
    """
    found: dict[str, str] = {}
    for side in (TRAIN, VALIDATION):
        manifest = read_json(folder / side / _MANIFEST)
        try:
            hashes, tokenizer = dict(manifest["hashes"]), str(manifest["tokenizer_fingerprint"])
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{folder / side / _MANIFEST} is damaged: {error!r}", "prepare the text again") from error
        found[side] = hashlib.blake2b(one_line(sorted(hashes.items())).encode(), digest_size=16).hexdigest()
        found["tokenizer"] = tokenizer
    return found


def recorded_folder(run: Path) -> Path | None:
    """Return where the text of a run lies now; None for a run without a record, which was stopped before it had text.

    It is looked for in the run, at its place relative to the run, and at its place on this machine, so that a run may
    be moved alone or together with its text.

    Raises:
        InputError: if it is in none of these places, or what is there now is another text.
        Damaged: if the record is.
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
        "bring the folder of then back, or train anew; a run never goes on with another text",
    )


def _places(record: Any, run: Path) -> list[Path]:
    try:
        return [Path(os.path.normpath(run.absolute() / str(record["from_the_run"]))), Path(str(record["folder"]))]
    except (KeyError, TypeError) as error:
        raise Damaged(f"{run / FILE} is damaged: {error!r}", "bring the file back from a copy of the run") from error


def _difference(record: dict[str, Any], found: dict[str, str]) -> str:
    """Return in words what is different; empty where nothing is."""
    names = {"tokenizer": "its tokenizer", TRAIN: "its text to train on", VALIDATION: "its held-out text"}
    other = [words for name, words in names.items() if record.get(name) != found.get(name)]
    return f"{' and '.join(other)} differ{'s' if len(other) == 1 else ''}" if other else ""
