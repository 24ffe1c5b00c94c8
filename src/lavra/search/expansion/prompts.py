"""How a passage is put to a query generator; recorded beside the model, so that it is read as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import Damaged

RECORD = "doc2query.json"
"""Name of the record in a run folder and in a model folder."""


@dataclass(frozen=True)
class QueryPrompt:
    """How a generator was trained, as far as using it goes.

    Attributes:
        before: text before the passage.
        after: text between the passage and the query; a decoder goes on from here.
        separator: what ends a query before the end of the text: between the queries of a generator that learned several
            for each passage; empty for none.
        passage_tokens: most tokens of a passage that it was trained on; 0 when that is not known.
        query_tokens: most tokens of a query.
        language: of its passages ("pt", "en", …), empty when that is not known.
        trained_on: name of the collection.
    """

    before: str = ""
    after: str = "\nQuery:"
    separator: str = "\n"
    passage_tokens: int = 0
    query_tokens: int = 64
    language: str = ""
    trained_on: str = ""

    def fill(self, passage: str) -> str:
        """Return the prompt of a passage, white space at its ends left out."""
        return f"{self.before}{passage.strip()}{self.after}"

    def joined(self, queries: Sequence[str]) -> str:
        """Return what follows the prompt of a passage with these queries; each but the first has its own beginning."""
        first = " " if self.after and not self.after[-1].isspace() else ""
        between = self.separator + self.after.removeprefix(self.separator) + first
        return first + between.join(queries)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Record the prompt beside a model."""
        write_json(folder / RECORD, self.to_json())


BARE = QueryPrompt(after="", separator="")
"""The passage alone, as encoder-decoders for this task read it (docTTTTTquery)."""


def is_recorded(location: str) -> bool:
    """Whether a prompt was recorded with the model at `location`, so that it is a query generator already."""
    return _record(location) is not None


def prompt_of(location: str, unknown: QueryPrompt) -> QueryPrompt:
    """Return the prompt that was recorded with a model, or `unknown` when none was.

    Args:
        location: a run, a checkpoint of a run, or a model folder.
        unknown: for models that come without a record.

    Raises:
        Damaged: if the record is not what was written.
    """
    record = _record(location)
    if record is None:
        return unknown
    values = read_json(record)
    if not isinstance(values, dict) or not set(values) <= {field.name for field in fields(QueryPrompt)}:
        raise Damaged(f"{record} is not what lavra writes there", "train the generator again")
    return QueryPrompt(**values)


def _record(location: str) -> Path | None:
    path = Path(location)
    folders = [path, path / "model"]
    if path.parent.name == "checkpoints":
        folders.append(path.parent.parent)
    return next((folder / RECORD for folder in folders if (folder / RECORD).is_file()), None)
