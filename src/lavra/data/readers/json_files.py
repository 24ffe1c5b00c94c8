"""Reads JSON files: an array of objects, an object that holds one, SQuAD's nested layout, or one object per line."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeGuard

from lavra.data.readers.json_values import JsonValues
from lavra.data.readers.rows import BAD_JSON, BESIDE_ROWS, BROKEN_UTF8, SEVERAL_LISTS, BadRows
from lavra.data.readers.tables import LONGEST_LINE, Fields, read_jsonl

_BLOCK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")


def read_json(stream: BinaryIO, name: str, bad_rows: BadRows) -> Iterator[tuple[Fields, str]]:
    """Yield (fields, "file:line") for the objects of a `.json` file.

    An array is read object by object, so that it may be larger than memory. An object is read whole, unless each line
    is an object; the objects of a list in it are the rows (those of the longest, where there are several), else it is a
    row itself. A file in the layout of SQuAD gives a row for each question.

    Args:
        stream: Buffered stream of UTF-8.
        name: Name of the file, for messages.
        bad_rows: Counts what cannot be used.

    Examples:
        >>> import io
        >>> from lavra.data.readers.json_files import read_json
        >>> from lavra.data.readers.rows import BadRows
        >>> stream = io.BufferedReader(io.BytesIO(b'{"data": [{"text": "a"}, {"text": "b"}]}'))
        >>> [fields for fields, _ in read_json(stream, "a.json", BadRows())]
        [{'text': 'a'}, {'text': 'b'}]
    """
    head = stream.peek(1).lstrip()  # pyright: ignore[reportAttributeAccessIssue]
    if head.startswith(b"["):
        yield from _array(stream, name, bad_rows)
        return
    first = stream.readline()
    while first.isspace():
        first = stream.readline()
    following = stream.peek(1).strip()  # pyright: ignore[reportAttributeAccessIssue]
    if following and _is_object(first):
        yield from read_jsonl(_Again(first, stream), name, bad_rows)  # pyright: ignore[reportArgumentType]
        return
    data, values = first + stream.read(), JsonValues()
    try:
        value = values.read(data.decode("utf8"))
    except UnicodeDecodeError as error:
        bad_rows.add(BROKEN_UTF8, name, f"byte 0x{data[error.start]:02x}", size=len(data))
    except (ValueError, RecursionError) as error:
        bad_rows.add(BAD_JSON, name, str(error), size=len(data))
    else:
        bad_rows.repeated(values.repeated, name)
        for number, row in enumerate(_rows_of(value, name, bad_rows), start=1):
            yield row, f"{name}:object {number}"


class _Again:
    """A stream before which a line that was read already is put back."""

    def __init__(self, first: bytes, stream: BinaryIO) -> None:
        self._first, self._stream = first, stream

    def readline(self, limit: int) -> bytes:
        first, self._first = self._first, b""
        return first or self._stream.readline(limit)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict) and line.endswith(b"\n")
    except (ValueError, RecursionError):
        return False


def _rows_of(value: object, name: str, bad_rows: BadRows) -> Iterator[Fields]:
    if not isinstance(value, dict):
        bad_rows.add(BAD_JSON, name, f"a {type(value).__name__}, neither an object nor an array of objects")
        return
    lists = {
        key: rows
        for key, rows in value.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    }
    if not lists or any(key in value for key in ("messages", "conversations", "text")):
        yield value
        return
    chosen = max(lists, key=lambda key: len(lists[key]))
    if len(lists) > 1:
        others = ", ".join(repr(key) for key in lists if key != chosen)
        bad_rows.change(SEVERAL_LISTS, name, f"{chosen!r}, and not {others}")
    elif len(value) > 1:
        bad_rows.note(BESIDE_ROWS, name, ", ".join(repr(key) for key in value if key != chosen))
    for row in lists[chosen]:
        yield from _questions(row) if _is_article(row) else (row,)


def _is_article(row: dict[str, Any]) -> bool:
    """Return whether a row has paragraphs with questions, in the layout of SQuAD."""
    paragraphs = row.get("paragraphs")
    if not paragraphs or not _are_objects(paragraphs):
        return False
    return all(_are_objects(paragraph.get("qas", [])) for paragraph in paragraphs)


def _are_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _questions(article: dict[str, Any]) -> Iterator[Fields]:
    """Yield a row for each question about an article in the layout of SQuAD, and one for a paragraph without any."""
    for paragraph in article["paragraphs"]:
        shared = {"title": article.get("title"), "context": paragraph.get("context")}
        for question in paragraph.get("qas") or ({},):
            yield {**shared, **question}


def _array(stream: BinaryIO, name: str, bad_rows: BadRows) -> Iterator[tuple[Fields, str]]:
    text = _Text(stream, name, bad_rows)
    text.skip("[")
    for number in itertools.count():
        text.skip_space()
        if text.startswith("]") or (number and not text.skip(",")):
            break
        text.skip_space()
        place = f"{name}:object {number + 1}" if text.line == 1 else f"{name}:{text.line}"
        try:
            value, size = text.value()
        except (ValueError, RecursionError) as error:
            bad_rows.add(BAD_JSON, place, f"{error}; the rest of the file is left out", size=text.rest())
            return
        if isinstance(value, dict):
            bad_rows.repeated(text.values.repeated, place)
            yield value, place
        else:
            bad_rows.add(BAD_JSON, place, f"a {type(value).__name__}, not an object", size=size)
    closed = text.skip("]")
    text.skip_space()
    if not closed or not text.at_end():
        place = f"{name}:{text.line}"
        bad_rows.add(BAD_JSON, place, "the array is not closed, or more follows it", size=text.rest())


class _Text:
    """The text of a stream, read block by block as far as it is needed, so that an array may be larger than memory."""

    def __init__(self, stream: BinaryIO, name: str, bad_rows: BadRows) -> None:
        self._stream, self._name, self._bad_rows = stream, name, bad_rows
        self._text, self._at = "", 0
        self._decoder = codecs.getincrementaldecoder("utf8")("surrogateescape")
        self.line, self.values = 1, JsonValues()

    def _more(self, size: int = _BLOCK) -> bool:
        """Read a block and drop the text that was passed over; return whether the stream had more."""
        block = self._stream.read(size)
        self._text, self._at = self._text[self._at :] + self._decoder.decode(block, final=not block), 0
        return bool(block)

    def _pass(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def startswith(self, sign: str) -> bool:
        while self._at == len(self._text) and self._more():
            pass  # an empty block ends the loop
        return self._text.startswith(sign, self._at)

    def skip(self, sign: str) -> bool:
        self.skip_space()
        found = self.startswith(sign)
        self._pass(self._at + found)
        return found

    def skip_space(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            self._pass(space.end() if space else self._at)
            if self._at < len(self._text) or not self._more():
                return

    def at_end(self) -> bool:
        """Return whether everything was passed over."""
        self.startswith("")
        return self._at == len(self._text)

    def value(self) -> tuple[object, int]:
        """Return the next value and its length in characters.

        More is read until the value parses; the block doubles each time, so that the work stays linear in its length.
        """
        size = _BLOCK
        while True:
            try:
                value, end = self.values.read_at(self._text, self._at)
            except ValueError:
                if len(self._text) - self._at > LONGEST_LINE or not self._more(size):
                    raise
                size *= 2
                continue
            if end == len(self._text) and self._more():
                continue  # a number may go on in the next block
            size = end - self._at
            self._pass(end)
            return value, size

    def rest(self) -> int:
        """Return the number of bytes that were not passed over."""
        size = len(self._text[self._at :].encode("utf8", "surrogatepass"))
        return size + sum(map(len, iter(lambda: self._stream.read(_BLOCK), b"")))
