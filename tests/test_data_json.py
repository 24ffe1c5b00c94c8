"""Files of JSON in the layouts in which they are found, and pages of HTML."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lavra.core.errors import InputError
from lavra.data.readers import json_files
from lavra.data.readers.documents import read_rows
from lavra.data.readers.html_files import html_text
from lavra.data.readers.rows import BAD_JSON, BESIDE_ROWS, REPEATED_NAME, SEVERAL_LISTS, BadRows

ROWS = [{"text": "um", "id": 1}, {"text": "dois ] , {", "id": 2}]


def read(path: Path, content: str | bytes) -> tuple[list[str], BadRows]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = BadRows()
    return [row.text for row in read_rows([str(path)], bad_rows=found)], found


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2) + "\n\n",
        "\ufeff \n" + json.dumps(ROWS),
        "\n".join(map(json.dumps, ROWS)),
        "\n\n" + "\n\n".join(map(json.dumps, ROWS)) + "\n",
        json.dumps({"data": ROWS}),
        json.dumps({"data": ROWS}) + "\n",
        json.dumps({"rows": ROWS}, indent=1),
    ],
)
def test_every_layout_gives_the_same_rows(tmp_path: Path, content: str) -> None:
    texts, found = read(tmp_path / "a.json", content)
    assert texts == ["um", "dois ] , {"]
    assert not found.counts
    assert not found.changes


@pytest.mark.parametrize("content", ['{"text": "só", "entities": [{"a": 1}]}', '{\n "text": "só"\n}\n'])
def test_a_single_object_is_a_row(tmp_path: Path, content: str) -> None:
    assert read(tmp_path / "a.json", content)[0] == ["só"]


def test_what_lies_beside_the_rows_is_told(tmp_path: Path) -> None:
    _, found = read(tmp_path / "a.json", json.dumps({"version": 1, "data": ROWS}))
    assert found.examples == {BESIDE_ROWS: [(str(tmp_path / "a.json"), "'version'")]}
    texts, found = read(tmp_path / "a.json", json.dumps({"train": ROWS, "test": ROWS[:1]}))
    assert texts == ["um", "dois ] , {"]
    assert found.examples == {SEVERAL_LISTS: [(str(tmp_path / "a.json"), "'train', and not 'test'")]}


@pytest.mark.parametrize(
    ("name", "layout"),
    [("a.jsonl", "{}\n{}"), ("a.json", "{}\n{}"), ("a.json", "[{}, {}]"), ("a.json", '{{"data": [{}, {}]}}')],
)
def test_a_name_given_twice_is_told(tmp_path: Path, layout: str, name: str) -> None:
    content = layout.format('{"text": "um", "text": "dois"}', '{"text": "tres"}')
    texts, found = read(tmp_path / name, content)
    assert texts == ["dois", "tres"]
    [(place, detail)] = found.examples[REPEATED_NAME]
    assert place.startswith(str(tmp_path / name))
    assert detail == "'text' is given twice"
    with pytest.raises(InputError, match="'text' is given twice"):
        list(read_rows([str(tmp_path / name)], on_bad_row="strict"))


def test_squads_own_layout_gives_a_row_for_each_question(tmp_path: Path) -> None:
    questions = [{"id": "q1", "question": "Quem?", "answers": [{"text": "Eu", "answer_start": 0}]}, {"id": "q2"}]
    article = {"title": "T", "paragraphs": [{"context": "Eu vim.", "qas": questions}]}
    (tmp_path / "a.json").write_text(json.dumps({"version": "1.1", "data": [article]}))
    rows = [row.fields for row in read_rows([str(tmp_path / "a.json")], text_column=None)]
    assert rows == [{"title": "T", "context": "Eu vim.", **question} for question in questions]


@pytest.mark.parametrize(
    ("paragraphs", "rows"),
    [
        ([{"context": "Eu vim."}, {"context": "Eu vi.", "qas": []}], ["Eu vim.", "Eu vi."]),
        (["Eu vim."], []),
        ([{"context": "Eu vim.", "qas": ["Quem?"]}], []),
        ([], []),
    ],
)
def test_paragraphs_in_another_layout_are_rows_or_told(tmp_path: Path, paragraphs: Any, rows: list[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}, {"context": "fim"}]}))
    found = BadRows()
    read = [row.text for row in read_rows([str(tmp_path / "a.json")], text_column="context", bad_rows=found)]
    assert read == [*rows, "fim"]
    assert found.total == (not rows)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('[{"text": "um"}, {"text": dois}, {"text": "tres"}]', ["um"]),
        ('[{"text": "um"}, {"text": "do', ["um"]),
        ('[{"text": "um"} {"text": "dois"}]', ["um"]),
        ('[{"text": "um"}', ["um"]),
        ('[{"text": "um"}] e mais', ["um"]),
        ('[{"text": "um"}, 7, {"text": "tres"}]', ["um", "tres"]),
    ],
)
def test_a_broken_array_is_read_as_far_as_it_goes_and_the_rest_is_counted(
    tmp_path: Path, content: str, texts: list[str]
) -> None:
    got, found = read(tmp_path / "a.json", content)
    assert got == texts
    assert found.counts == {BAD_JSON: 1}
    assert found.examples[BAD_JSON][0][0] in (f"{tmp_path / 'a.json'}:1", f"{tmp_path / 'a.json'}:object 2")
    assert bool(found.bytes_left_out) == (not content.endswith('"um"}'))


@pytest.mark.parametrize("content", ["7", '"texto"', "{", "[", "[]"])
def test_what_holds_no_rows_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="no document"):
        read(tmp_path / "a.json", content)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), min_size=1, max_size=5),
    size=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
)
def test_arrays_are_read_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], size: int, indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf8")
    before, json_files._BLOCK = json_files._BLOCK, size
    try:
        found = [dict(row.fields) for row in read_rows([str(path)], text_column=None)]
    finally:
        json_files._BLOCK = before
    assert found == rows


def test_a_page_is_what_a_reader_sees() -> None:
    page = """<!DOCTYPE html><html><head><title>A lavra</title><style>p {}</style></head><body>
    <script>if (a < b) {}</script><h1>Um &amp;
    dois</h1><p>A <b>palavra</b>,<br>aqui.</p><ul><li>a<li>b</ul>
    <table><tr><td>x</td><td>y</td></tr></table><pre>
  como
    est&aacute;</pre><!-- nada -->fim"""
    assert html_text(page).split("\n") == [
        *("A lavra", "", "Um & dois", "", "A palavra,", "aqui.", "", "a", "b", "", "x\ty", ""),
        *("  como", "    está", "", "fim"),
    ]


@pytest.mark.parametrize(
    "page", ["", "sem nada", "<p>um", "<head><body>um", "<title>um", "a < b", "<p a='", "</p></x>um"]
)
def test_unfinished_pages_are_read(page: str) -> None:
    assert ("um" in page) == ("um" in html_text(page))
