"""Rows that cannot be used: counted by kind, the first few of each kind remembered with their file and line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from lavra.core.errors import InputError

OnBadRow = Literal["skip", "error"]
"""What to do with a row that cannot be used: leave it out and count it, or stop with an `InputError`."""

EXAMPLES = 5
"""How many places are remembered for each kind."""

BROKEN_UTF8 = "broken UTF-8"
EMPTY = "empty document"
NUL = "NUL byte"
MISSING_COLUMN = "missing column"
NOT_TEXT = "not text"
BAD_JSON = "bad JSON"
BAD_CSV = "bad CSV"
TOO_LONG = "line too long"
NO_PART_TO_LEARN = "no part to learn"
ANSWER_TOO_LONG = "answer longer than the context"
REFUSED_CHAT = "chat that the template refuses"
FAILING_TEMPLATE = "chat on which the template fails"
UNUSABLE_TURN = "chat with a part that cannot be used"
UNWRITTEN_PART = "chat with a part that the template does not write"
SPELLED_TOKEN = "chat that spells a special token"

_REMEDIES = {
    BROKEN_UTF8: "convert the file to UTF-8, for example with `iconv -f latin1 -t utf8 old > new`",
    EMPTY: "remove the empty documents",
    NUL: "remove the NUL bytes; a file that has them is often UTF-16 or binary: `iconv -f utf16 -t utf8 old > new`",
    MISSING_COLUMN: "name the column that holds the text with --text-column",
    NOT_TEXT: "name a column that holds text with --text-column",
    BAD_JSON: 'write one JSON object per line, for example {"text": "..."}',
    BAD_CSV: "check the quotes of this line",
    TOO_LONG: "split the document into several rows",
    NO_PART_TO_LEARN: "name the columns of what is read and what is learned; a chat needs a turn of the assistant",
    ANSWER_TOO_LONG: "shorten the answers, or train with a longer context",
    REFUSED_CHAT: "bring the turns into the order that the template wants, often user and assistant in turn",
    FAILING_TEMPLATE: "it is the template that fails: correct the line that is named, or give what it asks for",
    UNUSABLE_TURN: "give each turn a role and a text; images and sound are not read, and a weight is 0 or 1",
    UNWRITTEN_PART: "take a model whose chat template knows tools, or put them into the text of the turns",
    SPELLED_TOKEN: "remove these tokens from the text: they would end a turn or begin one in somebody's name",
}


@dataclass(slots=True)
class BadRows:
    """What was left out while reading, and why.

    Attributes:
        policy: "skip" counts a bad row and goes on; "error" stops at the first.
        counts: bad rows by kind.
        examples: the first places of each kind, as ("file:line", detail).
        rows: good rows read.
        left_out: files that were found but are no data, by reason.
    """

    policy: OnBadRow = "skip"
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    rows: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str, detail: str = "") -> None:
        """Count one bad row of `kind` found at `place`.

        Raises:
            InputError: if the policy is "error"; the message names the place and the remedy.
        """
        if self.policy == "error":
            remedy = _REMEDIES.get(kind, "correct the row")
            raise InputError(
                f"{place}: {kind}" + (f" ({detail})" if detail else ""),
                f"{remedy}; or leave bad rows out with --on-bad-row skip",
            )
        self.counts[kind] += 1
        found = self.examples.setdefault(kind, [])
        if len(found) < EXAMPLES:
            found.append((place, detail))

    @property
    def total(self) -> int:
        """The number of bad rows of all kinds."""
        return sum(self.counts.values())

    def report(self) -> dict[str, Any]:
        """Return the counts and examples as plain values for a JSON report."""
        kinds = {
            kind: {"count": count, "examples": [": ".join(filter(None, pair)) for pair in self.examples[kind]]}
            for kind, count in self.counts.items()
        }
        return {"rows": self.rows, "bad_rows": kinds, "left_out": self.left_out}

    def summary(self) -> str:
        """Return the report as lines for a person; an empty string when nothing was left out."""
        lines = []
        for kind, count in self.counts.most_common():
            places = ", ".join(place for place, _ in self.examples[kind]) + (", ..." if count > EXAMPLES else "")
            detail = self.examples[kind][0][1]
            lines.append(f"left out {count} rows: {kind}{f' ({detail})' if detail else ''}: {places}")
        for reason, paths in self.left_out.items():
            shown = ", ".join(paths[:EXAMPLES]) + (", ..." if len(paths) > EXAMPLES else "")
            lines.append(f"left out {len(paths)} files: {reason}: {shown}")
        return "\n".join(lines)

    def remedy(self) -> str:
        """Return what to do about the most frequent kind."""
        if not self.counts:
            return ""
        kind = self.counts.most_common(1)[0][0]
        return _REMEDIES.get(kind, "correct the rows")
