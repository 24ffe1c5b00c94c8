"""Rows of text and the places where they were read; rows that cannot be used are counted by kind, the first few with
file and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lavra.core.errors import InputError
from lavra.core.units import counted, show_size


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One document.

    Attributes:
        text: Text of the document; empty only where all columns are read as `fields`.
        source: Name of the corpus or file under which the report on data usage counts it.
        place: File and line where it was read, for messages: `file.jsonl:17`.
        fields: The other columns of the row (id, label, prompt …), in formats with columns.
        file: Name of the file that it was read from, in formats with columns.
        is_validation: Whether it belongs to the validation data.
    """

    text: str
    source: str
    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    is_validation: bool = False


# Nothing is dropped in silence. Three things can happen to what is read; each is counted here by kind with its first
# few places, printed in the summary, and kept in the record of the run:
#
# - A row is *left out* because it cannot be used (`add`), or a whole file is (`leave_out`).
# - Something is *changed*: guessed, replaced, or cut (`change`).
# - Something is *noted*: a decision that loses nothing that was meant to be read, such as the encoding that a byte
#   order mark names, the columns that are ignored, or a test file that is kept from training (`note`, `note_columns`).
#
# The policy "error" stops at the first row that cannot be used; "strict" also at the first file that is left out and
# the first thing that is changed.

OnBadRow = Literal["skip", "error", "strict"]
"""What to do with a row that cannot be used: leave it out and count it, or stop with an `InputError`; "strict" also
stops where a file is left out, or where anything is guessed, replaced or cut."""

EXAMPLES = 5  # places that are remembered for each kind
MOST_COLUMNS = 40  # names of ignored columns that are remembered for a file; JSONL may have any number of them

# Rows that are left out.

BROKEN_UTF8 = "broken UTF-8"
EMPTY = "empty document"
NUL = "NUL byte"
MISSING_COLUMN = "missing column"
NOT_TEXT = "not text"
BAD_JSON = "bad JSON"
BAD_CSV = "bad CSV"
TOO_LONG = "too long for memory"
NO_PART_TO_LEARN = "no part to learn"
UNLABELLED = "no label"
BAD_LABEL = "label that cannot be used"
ABSENT_ANSWER = "answer that is not in its context"
ANSWER_TOO_LONG = "answer longer than the context"
REFUSED_CHAT = "chat that the template refuses"
FAILING_TEMPLATE = "chat on which the template fails"
UNUSABLE_TURN = "chat with a part that cannot be used"
UNWRITTEN_PART = "chat with a part that the template does not write"
SPELLED_TOKEN = "chat that spells a special token"

# Things that are changed.

WINDOWS_1252 = "read as Windows-1252 (Latin-1), because the bytes are not UTF-8"
STRAY_QUOTE = "quote that is never closed, read as a character of the text"
FEWER_FIELDS = "row with fewer fields than the header"
REPEATED_NAME = "column name given twice, of which the last value is used"
OVERLAP = "training text that is also in the validation data"
LEAK = "validation row that is also, or nearly, a training row"
CUT_EXAMPLE = "example cut to fit the context"
MOVED_ANSWER = "answer that does not stand where its row says, found elsewhere in its context"
SEVERAL_LISTS = "object with several lists of rows, of which the longest is read"
UNKNOWN_TOKEN = "text that the tokenizer cannot write, replaced by its unknown token"
SPELLED_END = "spelling of the end-of-document token, which this tokenizer cannot write as text, left out"

# Decisions that are noted.

BY_MARK = "read in the encoding that the byte order mark names"
SEPARATOR = "separator other than a comma"
ROWS_IN_QUOTES = "lines within quotes that would be rows without them, read as one field"
BESIDE_ROWS = "values beside the rows in a JSON file, ignored"
ODD_TAGS = "tags that break the rules of BIO, learned as they are"
UNTAGGED = "words without a tag, which are only read"
FIRST_OF_SEVERAL = "answer without its place that occurs several times in its context, of which the first is learned"
VALIDATION_FILE = "used as validation data, because of their names"

# Reasons for which a file is left out.

ABOUT_DATA = "text about the data, not data"
REPEATED = "named twice, read once"
HIDDEN = "hidden"
HIDDEN_DATA = "hidden, though in a data format"
TEST_FILE = "test data by their names, never trained on"
OTHER_VALIDATION = "validation data by their names, and --validation names other data"
UNPARSED = "Python that this version cannot parse"
LOOP = "a link to a folder that it lies in"
QUERIES = "queries and judgements of a retrieval collection, not documents"
BESIDE_CORPUS = "queries, judgements and the like beside the corpus of a BEIR folder"
# The reasons for which a file is left out on purpose, which is no error under "strict".
_NO_LOSS = {ABOUT_DATA, REPEATED, HIDDEN, TEST_FILE, OTHER_VALIDATION, LOOP, QUERIES, BESIDE_CORPUS}

# What a user can do about each kind of row that is left out or changed.
_REMEDIES = {
    BROKEN_UTF8: "name the encoding, for example --encoding windows-1251, or convert the file to UTF-8 with iconv",
    EMPTY: "remove the empty documents",
    NUL: "remove the NUL bytes; a file that has them is often binary, or UTF-16 without its mark: try "
    "--encoding utf-16-le",
    MISSING_COLUMN: "name the column that holds the text with --text-column",
    NOT_TEXT: "name a column that holds text with --text-column",
    BAD_JSON: 'write one JSON object per line, for example {"text": "..."}',
    BAD_CSV: "put quotes around fields that hold the separator, and check the quotes of this line",
    TOO_LONG: "split the document into several rows",
    NO_PART_TO_LEARN: "name the columns of prompt and completion; a chat needs a turn of the assistant",
    UNLABELLED: "label these rows, or leave them: they stay in your files for later, and are not learned",
    BAD_LABEL: "correct the labels of these rows",
    ABSENT_ANSWER: "copy each answer out of its context, letter by letter; give no answer where the context has none",
    ANSWER_TOO_LONG: "shorten the answers, or train with a longer context",
    REFUSED_CHAT: "bring the turns into the order that the template wants, often user and assistant in turn",
    FAILING_TEMPLATE: "it is the template that fails: correct the line that is named, or give what it asks for",
    UNUSABLE_TURN: "give each turn a role and a text; images and sound are not read, and a weight is 0 or 1",
    UNWRITTEN_PART: "choose a model whose chat template knows tools, or put them into the text of the turns",
    SPELLED_TOKEN: "remove these tokens from the text: they would end a turn or begin one in somebody's name",
    WINDOWS_1252: "name the encoding, --encoding windows-1252, or convert the file to UTF-8",
    STRAY_QUOTE: "double the quotes within a field, and put quotes around the field",
    FEWER_FIELDS: "give each line as many fields as the header has",
    REPEATED_NAME: "give each column a name of its own",
    SEVERAL_LISTS: "write the list that is meant to a file of its own",
    LEAK: "remove these rows from one of the two",
    OVERLAP: "remove the documents from one of the two",
    UNKNOWN_TOKEN: "choose a tokenizer made for this language, or one that works on bytes",
    SPELLED_END: "remove the token from the text, or choose a tokenizer that works on bytes",
    MOVED_ANSWER: "count answer_start in characters of the context, from 0",
    CUT_EXAMPLE: "shorten the examples, or train with a longer context",
}

WITHOUT_OPTIONS = {
    BROKEN_UTF8: "convert the file to UTF-8, for example with `iconv -f windows-1251 -t utf8 old > new`",
    NUL: "remove the NUL bytes; a file that has them is often binary, or UTF-16 without its mark",
    MISSING_COLUMN: "give the rows this column",
    NOT_TEXT: "write text into this column",
    WINDOWS_1252: "convert the file to UTF-8, for example with `iconv -f windows-1252 -t utf8 old > new`",
}
"""The remedies of a command without the options of reading (`--text-column`, `--encoding`)."""


@dataclass(slots=True)
class BadRows:
    """What was left out, changed and noted while reading, and why.

    Attributes:
        policy: "skip" (the default) counts a bad row and goes on; "error" stops at the first; "strict" at whatever is
            left out or changed.
        counts: Number of rows left out, by kind.
        changes: Number of things changed, by kind.
        notes: Number of things noted, by kind.
        examples: The first places of each kind, as ("file:line", detail).
        rows: Number of good rows read.
        bytes: Bytes of text of the good rows, as UTF-8.
        bytes_left_out: Bytes of the rows that were left out.
        left_out: Files that were found and not read, by reason.
        columns: For each file, the columns that were used and those that were ignored.
        remedies: What to do about a kind, where a command has another answer than the usual one.
        options: Whether the command has the options of reading, which remedies then name.

    Examples:
        >>> from lavra.data.readers.rows import EMPTY, BadRows
        >>> bad_rows = BadRows()
        >>> bad_rows.add(EMPTY, "corpus.jsonl:7")
        >>> print(bad_rows.summary())
        left out 1 row: empty document: corpus.jsonl:7
    """

    policy: OnBadRow = "skip"
    counts: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0
    bytes_left_out: int = 0
    left_out: dict[str, list[str]] = field(default_factory=dict)
    columns: dict[str, tuple[tuple[str, ...], dict[str, None]]] = field(default_factory=dict)
    remedies: dict[str, str] = field(default_factory=dict)
    options: bool = True

    def add(self, kind: str, place: str, detail: str = "", *, size: int = 0) -> None:
        """Count one row as left out.

        Args:
            kind: Why it cannot be used: one of the kinds of this module.
            place: File and line of the row.
            detail: What exactly is wrong, for messages.
            size: Bytes of the row.

        Raises:
            InputError: if the policy is "error" or "strict"; the message names the place and the remedy.
        """
        if self.policy != "skip":
            raise self._refusal(kind, place, detail, "leave bad rows out with --on-bad-row skip")
        self.counts[kind] += 1
        self.bytes_left_out += size
        self._remember(kind, place, detail)

    def take_back(self, kind: str, place: str, detail: str = "", *, size: int = 0) -> None:
        """Count a row as left out that was counted among the good ones; the arguments are those of `add`."""
        self.add(kind, place, detail, size=size)
        self.rows -= 1
        self.bytes -= size

    def change(self, kind: str, place: str, detail: str = "") -> None:
        """Count one thing at `place` that is guessed, replaced or cut; the arguments are those of `add`.

        Raises:
            InputError: if the policy is "strict".
        """
        if self.policy == "strict":
            raise self._refusal(kind, place, detail, "accept it by leaving --strict out")
        self.changes[kind] += 1
        self._remember(kind, place, detail)

    def repeated(self, name: str | None, place: str) -> None:
        """Count a name that the object or table at `place` gives twice; nothing for None."""
        if name is not None:
            self.change(REPEATED_NAME, place, f"{name!r} is given twice")

    def lose(self, kind: str, place: str, detail: str = "") -> None:
        """Refuse to lose a part of the example at `place` under "strict"; under other policies the caller counts it.

        Raises:
            InputError: if the policy is "strict".
        """
        if self.policy == "strict":
            raise self._refusal(kind, place, detail, "accept it by leaving --strict out")

    def note(self, kind: str, place: str, detail: str = "") -> None:
        """Count one decision at `place` that loses nothing; the arguments are those of `add`."""
        self.notes[kind] += 1
        self._remember(kind, place, detail)

    def note_columns(self, file: str, taken: Sequence[str], there: Iterable[str]) -> None:
        """Remember which columns of a row were used; the others were ignored.

        Args:
            file: Name of the file that the row is from.
            taken: Names of the columns that were used.
            there: Names of all columns of the row.
        """
        found = self.columns.get(file)
        if found is None:
            found = self.columns[file] = (tuple(taken), {})
        used, ignored = found
        for name in there:
            if name not in ignored and name not in used and name not in taken and len(ignored) < MOST_COLUMNS:
                ignored[name] = None

    def leave_out(self, path: str, reason: str) -> None:
        """Remember that the file or folder at `path` is not read.

        Raises:
            InputError: if the policy is "strict", and the reason is a fault.
        """
        kept = self.left_out.setdefault(reason, [])
        if path in kept:
            return
        if self.policy == "strict" and reason not in _NO_LOSS:
            raise InputError(f"{path} is not read: {reason}", "move it away, or accept it by leaving --strict out")
        kept.append(path)

    def _remember(self, kind: str, place: str, detail: str) -> None:
        found = self.examples.setdefault(kind, [])
        if len(found) < EXAMPLES:
            found.append((place, detail))

    @property
    def total(self) -> int:
        """The number of bad rows of all kinds."""
        return sum(self.counts.values())

    @property
    def share_left_out(self) -> float:
        """The share of the bytes read that was left out with bad rows."""
        return self.bytes_left_out / max(1, self.bytes + self.bytes_left_out)

    def report(self) -> dict[str, Any]:
        """Return everything as plain values for a JSON report."""
        columns: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for file, (taken, ignored) in self.columns.items():
            columns.setdefault((taken, tuple(ignored)), []).append(file)
        return {
            "rows": self.rows,
            "bad_rows": self._kinds(self.counts),
            "bytes_left_out": self.bytes_left_out,
            "share_left_out": round(self.share_left_out, 6),
            "changed": self._kinds(self.changes),
            "noted": self._kinds(self.notes),
            "left_out": self.left_out,
            "columns": [
                {"taken": list(taken), "ignored": list(ignored), "files": files}
                for (taken, ignored), files in columns.items()
            ],
        }

    def _kinds(self, counts: Counter[str]) -> dict[str, Any]:
        return {
            kind: {"count": count, "examples": [": ".join(filter(None, pair)) for pair in self.examples[kind]]}
            for kind, count in counts.items()
        }

    def summary(self) -> str:
        """Return the report as lines for a person; an empty string when there is nothing to report."""
        lines = [
            f"left out {counted(count, 'row')}: {self._told(kind, count)}" for kind, count in self.counts.most_common()
        ]
        if self.bytes_left_out:
            share = f"{self.share_left_out:.2%} of the bytes read"
            lines.append(f"the rows left out hold {show_size(self.bytes_left_out)}, {share}")
        for counts in (self.changes, self.notes):
            lines += [self.told(kind) for kind, _ in counts.most_common()]
        for reason, paths in self.left_out.items():
            lines.append(f"left out {counted(len(paths), 'file')}: {reason}: {_first(paths)}")
        for found in self.report()["columns"]:
            ignored = f"; ignored: {', '.join(found['ignored'])}" if found["ignored"] else ""
            lines.append(f"columns used from {_first(found['files'])}: {', '.join(found['taken'])}{ignored}")
        return "\n".join(lines)

    def told(self, kind: str) -> str:
        """Return the summary's line about one kind of change or note."""
        count = self.changes.get(kind) or self.notes.get(kind, 0)
        return self._told(kind, count) + (f" ({count:,} in total)" if count > EXAMPLES else "")

    def _told(self, kind: str, count: int) -> str:
        places = ", ".join(place for place, _ in self.examples[kind]) + (", ..." if count > EXAMPLES else "")
        detail = self.examples[kind][0][1]
        return f"{kind}{f' ({detail})' if detail else ''}: {places}"

    def remedy(self) -> str:
        """Return what a user can do about the most frequent kind of row left out; empty where none was."""
        if not self.counts:
            return ""
        return self._remedy(self.counts.most_common(1)[0][0])

    def forget(self) -> None:
        """Reset what was counted, because the same data is about to be read again."""
        self.counts.clear()
        self.changes.clear()
        self.notes.clear()
        self.examples.clear()
        self.bytes_left_out = 0

    def _remedy(self, kind: str) -> str:
        known = _REMEDIES if self.options else _REMEDIES | WITHOUT_OPTIONS
        return self.remedies.get(kind) or known.get(kind, "correct the row")

    def _refusal(self, kind: str, place: str, detail: str, otherwise: str) -> InputError:
        remedy = f"{self._remedy(kind)}; or {otherwise}" if self.options else self._remedy(kind)
        return InputError(f"{place}: {kind}" + (f" ({detail})" if detail else ""), remedy)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
