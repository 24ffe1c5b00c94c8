"""Reads rows with a part to learn, recognised by their columns: a prompt and its completion, or a chat."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from lavra.data.examples.turns import (
    Turns,
    UnusableTurn,
    is_list_of_turns,
    read_tools,
    read_turns,
    texts_in,
    without_nothing,
)
from lavra.data.readers.compressed import BytesRead, open_binary
from lavra.data.readers.documents import fault_of, read_rows
from lavra.data.readers.rows import (
    EMPTY,
    MISSING_COLUMN,
    NO_PART_TO_LEARN,
    NOT_TEXT,
    UNUSABLE_TURN,
    BadRows,
    SourceDocument,
)
from lavra.data.readers.tables import missing_column

CHAT_COLUMNS = ("messages", "conversations")
"""Names of columns that hold a chat: a list of {role, content}, or of {from, value}."""


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The columns in which rows hold a prompt and its completion.

    Attributes:
        prompt: Column of the prompt, which is only read.
        completion: Column of the completion, which is learned.
        separator: Text that a decoder reads between the two where neither has white space there; a line end by default.
        beside: Columns that are added to the prompt after a blank line, where they hold text; none by default.

    Examples:
        >>> from lavra.data.examples.rows import PairColumns
        >>> PairColumns("instruction", "output", beside=("input",)).names
        ('instruction', 'input', 'output')
    """

    prompt: str
    completion: str
    separator: str = "\n"
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which they are read."""
        return (self.prompt, *self.beside, self.completion)


PAIR_COLUMNS = (
    PairColumns("prompt", "completion", separator=""),
    PairColumns("prompt", "response"),
    PairColumns("instruction", "output", beside=("input",)),  # Alpaca
    PairColumns("instruction", "response", beside=("context",)),  # Dolly
    PairColumns("instruction", "output"),
    PairColumns("instruction", "response"),
    PairColumns("context", "answers", beside=("question",)),  # SQuAD
    PairColumns("context", "answer", beside=("question",)),
    PairColumns("source", "target"),
    PairColumns("input", "target"),
    PairColumns("input", "output"),
    PairColumns("question", "answer"),
    PairColumns("passage", "query"),
    PairColumns("query", "response"),
    PairColumns("text", "summary"),
    PairColumns("document", "summary"),
    PairColumns("article", "highlights"),
)
"""The columns that are recognised, in the order in which they are tried. "prompt" and "completion" are joined as they
are; between the others comes a line end."""

# Names of columns beside a chat: the tools that it offers, the system message, and variables of the template.
_TOOLS = ("tools", "functions")
_SYSTEM = "system"
_OPTIONS = "chat_template_kwargs"

_BESIDE_CHATS = (_SYSTEM, *_TOOLS, "documents", _OPTIONS)

EXAMPLE_COLUMNS = frozenset((*CHAT_COLUMNS, *_BESIDE_CHATS, *(name for pair in PAIR_COLUMNS for name in pair.names)))
"""The names of all columns by which examples are recognised or of which they are made."""


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One row with a part to learn.

    Attributes:
        group: Name of the corpus or file under which the row is counted.
        place: File and line where it was read, for messages: `file.jsonl:17`.
        prompt: Text that is only read; for a chat what comes before the assistant's first learned turn, as one text.
        completion: Text that is learned; empty for a chat.
        separator: Text that a decoder reads between the two where neither has white space there.
        messages: Turns of a chat, as {role, content, …}; empty for a pair.
        unlearned: Indices of the assistant's turns that are only read.
        given: Further variables for the template of a chat: `tools`, `documents`, variables of its own.
        is_validation: Whether it is validation data.
        labels: The further columns of a labelled row, whose text is the prompt.
        stratum: Class or number of a labelled row, of which training and validation data get their share; None where it
            has none of the kind.

    Examples:
        >>> from lavra.data.examples.rows import ExampleRow
        >>> row = ExampleRow("questions", "questions.jsonl:1", "Who wrote it?", "Nobody.", separator=chr(10))
        >>> row.joined
        ('Who wrote it?', '\\nNobody.')
    """

    group: str
    place: str
    prompt: str
    completion: str
    separator: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    unlearned: tuple[int, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    is_validation: bool = False
    labels: Mapping[str, Any] = field(default_factory=dict)
    stratum: str | float | None = None

    @property
    def key(self) -> str:
        """The text whose hash decides whether the row is training or validation data.

        It is the group of a labelled row that has one, else the prompt, so that rows with equal prompts are on the same
        side.
        """
        if self.labels.get("group") is not None:
            return f"group {self.labels['group']}"
        return self.prompt if self.prompt.strip() else self.completion

    @property
    def joined(self) -> tuple[str, str]:
        """The prompt, and the completion as a decoder writes it after the prompt."""
        begins = not self.prompt or self.prompt[-1].isspace() or self.completion[:1].isspace()
        return self.prompt, self.completion if begins else self.separator + self.completion


class RowReader(Protocol):
    """What makes examples of rows with other columns than those of prompts and completions.

    Attributes:
        names: The names of all columns that are read where a row has them.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that are read where a row has them."""
        ...

    def read(self, row: SourceDocument, bad_rows: BadRows) -> ExampleRow | None:
        """Return the example of a row; None, counted in `bad_rows`, for one that cannot be used."""
        ...


def looks_like_example(fields: Mapping[str, Any]) -> bool:
    """Return whether the columns of a row are recognised as those of a chat or of a prompt and its completion.

    Examples:
        >>> from lavra.data.examples.rows import looks_like_example
        >>> looks_like_example({"question": "Who?", "answer": "Me."}), looks_like_example({"text": "Me."})
        (True, False)
    """
    return any(name in fields for name in CHAT_COLUMNS) or _columns(fields, None) is not None


def read_examples(
    locations: Sequence[str],
    bad_rows: BadRows,
    *,
    columns: PairColumns | RowReader | None = None,
    normalize: bool = False,
    encoding: str | None = None,
    validation: Sequence[str] | None = None,
    counter: BytesRead | None = None,
) -> Iterator[ExampleRow]:
    """Yield the rows of `locations` that have a part to learn; others are counted in `bad_rows`.

    Args:
        locations: Files, folders and other locations, see `lavra.data.readers.documents`; formats with columns only.
        bad_rows: Is filled with what was left out; its policy decides whether that is an error.
        columns: Columns of prompt and completion, or what reads labelled rows; by default chats and the columns of
            `PAIR_COLUMNS` are recognised.
        normalize: Bring text to Unicode's normal form C.
        encoding: Encoding of the files, see `lavra.data.readers.documents.read_rows`.
        validation: Locations of the validation data, see `lavra.data.readers.documents.read_rows`.
        counter: Is advanced by the bytes read from disk.

    Raises:
        InputError: for data that cannot be read, or a bad row where the policy of `bad_rows` does not leave it out.
    """
    rows = read_rows(
        locations,
        text_column=None,
        on_bad_row=bad_rows.policy,
        encoding=encoding,
        validation=validation,
        wanted=EXAMPLE_COLUMNS if columns is None else columns.names,
        bad_rows=bad_rows,
        counter=counter,
    )
    for row in rows:
        if columns is None or isinstance(columns, PairColumns):
            found = _example(row, columns, bad_rows)
        else:
            found = columns.read(row, bad_rows)
        if found is None:
            bad_rows.rows -= 1
        else:
            bad_rows.bytes += text_size(found)
            found = replace(found, is_validation=row.is_validation)
            yield _normalized(found) if normalize else found


def write_example_cache(rows: Iterable[ExampleRow], path: Path) -> Iterator[ExampleRow]:
    """Yield the rows while writing each to a `.zst` file, from which `read_example_cache` reads them."""
    import zstandard

    names = [one.name for one in fields(ExampleRow)]
    with zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=1)) as file:
        for row in rows:
            # Not `asdict`, which would copy every word and tag of a row before it is written.
            file.write(json.dumps({name: getattr(row, name) for name in names}).encode() + b"\n")
            yield row


def read_example_cache(path: Path) -> Iterator[ExampleRow]:
    """Yield the rows that `write_example_cache` wrote to `path`."""
    with open_binary(path) as lines:
        for line in lines:
            values = json.loads(line)
            yield ExampleRow(**{**values, **{name: tuple(values[name]) for name in ("messages", "unlearned")}})


def text_size(row: ExampleRow) -> int:
    """Return the bytes of the texts of an example, as UTF-8."""
    texts = [turn["content"] for turn in row.messages] or [row.prompt, row.completion]
    return sum(len(text.encode()) for text in texts)


def _example(row: SourceDocument, columns: PairColumns | None, bad_rows: BadRows) -> ExampleRow | None:
    if columns is None:
        for name in CHAT_COLUMNS:
            if row.fields.get(name) is not None:
                return _chat(row, (name,), bad_rows)
    found = _columns(row.fields, columns)
    if found is None:
        wanted = columns or PAIR_COLUMNS[0]
        place = missing_column(f"{wanted.prompt} and {wanted.completion}", list(row.fields))
        bad_rows.add(MISSING_COLUMN if columns else NO_PART_TO_LEARN, row.place, place, size=fields_size(row))
        return None
    if all(is_list_of_turns(row.fields[name]) for name in (found.prompt, found.completion)):
        return _chat(row, (found.prompt, found.completion), bad_rows)
    bad_rows.note_columns(row.file, found.names, row.fields)
    parts = {name: row.fields[name] for name in found.names}
    if found.completion == "answers":
        parts["answers"] = _first_answer(parts["answers"])
        if not parts["answers"]:
            bad_rows.add(NO_PART_TO_LEARN, row.place, "no answer", size=fields_size(row))
            return None
    for name in found.beside:
        parts[name] = parts[name] or ""
    for name, text in parts.items():
        if not isinstance(text, str):
            detail = f"{name!r} holds a {type(text).__name__}"
            bad_rows.add(EMPTY if text is None else NOT_TEXT, row.place, detail, size=fields_size(row))
            return None
    prompt, completion = parts[found.prompt], parts[found.completion]
    if found.beside:
        prompt = "\n\n".join(parts[name] for name in found.names[:-1] if parts[name].strip())
    if _is_faulty(row, [prompt], bad_rows, may_be_empty=True) or _is_faulty(row, [completion], bad_rows):
        return None
    return ExampleRow(row.source, row.place, prompt, completion, found.separator)


def fields_size(row: SourceDocument) -> int:
    """Return the bytes of the text in all columns of a row, also of that inside of lists and objects, as UTF-8."""
    return _size_of(row.fields)


def _size_of(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf8", "surrogatepass"))
    if isinstance(value, Mapping):
        return sum(map(_size_of, value.values()))
    return sum(map(_size_of, value)) if isinstance(value, list | tuple) else 0


def _first_answer(answers: object) -> object:
    """Return the first of the answers to a question in the layout of SQuAD, where the others say the same."""
    if isinstance(answers, Mapping):
        answers = answers.get("text")
    if isinstance(answers, list):
        answers = answers[0] if answers else None
    return answers.get("text") if isinstance(answers, Mapping) else answers


def _columns(fields: Mapping[str, Any], columns: PairColumns | None) -> PairColumns | None:
    for candidate in (columns,) if columns else PAIR_COLUMNS:
        if all(name in fields for name in candidate.names):
            return candidate
    return None


def _chat(row: SourceDocument, names: tuple[str, ...], bad_rows: BadRows) -> ExampleRow | None:
    """Return the chat in the columns `names`, or None where it cannot be used, which is counted.

    Of a chat in two columns, the turns in the first are only read.
    """
    taken = (*names, *(name for name in _BESIDE_CHATS if row.fields.get(name)))
    bad_rows.note_columns(row.file, taken, row.fields)
    try:
        turns = _turns(row.fields, names)
        given = _given(row.fields)
    except UnusableTurn as error:
        bad_rows.add(UNUSABLE_TURN, row.place, str(error), size=fields_size(row))
        return None
    first = turns.first_learned
    if first is None:
        bad_rows.add(NO_PART_TO_LEARN, row.place, "no turn of the assistant that is learned", size=fields_size(row))
        return None
    if _is_faulty(row, texts_in(turns.messages), bad_rows, may_be_empty=True):
        return None
    before = "\n".join(turn["content"] for turn in turns.messages[:first])
    key = before or turns.messages[first]["content"]
    return ExampleRow(row.source, row.place, key, "", messages=turns.messages, unlearned=turns.unlearned, given=given)


def _turns(fields: Mapping[str, Any], names: tuple[str, ...]) -> Turns:
    """Return the turns of some columns one after the other, after the system message where it has its own column."""
    messages: list[dict[str, Any]] = []
    unlearned: list[int] = []
    for name in names:
        value = fields[name]
        if not isinstance(value, list | tuple) or not value:
            raise UnusableTurn(f"{name!r} is no list of turns with a role and a content")
        found = read_turns(value, len(messages) + 1)
        read_only = range(len(found.messages)) if name != names[-1] else found.unlearned
        unlearned += [len(messages) + number for number in read_only]
        messages += found.messages
    system = fields.get(_SYSTEM)
    if system is None or system == "":
        return Turns(tuple(messages), tuple(unlearned))
    if not isinstance(system, str):
        raise UnusableTurn(f"{_SYSTEM!r} holds a {type(system).__name__}, not text")
    if messages[0]["role"] == _SYSTEM:
        if messages[0]["content"] != system:
            raise UnusableTurn(f"the column {_SYSTEM!r} and the first turn hold different system messages")
        return Turns(tuple(messages), tuple(unlearned))
    return Turns(({"role": _SYSTEM, "content": system}, *messages), tuple(number + 1 for number in unlearned))


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that the template may use beside the turns."""
    given: dict[str, Any] = {}
    for name in _TOOLS:
        if fields.get(name):
            given["tools"] = read_tools(fields[name], name)
    if fields.get("documents"):
        given["documents"] = read_tools(fields["documents"], "documents")
    options = fields.get(_OPTIONS)
    if options is not None:
        if not isinstance(options, Mapping):
            raise UnusableTurn(f"{_OPTIONS!r} holds a {type(options).__name__}, not an object")
        given |= without_nothing(options)
    return given


def _is_faulty(row: SourceDocument, texts: Iterable[str], bad_rows: BadRows, *, may_be_empty: bool = False) -> bool:
    for text in texts:
        fault = fault_of(text)
        if fault and not (may_be_empty and fault == EMPTY):
            bad_rows.add(fault, row.place, size=fields_size(row))
            return True
    return False


def _normalized(row: ExampleRow) -> ExampleRow:
    def composed(value: Any) -> Any:
        if isinstance(value, str):
            return unicodedata.normalize("NFC", value)
        if isinstance(value, Mapping):
            return {name: composed(member) for name, member in value.items()}
        return [composed(member) for member in value] if isinstance(value, list) else value

    return replace(
        row,
        prompt=composed(row.prompt),
        completion=composed(row.completion),
        messages=tuple(composed(turn) for turn in row.messages),
        given=composed(dict(row.given)),
        labels=composed(dict(row.labels)),
    )
