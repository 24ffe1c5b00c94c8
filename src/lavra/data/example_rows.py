"""Rows with a part to learn, recognised by their columns: a prompt and its completion, or a chat."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lavra.data.bad_rows import EMPTY, MISSING_COLUMN, NO_PART_TO_LEARN, NOT_TEXT, BadRows
from lavra.data.columns import missing_column
from lavra.data.compressed import BytesRead, open_binary
from lavra.data.readers import fault_of, read_rows
from lavra.data.rows import Row

ASSISTANT = "assistant"

CHAT_COLUMNS = ("messages", "conversations")
"""Columns that hold a chat: a list of {role, content}, or of {from, value}."""


@dataclass(frozen=True, slots=True)
class PairColumns:
    """Where a row holds what is read and what is learned.

    Attributes:
        prompt: column of what is read.
        completion: column of what is learned.
        separator: what a decoder reads between the two where neither has white space there.
        beside: columns that are read after the prompt, a blank line between them, where they hold text.
    """

    prompt: str
    completion: str
    separator: str = "\n"
    beside: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order of reading."""
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
"""Columns that are recognised, in this order; a prompt and its completion are joined as they are."""

_BESIDE_CHATS = ("system", "tools", "functions", "documents")

EXAMPLE_COLUMNS = frozenset((*CHAT_COLUMNS, *_BESIDE_CHATS, *(name for pair in PAIR_COLUMNS for name in pair.names)))
"""All columns that examples are recognised by or made of."""

_ROLES = {"human": "user", "gpt": ASSISTANT}


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One row with a part to learn.

    Attributes:
        group: the name of the corpus or file that it is accounted under.
        place: where it was read, for messages: `file.jsonl:17`.
        prompt: what is read; for a chat what comes before the assistant's first turn, as one text.
        completion: what is learned; empty for a chat.
        separator: what a decoder reads between the two.
        messages: of a chat, as {role, content}; empty for a pair.
        held_out: whether it is from validation data.
    """

    group: str
    place: str
    prompt: str
    completion: str
    separator: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    held_out: bool = False

    @property
    def key(self) -> str:
        """The text whose hash decides on which side of the split the row lies: equal prompts lie on one side."""
        return self.prompt if self.prompt.strip() else self.completion

    @property
    def joined(self) -> tuple[str, str]:
        """The prompt, and the completion as a decoder writes it after the prompt."""
        begins = not self.prompt or self.prompt[-1].isspace() or self.completion[:1].isspace()
        return self.prompt, self.completion if begins else self.separator + self.completion


def looks_like_example(fields: Mapping[str, Any]) -> bool:
    """Say whether the columns of a row are those of a chat or of a pair that is recognised by its names."""
    return any(name in fields for name in CHAT_COLUMNS) or _columns(fields, None) is not None


def read_examples(
    locations: Sequence[str],
    bad_rows: BadRows,
    *,
    columns: PairColumns | None = None,
    normalize: bool = False,
    encoding: str | None = None,
    validation: Sequence[str] | None = None,
    counter: BytesRead | None = None,
) -> Iterator[ExampleRow]:
    """Yield the rows of `locations` that have a part to learn; others are counted in `bad_rows`.

    Args:
        locations: see `lavra.data.readers`; formats with columns only.
        bad_rows: is filled with what was left out, and says what to do about it.
        columns: of prompt and completion; without them, chats and the names of `PAIR_COLUMNS` are looked for.
        normalize: bring text to Unicode normal form C.
        encoding: see `lavra.data.readers.read_rows`.
        validation: see `lavra.data.readers.read_rows`.
        counter: is advanced by the bytes read from disk.

    Raises:
        InputError: for data that cannot be read, or a bad row when these are not to be left out.
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
        found = _example(row, columns, bad_rows)
        if found is None:
            bad_rows.rows -= 1
        else:
            bad_rows.bytes += _size(found)
            found = replace(found, held_out=row.held_out)
            yield _normalized(found) if normalize else found


def spool_examples(rows: Iterable[ExampleRow], path: Path) -> Iterator[ExampleRow]:
    """Yield the rows while writing each to `path`, a `.zst` file for `spooled_examples`."""
    import zstandard

    with zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=1)) as file:
        for row in rows:
            file.write(json.dumps(asdict(row)).encode() + b"\n")
            yield row


def spooled_examples(path: Path) -> Iterator[ExampleRow]:
    """Yield the rows that `spool_examples` wrote."""
    with open_binary(path) as lines:
        for line in lines:
            values = json.loads(line)
            yield ExampleRow(**{**values, "messages": tuple(values["messages"])})


def _size(row: ExampleRow) -> int:
    texts = [turn["content"] for turn in row.messages] or [row.prompt, row.completion]
    return sum(len(text.encode()) for text in texts)


def _example(row: Row, columns: PairColumns | None, bad_rows: BadRows) -> ExampleRow | None:
    if columns is None:
        for name in CHAT_COLUMNS:
            if name in row.fields:
                bad_rows.note_columns(row.file, (name,), row.fields)
                return _chat(row, name, bad_rows)
    found = _columns(row.fields, columns)
    if found is None:
        wanted = columns or PAIR_COLUMNS[0]
        place = missing_column(f"{wanted.prompt} and {wanted.completion}", list(row.fields))
        bad_rows.add(MISSING_COLUMN if columns else NO_PART_TO_LEARN, row.place, place, size=_fields_size(row))
        return None
    bad_rows.note_columns(row.file, found.names, row.fields)
    parts = {name: row.fields[name] for name in found.names}
    if found.completion == "answers":
        parts["answers"] = _first_answer(parts["answers"])
        if not parts["answers"]:
            bad_rows.add(NO_PART_TO_LEARN, row.place, "no answer", size=_fields_size(row))
            return None
    for name in found.beside:
        parts[name] = parts[name] or ""
    for name, text in parts.items():
        if not isinstance(text, str):
            detail = f"{name!r} holds a {type(text).__name__}"
            bad_rows.add(EMPTY if text is None else NOT_TEXT, row.place, detail, size=_fields_size(row))
            return None
    prompt, completion = parts[found.prompt], parts[found.completion]
    if found.beside:
        prompt = "\n\n".join(parts[name] for name in found.names[:-1] if parts[name].strip())
    if _is_faulty(row.place, [prompt], bad_rows, may_be_empty=True) or _is_faulty(row.place, [completion], bad_rows):
        return None
    return ExampleRow(row.source, row.place, prompt, completion, found.separator)


def _fields_size(row: Row) -> int:
    return sum(len(value.encode("utf8", "surrogatepass")) for value in row.fields.values() if isinstance(value, str))


def _first_answer(answers: object) -> object:
    """Return the first of the answers to a question in the layout of SQuAD; the others say the same."""
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


def _chat(row: Row, name: str, bad_rows: BadRows) -> ExampleRow | None:
    turns = row.fields[name]
    messages = [_message(turn) for turn in turns] if isinstance(turns, list) else []
    if not messages or None in messages:
        bad_rows.add(NOT_TEXT, row.place, f"{name!r} is no list of turns with a role and a content")
        return None
    chat = [message for message in messages if message is not None]
    first = next((number for number, turn in enumerate(chat) if turn["role"] == ASSISTANT), None)
    if first is None:
        bad_rows.add(NO_PART_TO_LEARN, row.place, "no turn of the assistant")
        return None
    if _is_faulty(row.place, [turn["content"] for turn in chat], bad_rows, may_be_empty=True):
        return None
    before = "\n".join(turn["content"] for turn in chat[:first])
    return ExampleRow(row.source, row.place, before or chat[first]["content"], "", messages=tuple(chat))


def _message(turn: object) -> dict[str, str] | None:
    if not isinstance(turn, Mapping):
        return None
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        return None
    return {"role": _ROLES.get(role, role), "content": content}


def _is_faulty(place: str, texts: Iterable[str], bad_rows: BadRows, *, may_be_empty: bool = False) -> bool:
    for text in texts:
        fault = fault_of(text)
        if fault and not (may_be_empty and fault == EMPTY):
            bad_rows.add(fault, place)
            return True
    return False


def _normalized(row: ExampleRow) -> ExampleRow:
    def composed(text: str) -> str:
        return unicodedata.normalize("NFC", text)

    messages = tuple({**turn, "content": composed(turn["content"])} for turn in row.messages)
    return replace(row, prompt=composed(row.prompt), completion=composed(row.completion), messages=messages)
