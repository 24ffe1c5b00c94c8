"""The manifest of an index: the one small file that says which files belong to it. Replacing it is the commit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lavra.core.errors import Damaged, InputError
from lavra.core.files import read_json, write_json
from lavra.search.settings import IndexSettings

FORMAT = 2
NAME = "index.json"

LATER = (NAME, "lock", "segment-*", "postings-*", "vocabulary-*", ".segment-*", ".postings-*", ".vocabulary-*")
"""All that is ever written into the folder of an index, as patterns for its mark."""


@dataclass
class Manifest:
    """What an index folder holds.

    Attributes:
        settings: as JSON, see `IndexSettings`.
        analyzer: fingerprint of the analyzer that counted the terms.
        segments: folders of the segments, oldest first; also those of an update that did not finish.
        vocabulary: files whose lines together are the terms, in the order of their numbers.
        postings: folder of the postings that are searched; empty before the first commit.
        searchable: number of segments that the postings cover; the others belong to an update that did not finish.
        next_number: for the names of new files.
    """

    settings: dict[str, Any]
    analyzer: str
    segments: list[str] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    postings: str = ""
    searchable: int = 0
    next_number: int = 1
    format: int = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index.

        Raises:
            InputError: if `folder` is no index, was written by a newer lavra, or its analysis has changed since.
            Damaged: if the manifest does not parse.
        """
        if not (folder / NAME).is_file():
            raise InputError(f"{folder} is no search index", "make one with `lavra index`")
        fields = read_json(folder / NAME)
        if fields.get("format") != FORMAT:
            raise InputError(
                f"{folder} has the index format {fields.get('format')}, this lavra reads {FORMAT}",
                "make the index again, or install the lavra that wrote it",
            )
        try:
            manifest = cls(**fields)
        except TypeError as error:
            raise Damaged(f"{folder / NAME} is damaged: {error}") from error
        if IndexSettings.from_json(manifest.settings).analyzer.fingerprint != manifest.analyzer:
            raise InputError(
                f"{folder} was made with another version of the analyzer (stop words or stemmer have changed)",
                "make the index again with --force",
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Replace the manifest in one step; this is the moment at which a change takes effect."""
        write_json(folder / NAME, asdict(self))

    def new_name(self, kind: str) -> str:
        """Return a name that no file of the index has had."""
        name = f"{kind}-{self.next_number:06d}"
        self.next_number += 1
        return name

    def unused(self, folder: Path) -> list[Path]:
        """Return what lies in the folder but belongs to no committed state: leftovers of a killed process."""
        used = {NAME, "lock", self.postings, *self.segments, *self.vocabulary}
        kinds = ("segment-", "postings-", "vocabulary-", ".segment-", ".postings-", ".vocabulary-", f".{NAME}.")
        return [path for path in folder.iterdir() if path.name not in used and path.name.startswith(kinds)]
