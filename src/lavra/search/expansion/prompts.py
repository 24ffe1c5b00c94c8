"""The prompt of a query generator, which is recorded beside the model, so that it is used as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile

RECORD = "doc2query.json"
"""Name of the record in the folder of a run and of a model."""


@dataclass(frozen=True)
class QueryPrompt:
    """The prompt of a query generator, and what else has to be known of its training to use it.

    Attributes:
        before: The text before the passage.
        after: The text between the passage and the query, from which a decoder continues.
        separator: The text that ends a query, for a generator that learned several queries for each passage; an empty
            string for none.
        passage_tokens: Most tokens of a passage in training; 0 when that is not known.
        query_tokens: Most tokens of a query.
        language: Language of the passages ("pt", "en", …); an empty string when it is not known.
        trained_on: The name of the collection.

    Examples:
        >>> prompt = QueryPrompt()
        >>> prompt.fill("The river is long. "), prompt.joined(["how long"])
        ('The river is long.\\nQuery:', ' how long')
    """

    before: str = ""
    after: str = "\nQuery:"
    separator: str = "\n"
    passage_tokens: int = 0
    query_tokens: int = 64
    language: str = ""
    trained_on: str = ""

    def fill(self, passage: str) -> str:
        """Return the prompt for a passage, without the white space at the passage's ends."""
        return f"{self.before}{passage.strip()}{self.after}"

    def joined(self, queries: Sequence[str]) -> str:
        """Return the training text after the prompt: the queries, each but the first after `separator` and `after`."""
        first = " " if self.after and not self.after[-1].isspace() else ""
        between = self.separator + self.after.removeprefix(self.separator) + first
        return first + between.join(queries)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Record the prompt in the folder of a model or of a run."""
        write_json(folder / RECORD, self.to_json())


BARE = QueryPrompt(after="", separator="")
"""The prompt that is the passage alone, as encoder-decoders for this task read it (docTTTTTquery)."""


def is_recorded(location: str) -> bool:
    """Return whether the model at a location has a recorded prompt, and so is a query generator already."""
    return _record(location) is not None


def prompt_of(location: str, unknown: QueryPrompt) -> QueryPrompt:
    """Return the prompt that was recorded with a model.

    Args:
        location: The location of the model: a run, a checkpoint of a run, or a model folder.
        unknown: The prompt to return for a model without a record.

    Raises:
        CorruptFile: If the record is not as lavra writes it.
    """
    record = _record(location)
    if record is None:
        return unknown
    values = read_json(record)
    if not isinstance(values, dict) or not set(values) <= {field.name for field in fields(QueryPrompt)}:
        raise CorruptFile(f"{record} is not what lavra writes there", "train the generator again")
    return QueryPrompt(**values)


def _record(location: str) -> Path | None:
    path = Path(location)
    folders = [path, path / "model"]
    if path.parent.name == "checkpoints":
        folders.append(path.parent.parent)
    return next((folder / RECORD for folder in folders if (folder / RECORD).is_file()), None)
