"""Nothing vanishes on the way in: every word of odd files is read, or lies at a place that is told."""

import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.examples.prepare import prepare_examples
from lavra.data.examples.rows import read_examples
from lavra.data.readers import text_files
from lavra.data.readers.documents import read_rows
from lavra.data.readers.rows import EXAMPLES, BadRows
from lavra.data.token_store.prepare import open_prepared, prepare
from little_tokenizers import byte_level

WORD = re.compile(r"w\d{3}")
"""Each of the odd files holds words such as w017, every one once, so that each can be looked for."""


class Words:
    """Gives a new word at every call."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"w{self.count:03}"


def jsonl(word: Words) -> bytes:
    lines = [
        json.dumps({"text": word(), "id": word()}).encode(),
        json.dumps({"body": word()}).encode(),
        b'{"text": "' + word().encode(),
        json.dumps({"text": [word()]}).encode(),
        json.dumps([word()]).encode(),
        b'{"text": "' + word().encode() + "Привет".encode("koi8-r") * 9 + b'"}',
        json.dumps({"text": word() + "\x00"}).encode(),
        json.dumps({"text": word()}).encode(),
    ]
    return b"\n".join(lines)


def delimited(separator: str) -> Callable[[Words], bytes]:
    def write(word: Words) -> bytes:
        rows = [
            ["id", "text"],
            ["1", word()],
            ["2", word(), word()],
            [word()],
            ["4", f'"{word()}'],
            ["5", f'"{word()}" {word()}'],
            ["6", f'"{word()}'],
            ["7", word(), "", ""],
            [word(), word()],
        ]
        return "\n".join(separator.join(row) for row in rows).encode()

    return write


def array(word: Words) -> bytes:
    rows = [{"text": word(), "id": word()}, word(), {"text": None, "id": word()}, {"text": word()}]
    return json.dumps(rows, indent=1).encode()


def broken_array(word: Words) -> bytes:
    return json.dumps([{"text": word()}, {"text": word()}]).encode()[:-1] + b', {"text": "' + word().encode()


def nested(word: Words) -> bytes:
    return json.dumps(
        {"about": word(), "rows": [{"text": word()}, {"text": word()}], "few": [{"text": word()}]}
    ).encode()


def parquet(word: Words) -> bytes:
    table = {
        "text": [word(), None, word()],
        "id": [word() for _ in range(3)],
        "when": pyarrow.array([1_700_000_000_000_000_001] * 3, pyarrow.timestamp("ns")),
        "image": pyarrow.array([b"\xff\x00"] * 3, pyarrow.binary()),
    }
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(table), out)
    return out.getvalue()


def page(word: Words) -> bytes:
    return (
        f"<html><head><title>{word()}</title></head><body><p>{word()} <b>{word()}</b><br>{word()}"
        f"<table><tr><td>{word()}</td></tr></table><pre>{word()}\n  {word()}</pre>&eacute;{word()} < {word()}"
    ).encode()


def text(word: Words) -> bytes:
    return f"{word()}\r\n{word()}\x1c{word()}\f{word()} \u2028{word()}".encode() + b"\xe7\xe3o " + word().encode()


FILES = {
    "a.jsonl": jsonl,
    "a.ndjson": jsonl,
    "b.csv": delimited(","),
    "c.csv": delimited(";"),
    "d.tsv": delimited("\t"),
    "e.json": array,
    "f.json": broken_array,
    "g.json": nested,
    "h.parquet": parquet,
    "i.html": page,
    "j.txt": text,
    "k.txt": lambda word: "\ufeff".encode("utf-16-le") + f"{word()} {word()}".encode("utf-16-le"),
    "l.md": lambda word: f"# {word()}".encode(),
}


def written(folder: Path, name: str, packing: str) -> tuple[Path, set[str]]:
    """Write an odd file, and return it with the words in it."""
    words = Words()
    data = FILES[name](words)
    path = folder / f"{name}{packing}"
    if packing == ".zip":
        path = folder / f"{name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
    else:
        path.write_bytes(gzip.compress(data) if packing else data)
    return path, {f"w{number:03}" for number in range(1, words.count + 1)}


def accounted(path: Path, name: str, found: BadRows, ignored: bool) -> set[str]:
    """Return the words at the places that were told: of the line that each names, and of columns not taken."""
    data = FILES[name](Words())
    lines = data.decode("utf-8", "replace").split("\n")
    words: set[str] = set()
    for kind in (*found.counts, *found.changes, *found.notes):
        assert len(found.examples[kind]) <= EXAMPLES
        for place, detail in found.examples[kind]:
            line = re.search(r":(\d+)$", place)
            rest = "rest of the file" in detail or "follows" in detail
            chosen = lines if line is None else lines[int(line[1]) - 1 :] if rest else [lines[int(line[1]) - 1]]
            words |= set(WORD.findall("\n".join(chosen)))
    if ignored and found.report()["columns"]:
        names = {column for one in found.report()["columns"] for column in one["ignored"]}
        assert names <= {"id", "when", "image", "about", "few"}
        if "id" in names:
            words |= {"w003", "w004", "w005"} if name == "h.parquet" else _ids(lines)
    return words


def _ids(lines: list[str]) -> set[str]:
    ids = {word for line in lines for word in re.findall(r'"id": "(w\d{3})"', line)}
    return ids | {line[:4] for line in lines if WORD.match(line)}


@pytest.mark.parametrize("packing", ["", ".gz", ".zip"])
@pytest.mark.parametrize("name", list(FILES))
def test_every_word_is_read_or_told(tmp_path: Path, name: str, packing: str) -> None:
    path, words = written(tmp_path, name, packing)
    found = BadRows()
    rows = list(read_rows([str(path)], bad_rows=found))
    read = [word for row in rows for word in WORD.findall(row.text)]
    assert len(read) == len(set(read))
    assert set(read) | accounted(path, name, found, ignored=True) == words
    assert found.bytes == sum(len(row.text.encode()) for row in rows)
    assert (found.bytes_left_out > 0) >= bool(set(found.counts) - {"empty document"})


@pytest.mark.parametrize("name", list(FILES))
def test_under_strict_whatever_is_left_out_or_changed_is_an_error(tmp_path: Path, name: str) -> None:
    path, _ = written(tmp_path, name, "")
    found = BadRows()
    list(read_rows([str(path)], bad_rows=found))
    if found.counts or found.changes:
        with pytest.raises(InputError) as caught:
            list(read_rows([str(path)], on_bad_row="strict"))
        assert str(path) in caught.value.message
        assert caught.value.remedy
    else:
        assert len(list(read_rows([str(path)], on_bad_row="strict"))) == found.rows


@settings(deadline=None, max_examples=60)
@given(
    pieces=st.lists(
        st.one_of(
            st.text(st.characters(codec="utf-8"), max_size=30).map(str.encode),
            st.sampled_from([b"\n", b"\n\n", b"\x00", b"\xe7\xe3o", b"\xff\xfe\xfd" * 5, b"\x81", b" "]),
        ),
        max_size=30,
    ),
    size=st.integers(20, 200),
)
def test_bytes_of_plain_text_are_read_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], size: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    data = b"x" + b"".join(pieces)
    path.write_bytes(data)
    before, text_files.LARGEST_DOCUMENT = text_files.LARGEST_DOCUMENT, size
    found = BadRows()
    try:
        rows = list(read_rows([str(path)], bad_rows=found))
    except InputError:  # no document at all
        rows = []
    finally:
        text_files.LARGEST_DOCUMENT = before
    kept = sum(len(row.text.encode()) for row in rows)
    if found.changes:  # a byte of Windows-1252 takes two or three in UTF-8
        assert len(data) <= kept + found.bytes_left_out <= 3 * len(data)
    else:
        assert kept + found.bytes_left_out == len(data)
        assert b"".join(row.text.encode() for row in rows) in data or found.counts


def test_what_is_prepared_is_what_was_read(tmp_path: Path) -> None:
    """Bytes in are bytes trained on, bytes held out, and bytes that the run's record accounts for."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in FILES:
        written(folder, name, "")
    lines = [json.dumps({"text": f"palavra {number} " * 20}) for number in range(200)]
    (folder / "z.jsonl").write_text("\n".join(lines))
    (folder / "z.pdf").write_bytes(b"%PDF")
    prepared = prepare([str(folder)], tmp_path / "out", vocabulary_size=300)
    report = prepared.report
    sides = [report["split"][side]["bytes"] for side in ("train", "validation")]
    found = BadRows()
    read = sum(len(row.text.encode()) for row in read_rows([str(folder)], bad_rows=found))
    assert sum(sides) == read == report["bytes"] == found.bytes
    assert report["bytes_left_out"] == found.bytes_left_out > 0
    assert report["share_left_out"] == pytest.approx(found.bytes_left_out / (read + found.bytes_left_out), abs=1e-6)
    assert {key: report[key] for key in ("bad_rows", "changed", "noted", "left_out", "columns")} == {
        key: value for key, value in found.report().items() if key not in ("rows", "bytes_left_out", "share_left_out")
    }
    assert open_prepared(tmp_path / "out").report == report
    with pytest.raises(InputError):
        prepare([str(folder)], tmp_path / "strict", vocabulary_size=300, on_bad_row="strict")
    assert not (tmp_path / "strict").exists()


def test_words_of_examples_are_read_or_told(tmp_path: Path) -> None:
    rows = [
        {"instruction": "w001", "input": "w002", "output": "w003", "id": "w004"},
        {"instruction": "w005", "input": "", "output": "w006"},
        {"instruction": "w007", "input": None, "output": ""},
        {"instruction": ["w008"], "input": "", "output": "w009"},
        {"context": "w010", "question": "w011", "answers": {"text": ["w012", "w012"]}},
        {"context": "w013", "question": "w014", "answers": {"text": []}},
        {"other": "w015"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = BadRows()
    examples = list(read_examples([str(path)], found))
    assert [(row.prompt, row.completion) for row in examples] == [
        ("w001\n\nw002", "w003"),
        ("w005", "w006"),
        ("w010\n\nw011", "w012"),
    ]
    told = {place for kind in found.counts for place, _ in found.examples[kind]}
    assert told == {f"{path}:{line}" for line in (3, 4, 6, 7)}
    assert found.report()["columns"][0]["ignored"][0] == "id"
    assert "ignored: id" in found.summary()


def strings(value: object) -> list[str]:
    """Return every text in a value, without the names of members."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inside for text in strings(one)]


def test_bytes_of_examples_are_learned_or_left_out(tmp_path: Path) -> None:
    """Those that cannot be read and those that do not fit count alike, whatever their layout."""
    good = [{"prompt": f"pergunta {number} é", "completion": f" resposta {number}"} for number in range(40)]
    user = {"role": "user", "content": "e então?"}
    bad = [
        {"prompt": "um", "completion": "dois\x00"},
        {"prompt": "um", "completion": " muito" * 99},
        {"messages": [user]},
        {"messages": [user, {"role": "assistant", "content": [{"type": "image", "url": "mar"}]}]},
        {"messages": "nenhum"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*good, *bad)))
    report = prepare_examples([str(path)], tmp_path / "out", byte_level(), context=60).report
    sizes = [sum(len(text.encode()) for text in strings(rows)) for rows in (good, bad)]
    assert (report["rows"], report["bytes_left_out"]) == (len(good), sizes[1])
    assert report["share_left_out"] == pytest.approx(sizes[1] / sum(sizes), abs=1e-6)
    assert sum(one["count"] for one in report["bad_rows"].values()) == len(bad)
